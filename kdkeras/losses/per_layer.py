"""A loss on embeddings, applied after every layer of the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kdkeras.errors import InputError
from kdkeras.layers.feature_model import FEATURES
from kdkeras.losses.base import DistillationLoss
from kdkeras.losses.token_layers import pick

__all__ = ["PerLayer"]


@keras.saving.register_keras_serializable(package="kdkeras")
class PerLayer(DistillationLoss):
    """Computes the mean of a loss on embeddings over the layers of the student.

    Use it for a student that will be truncated to fewer layers later, with
    `student.truncated(2)`. The states of each layer are pooled, projected and
    scaled in the same way as those of the last layer, and compared with the
    same target. To give a layer more weight, add a second
    `PerLayer(..., layers=[2])` with its own loss weight. If the student is
    never truncated, use the wrapped loss alone.

    Cost: that of the wrapped loss, once per layer. The student runs once.

    Formula:

    ```
    loss = mean over layers k of inner(teacher, layer_embeddings[k])
    ```

    Args:
        inner: The wrapped `DistillationLoss` on embeddings; its target and
            required batch parts become those of this loss.
        layers: Numbers of the layers, from 1; 0 is the input of the first
            layer, -1 the last layer. Defaults to None: all layers from 1.

    Call arguments:
        y_true: The target of `inner`, e.g. `(B, d)` float.
        y_pred: The student's `layer_embeddings`: a list of `(B, d)` float,
            layer 0 first.
        **parts: Keyword arguments in `needs` and `takes` of `inner`.

    Returns:
        `(B,)` float32.

    Raises:
        InputError: If `inner` is not a loss on embeddings, a layer does not
            exist, or the shapes differ.

    References:
        Li et al. (2024), 2D Matryoshka Sentence Embeddings, arXiv:2402.14776,
        section 3 (there one random layer per step, here all layers).
    """

    def __init__(
        self,
        inner: DistillationLoss,
        layers: Sequence[int] | None = None,
        name: str = "per_layer",
        **kwargs: Any,
    ) -> None:
        if not isinstance(inner, DistillationLoss) or inner.student_output in FEATURES:
            raise InputError(
                "`inner` must be a DistillationLoss on embeddings. Received: inner="
                f"{getattr(inner, 'name', inner)!r}. Use e.g. EmbeddingDistillation()."
            )
        super().__init__(target=inner.target, name=name, **kwargs)
        if layers is not None and not layers:
            raise InputError(
                "`layers` must name at least one layer. Received: layers=[]. Use None for all."
            )
        self.inner = inner
        self.layers = None if layers is None else [int(layer) for layer in layers]
        self.needs, self.takes = dict(inner.needs), dict(inner.takes)
        self.source_only, self.has_memory = inner.source_only, inner.has_memory

    def build(self, y_true_shape: Any, y_pred_shape: Any) -> None:
        """Does nothing: the wrapped loss is built when it is called."""

    @property
    def student_output(self) -> str:
        """The student's embeddings after each layer."""
        return "layer_embeddings"

    @property
    def compares_rows(self) -> bool:  # type: ignore[override]
        """The value of the wrapped loss."""
        return self.inner.compares_rows

    @property
    def may_be_negative(self) -> bool:  # type: ignore[override]
        """The value of the wrapped loss."""
        return self.inner.may_be_negative

    def check_student(self, student: Any) -> None:
        """Refuses missing layers, and layers that the wrapped loss refuses."""
        for embedding in self._chosen(student):
            self.inner.check_student(embedding)

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses missing layers, and layers that the wrapped loss refuses."""
        for embedding in self._chosen(student):
            self.inner.check_shapes(teacher, self.inner.project(embedding))

    def loss(self, teacher: Any, student: Any, *args: Any, **parts: Any) -> Any:
        """Returns the mean over the layers, `(B,)`."""
        values = [self.inner(teacher, embedding, **parts) for embedding in self._chosen(student)]
        return sum(values[1:], values[0]) / len(values)

    def after_step(self, targets: Mapping[str, Any], kept: Any) -> None:
        """Updates the state of the wrapped loss."""
        self.inner.after_step(targets, kept)

    def _chosen(self, student: Any) -> list[Any]:
        layers = self.layers
        if layers is None:
            # `pick` refuses anything else than a list.
            count = len(student) if isinstance(student, list | tuple) else 2
            layers = list(range(1, count))
        return [pick(student, layer, "student", self.name) for layer in layers]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["target"]
        return {
            **config,
            "inner": keras.saving.serialize_keras_object(self.inner),
            "layers": None if self.layers is None else list(self.layers),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PerLayer:
        """Creates the loss from `get_config()`."""
        inner = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**{**config, "inner": inner})
