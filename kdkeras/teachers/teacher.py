"""Teachers: trained sentence encoders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tokenizers

from kdkeras.errors import InputError
from kdkeras.progress import Progress, no_progress
from kdkeras.teachers.sentence_encoder import SentenceEncoder
from kdkeras.teachers.snapshot import Snapshot

__all__ = ["Teacher"]

_TASK = "Embedding sentences"
# Number of sentences that are sorted by length at once. Batches then need little padding,
# and memory does not grow with the number of sentences.
_WINDOW = 16_384
# Lengths are rounded up to one of these, so that few shapes are compiled and allocated.
_LENGTHS = (4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)


class Teacher:
    """A trained sentence encoder whose embeddings are the targets of a student.

    Use `kdkeras.teachers.load` to create it. The embedding of a sentence does not
    depend on the other sentences (up to float32 rounding).

    Any other encoder can be a teacher. Depending on its use, it needs a part of this
    interface:

    - `kdkeras.data.write_distillation_set` (cached embeddings): the attributes
      `name`, `fingerprint`, `embedding_dim` and `normalized`, and the method
      `encode(texts, batch_size, progress)`.
    - `Distiller(student, teacher=...)` (targets computed in the training step): a
      Keras model such as `model`, which maps `{"token_ids", "padding_mask"}` to
      `(batch, embedding_dim)`; a `kdkeras.layers.FeatureModel` if losses request
      other outputs.
    - `kdkeras.evaluation`: the method `encode(texts)`.
    - `kdkeras.students.initialize_from_teacher`: a `Teacher`.

    `encode` returns `(len(texts), embedding_dim)` float32 in the order of `texts`.
    It may report its progress by `progress(task, done, total)`. `fingerprint` is a
    string that changes whenever the embeddings change, so that cached embeddings
    of another version are not used by mistake.

    Attributes:
        name: Name of the teacher in reports.
        fingerprint: SHA-256 (hex) of the files that determine the embeddings.
        embedding_dim: Width of the embeddings.
        normalized: Whether embeddings have length 1.
        sequence_length: Maximum number of tokens; longer sentences are truncated.
        model: The frozen Keras model, a `kdkeras.layers.FeatureModel` that maps
            `{"token_ids", "padding_mask"}` to `(batch, embedding_dim)`.

    Example:
        ```python
        class MyTeacher:
            name, fingerprint = "my-encoder", "my-encoder, version 3"
            embedding_dim, normalized = 768, True

            def encode(self, texts, batch_size=64, progress=None):
                return my_encoder.embed(list(texts)).astype("float32")


        kdkeras.data.write_distillation_set(groups, MyTeacher(), "sets/mine")
        ```
    """

    def __init__(
        self,
        name: str,
        snapshot: Snapshot,
        model: SentenceEncoder,
        tokenizer: tokenizers.Tokenizer,
    ) -> None:
        self.name = name
        self.fingerprint = snapshot.fingerprint
        self.normalized = snapshot.normalized
        self.sequence_length = snapshot.sequence_length
        self.model = model
        self.embedding_dim = snapshot.embedding_dim
        self._prompt = snapshot.prompt
        self._lowercase = snapshot.lowercase
        self._pad_id = int(snapshot.config.get("pad_token_id") or 0)
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().values()
        self._special_tokens = {token.content for token in added if token.special}
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.sequence_length)
        specification = tf.TensorSpec([None, None], tf.int32)
        # One trace for all shapes.
        self._forward = tf.function(
            lambda token_ids, padding_mask: model(
                {"token_ids": token_ids, "padding_mask": padding_mask}
            ),
            input_signature=[specification, specification],
            autograph=False,
        )

    def __repr__(self) -> str:
        return (
            f"Teacher(name={self.name!r}, embedding_dim={self.embedding_dim}, "
            f"normalized={self.normalized}, sequence_length={self.sequence_length})"
        )

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Tokenizes sentences and pads them to the longest one.

        Returns:
            `{"token_ids", "padding_mask"}`, each `(len(texts), length)` int32
            with `length <= sequence_length`; 1 = real token in the mask.

        Raises:
            InputError: If `texts` is not a sequence of strings.
        """
        ids = self._ids(_checked(texts))
        return self._pad(ids, max((len(row) for row in ids), default=0))

    def encode(
        self, texts: Sequence[str], batch_size: int = 64, progress: Progress = no_progress
    ) -> np.ndarray:
        """Embeds sentences.

        Args:
            texts: The sentences.
            batch_size: Number of sentences per forward pass.
            progress: Called as `progress(task, done, total)`, in sentences.

        Returns:
            `(len(texts), embedding_dim)` float32, in the order of `texts`.

        Raises:
            InputError: If `texts` is not a sequence of strings or `batch_size`
                is not positive.
        """
        texts = _checked(texts)
        if batch_size < 1:
            raise InputError(
                f"`batch_size` must be positive. Received: batch_size={batch_size}. Use 64."
            )
        vectors = np.zeros((len(texts), self.embedding_dim), np.float32)
        progress(_TASK, 0, len(texts))
        for start in range(0, len(texts), _WINDOW):
            ids = self._ids(texts[start : start + _WINDOW])
            order = np.argsort([len(row) for row in ids], kind="stable")
            for first in range(0, len(ids), batch_size):
                rows = order[first : first + batch_size]
                vectors[start + rows] = self._embed([ids[row] for row in rows])
                progress(_TASK, start + first + len(rows), len(texts))
        return vectors

    def token_embeddings(self) -> tuple[list[str], np.ndarray]:
        """Returns the subword table.

        Returns:
            The tokens in the order of their ids, and their input vectors (before
            positions and normalization), `(len(tokens), hidden_dim)` float32.
        """
        table = np.asarray(self.model.backbone.token_embedding.embeddings, np.float32)
        # A table may have more rows than the tokenizer has tokens.
        size = min(self._tokenizer.get_vocab_size(), len(table))
        tokens = [self._tokenizer.id_to_token(row) or f"[unused{row}]" for row in range(size)]
        return tokens, table[:size]

    def surface(self, token: str) -> tuple[str, bool]:
        """Returns the text of a token, and whether the token starts a word.

        Special tokens have no text: `("", False)`.
        """
        if token in self._special_tokens:
            return "", False
        prefix = getattr(self._tokenizer.model, "continuing_subword_prefix", None)
        if prefix is not None:
            return token.removeprefix(prefix), not token.startswith(prefix)
        return token.removeprefix("▁"), token.startswith("▁")

    def pieces(self, text: str) -> list[int] | None:
        """Returns the ids of the subwords of a text, or None if one is unknown."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        if not encoding.ids or unknown in encoding.tokens:
            return None
        return list(encoding.ids)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        prepared = [self._prompt + text for text in texts]
        if self._lowercase:
            prepared = [text.lower() for text in prepared]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(prepared)]

    def _pad(self, ids: list[list[int]], length: int) -> dict[str, np.ndarray]:
        token_ids = np.full((len(ids), length), self._pad_id, np.int32)
        padding_mask = np.zeros((len(ids), length), np.int32)
        for row, values in enumerate(ids):
            token_ids[row, : len(values)] = values
            padding_mask[row, : len(values)] = 1
        return {"token_ids": token_ids, "padding_mask": padding_mask}

    def _embed(self, ids: list[list[int]]) -> np.ndarray:
        longest = max(len(row) for row in ids)
        length = next((limit for limit in _LENGTHS if limit >= longest), longest)
        batch = self._pad(ids, min(length, self.sequence_length))
        return self._forward(batch["token_ids"], batch["padding_mask"]).numpy()


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"`texts` must be a list of strings. Received: {type(texts).__name__} {texts!r:.60}. "
            "Put a single sentence in a list: [text]."
        )
    return texts
