"""The base class of students: encoding strings, cloning, saving with the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import keras
import numpy as np
import tensorflow as tf

from kdkeras.errors import InputError
from kdkeras.layers import EmbeddingTable, FeatureModel, QuantizableDense
from kdkeras.layers.fake_quantization import QuantizationScheme, read_scheme
from kdkeras.students.certificate import Certificate
from kdkeras.vectors import unit_rows

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["Student"]


class Student(FeatureModel):
    """Base class of sentence encoders that can be trained and exported.

    A student maps `{"token_ids", "padding_mask"}` to one embedding per sentence.
    Its vocabulary is saved inside the `.keras` file. `output_specs()` lists the
    other outputs that can be requested.

    Args:
        vocabulary_size: Number of rows of the token table.
        output_dim: Width of the embedding. Use the teacher's.
        normalize: Whether embeddings are scaled to length 1. Use the teacher's
            setting. Default True.
        sequence_length: Maximum number of tokens per sentence; longer sentences
            are truncated. Default 128.
        vocabulary: The vocabulary, required to encode strings.
    """

    certificate: Certificate | None = None
    """The certificate of growth, factorization or merging, which returned this student.

    None for any other student. Not saved with the student.
    """

    def __init__(
        self,
        vocabulary_size: int,
        output_dim: int,
        *,
        normalize: bool = True,
        sequence_length: int = 128,
        vocabulary: Vocabulary | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, hint in (
            ("vocabulary_size", vocabulary_size, "the vocabulary's size"),
            ("output_dim", output_dim, "the teacher's width"),
            ("sequence_length", sequence_length, "64 or 128"),
        ):
            if value < 1:
                raise InputError(
                    f"`{name}` must be at least 1. Received: {name}={value}. Use {hint}."
                )
        self.vocabulary_size = int(vocabulary_size)
        self.output_dim = int(output_dim)
        self.normalize = bool(normalize)
        self.sequence_length = int(sequence_length)
        self._fake_quantization: QuantizationScheme | None = None
        self._set_vocabulary(vocabulary)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary, or None if the student only takes token ids."""
        return self._vocabulary_holder[0]

    @property
    def fake_quantization(self) -> QuantizationScheme | None:
        """The simulated quantization: `"int8"`, `"int4"`, or None (the default).

        If it is set, the student rounds weights and activations in the same way as
        its exported file. `kdkeras.training.QuantizationAwareTraining` sets it
        during training. The weights stay float32, and the setting is neither
        saved nor exported.

        Raises:
            InputError: When set to an unknown scheme, or if a dense layer of the
                student does not support it.
        """
        return self._fake_quantization

    @fake_quantization.setter
    def fake_quantization(self, name: str | None) -> None:
        scheme = read_scheme(name)
        layers = self._quantizable_layers()
        for layer in layers:
            if isinstance(layer, keras.layers.Dense) and not isinstance(layer, QuantizableDense):
                raise InputError(
                    "Fake quantization needs dense layers that support it. "
                    f"Received: {layer.name!r}, a {type(layer).__name__}. Make it a "
                    "kdkeras.layers.QuantizableDense."
                )
        for layer in layers:
            layer.fake_quantization = scheme
        self._fake_quantization = scheme
        self.__dict__.pop("_encode_functions", None)

    def _quantizable_layers(self) -> list[Any]:
        """Returns the layers to which fake quantization is applied."""
        kinds = (EmbeddingTable, keras.layers.Dense)
        layers = self._flatten_layers(include_self=False)
        return [layer for layer in layers if isinstance(layer, kinds)]

    def _set_vocabulary(self, vocabulary: Vocabulary | None) -> None:
        if vocabulary is not None and vocabulary.size != self.vocabulary_size:
            raise InputError(
                "The vocabulary must have as many tokens as the student's table has rows. "
                f"Received: {vocabulary.size} tokens, {self.vocabulary_size} rows. "
                "Use the vocabulary that the student was created with."
            )
        # The tuple prevents Keras from tracking the vocabulary as a part of the model.
        object.__setattr__(self, "_vocabulary_holder", (vocabulary,))

    def build(self, input_shape: Any = None) -> None:
        """Creates all weights."""
        if self.built:  # type: ignore[has-type]
            return
        self._build_layers()
        self.built = True

    def _build_layers(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must implement `_build_layers`.")

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """Returns `(B, output_dim)`."""
        return (input_shape["token_ids"][0], self.output_dim)

    def output_specs(self) -> dict[str, Any]:
        """Returns the available outputs by name: the embedding."""
        return {"embedding": keras.KerasTensor((None, self.output_dim))}

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled vectors, which are the inputs of the projection."""
        raise NotImplementedError(f"{type(self).__name__} must implement `pooled_dim`.")

    def pooled(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Returns the inputs of the projection, `(B, pooled_dim)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `pooled`.")

    def embed_pooled(self, pooled: Any) -> Any:
        """Returns the embeddings of pooled vectors, `(B, output_dim)` float32."""
        embedding = pooled if self.projection is None else self.projection(pooled)
        embedding = keras.ops.cast(embedding, "float32")
        return self.unit_norm(embedding) if self.normalize else embedding

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = 256,
        sequence_length: int | None = None,
        dim: int | None = None,
    ) -> np.ndarray:
        """Embeds sentences.

        Args:
            texts: `N` sentences.
            batch_size: Number of sentences per forward pass.
            sequence_length: Maximum number of tokens per sentence, at most the
                student's `sequence_length`, which is the default.
            dim: Number of leading components to keep, for students trained with
                `Matryoshka`. The shorter vectors are scaled to length 1 if the
                student normalizes. Default all components.

        Returns:
            `(N, dim)` float32, in the order of `texts`.

        Raises:
            InputError: If the student has no vocabulary, `texts` is a single
                string, or an argument is out of range.
        """
        if dim is not None and not 1 <= dim <= self.output_dim:
            raise InputError(
                f"`dim` must be between 1 and {self.output_dim}, the student's width. "
                f"Received: dim={dim}. Omit it for all components."
            )
        vectors = self._embed(texts, batch_size, sequence_length, self.output_dim, "call")
        if dim is None:
            return vectors
        vectors = vectors[:, :dim]
        if not self.normalize:
            return vectors
        return unit_rows(vectors)

    def encode_pooled(
        self, texts: Sequence[str], batch_size: int = 256, sequence_length: int | None = None
    ) -> np.ndarray:
        """Computes the inputs of the projection, for `fit_projection`.

        Args:
            texts: `N` sentences.
            batch_size: Number of sentences per forward pass.
            sequence_length: As for `encode`.

        Returns:
            `(N, pooled_dim)` float32, in the order of `texts`.

        Raises:
            InputError: As for `encode`.
        """
        return self._embed(texts, batch_size, sequence_length, self.pooled_dim, "pooled")

    def _embed(
        self,
        texts: Sequence[str],
        batch_size: int,
        sequence_length: int | None,
        width: int,
        method: str,
    ) -> np.ndarray:
        if isinstance(texts, str):
            raise InputError(
                f"`texts` must be a list of strings. Received: {texts!r}. Write [text]."
            )
        if self.vocabulary is None:
            raise InputError(
                "Strings need a vocabulary. Received: a student without one. "
                "Create it with vocabulary=..., or call it with token ids."
            )
        length = self.sequence_length if sequence_length is None else sequence_length
        if not 1 <= length <= self.sequence_length:
            raise InputError(
                f"`sequence_length` must be between 1 and {self.sequence_length}, the student's. "
                f"Received: sequence_length={length}. Omit it for the maximum."
            )
        if batch_size < 1:
            raise InputError(
                f"`batch_size` must be at least 1. Received: batch_size={batch_size}. Use 256."
            )
        vectors = np.zeros((len(texts), width), np.float32)
        # Batches of sentences of similar length need less padding and fewer shapes.
        order = np.argsort([len(text) for text in texts], kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = self.vocabulary.encode([texts[i] for i in rows], length)
            padded = _padded(batch, batch_size, self.sequence_length)
            vectors[rows] = self._compiled(method)(padded)[: len(rows)]
        return vectors

    def _compiled(self, method: str) -> Callable[[dict[str, np.ndarray]], Any]:
        """Returns a compiled method. Calling the model itself applies its dtype policy."""
        functions = self.__dict__.setdefault("_encode_functions", {})
        if method not in functions:
            apply = self if method == "call" else self.pooled
            functions[method] = tf.function(
                lambda inputs: tf.cast(apply(inputs, training=False), tf.float32),
                reduce_retracing=True,
            )
        return lambda batch: functions[method]({k: tf.constant(v) for k, v in batch.items()})

    def clone(
        self,
        *,
        vocabulary: Vocabulary | None = None,
        copy_weights: bool = True,
        **changes: Any,
    ) -> Self:
        """Creates a student of the same class with other constructor arguments.

        The clone has weights of its own. Fake quantization is off in the clone,
        and a grown student's certificate is not copied.

        Args:
            vocabulary: A vocabulary that replaces the student's; `vocabulary_size`
                then defaults to its size. None (the default) keeps the student's.
            copy_weights: Whether to copy the weights. Set it to False if the
                changes alter the shapes of weights; the clone then starts with
                new, untrained ones.
            **changes: Constructor arguments that differ from the student's,
                e.g. `dtype="mixed_bfloat16"` or `sequence_length=64`.

        Returns:
            The new student. The original is unchanged.

        Raises:
            InputError: If the constructor has no such argument, or if
                `copy_weights` is True and the weights do not fit: because their
                shapes differ, or because `vocabulary` has other tokens than the
                student's, which own the rows of its token table.

        Example:
        >>> from kdkeras.students import StaticStudent
        >>> student = StaticStudent(vocabulary_size=20, output_dim=5, embedding_dim=8)
        >>> student.clone(normalize=False, name="unnormalized").get_weights()[0].shape
        (20, 8)
        >>> student.clone(output_dim=3, copy_weights=False).output_dim
        3
        """
        config = self.get_config()
        unknown = sorted(set(changes) - set(config))
        if unknown:
            raise InputError(
                f"`clone` changes constructor arguments of {type(self).__name__}. Received: "
                f"{', '.join(unknown)}. Use some of {', '.join(sorted(config))}."
            )
        if vocabulary is not None:
            changes = {"vocabulary_size": vocabulary.size, **changes}
        copy = type(self).from_config({**config, **changes})
        copy._set_vocabulary(vocabulary or self.vocabulary)
        if copy_weights:
            self._copy_weights_to(copy, vocabulary, changes)
        return copy

    def _copy_weights_to(
        self, copy: Student, vocabulary: Vocabulary | None, changes: dict[str, Any]
    ) -> None:
        """Copies all weights into a clone, if they fit."""
        if vocabulary and self.vocabulary and vocabulary.tokens != self.vocabulary.tokens:
            raise InputError(
                "Weights can be copied only to a student with the same tokens. Received: "
                "`vocabulary` with other tokens than the student's. Pass copy_weights=False and "
                "set the weights, or use kdkeras.compression to change a vocabulary."
            )
        if [tuple(w.shape) for w in self.weights] != [tuple(w.shape) for w in copy.weights]:
            config = self.get_config()
            different = (
                f"{k}={v} ({config[k]} before)" for k, v in changes.items() if v != config[k]
            )
            raise InputError(
                "Weights can be copied only if their shapes stay the same. Received: "
                f"{', '.join(different)}. Pass copy_weights=False and set the weights."
            )
        copy.set_weights(self.get_weights())

    def save_assets(self, dir_path: str) -> None:
        """Keras hook: saves the vocabulary in the `.keras` file."""
        if self.vocabulary is not None:
            self.vocabulary.save(Path(dir_path) / "vocabulary", overwrite=True)

    def load_assets(self, dir_path: str) -> None:
        """Keras hook: loads the vocabulary from the `.keras` file."""
        from kdkeras.data.vocabularies import load_vocabulary

        folder = Path(dir_path) / "vocabulary"
        if folder.exists():
            self._set_vocabulary(load_vocabulary(folder))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, without the vocabulary."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "vocabulary_size": self.vocabulary_size,
            "output_dim": self.output_dim,
            "normalize": self.normalize,
            "sequence_length": self.sequence_length,
        }


def _padded(batch: dict[str, np.ndarray], rows: int, max_length: int) -> dict[str, np.ndarray]:
    """Pads lengths to multiples of 8 (at most `max_length`), and more than half full batches."""
    length = batch["token_ids"].shape[1]
    columns = min(max_length, max(8, -(-length // 8) * 8)) - length
    missing = rows - len(batch["token_ids"]) if len(batch["token_ids"]) > rows // 2 else 0
    return {key: np.pad(value, ((0, missing), (0, columns))) for key, value in batch.items()}
