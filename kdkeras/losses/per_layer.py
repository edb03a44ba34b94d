"""An embedding after every layer, so that a student can be cut."""

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
    """Averages a loss on embeddings over the layers of the student.

    Each layer's states are pooled, projected and scaled as the last one's are,
    and pulled to the same target. A student trained so can be cut after any of
    the layers: `student.truncated(2)`. For a layer that shall weigh more, use a
    second `PerLayer(..., layers=[2])` with a weight of its own. Cost: that of
    the loss, once a layer; the student runs once.

    Formula:

    ```
    loss = mean over layers k of inner(teacher, layer_embeddings[k])
    ```

    Args:
        inner: A `DistillationLoss` on embeddings. Its target and what else it
            needs are this loss's, too.
        layers: Numbers of the layers, from 1 (0 is what enters the first), -1
            for the last. None (the default) for all from 1.

    Call arguments:
        y_true: What `inner` takes, e.g. `(B, d)` float.
        y_pred: The student's `layer_embeddings`, a list of `(B, d)`, that of
            layer 0 first.

    Returns:
        `(B,)` float32.

    Raises:
        InputError: If `inner` is no loss on embeddings, a layer is not there,
            or the shapes differ.

    References:
        Li et al. (2024), 2D Matryoshka Sentence Embeddings, arXiv:2402.14776,
        section 3 (there one random layer a step; here all of them).
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
        """Creates nothing: the inner loss is built where it is called."""

    @property
    def student_output(self) -> str:
        """An embedding for each layer."""
        return "layer_embeddings"

    @property
    def compares_rows(self) -> bool:  # type: ignore[override]
        """Whether the inner loss does."""
        return self.inner.compares_rows

    @property
    def may_be_negative(self) -> bool:  # type: ignore[override]
        """Whether the inner loss may."""
        return self.inner.may_be_negative

    def check_student(self, student: Any) -> None:
        """Refuses layers that are not there, and what `inner` refuses of each."""
        for embedding in self._chosen(student):
            self.inner.check_student(embedding)

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses layers that are not there, and what `inner` refuses of each."""
        for embedding in self._chosen(student):
            self.inner.check_shapes(teacher, self.inner.project(embedding))

    def loss(self, teacher: Any, student: Any, *args: Any, **parts: Any) -> Any:
        """Returns the mean over the layers, `(B,)`."""
        values = [self.inner(teacher, embedding, **parts) for embedding in self._chosen(student)]
        return sum(values[1:], values[0]) / len(values)

    def after_step(self, targets: Mapping[str, Any], kept: Any) -> None:
        """Tells the inner loss."""
        self.inner.after_step(targets, kept)

    def _chosen(self, student: Any) -> list[Any]:
        layers = self.layers
        if layers is None:
            # What is no list is refused by `pick`.
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
        """Creates a loss from `get_config()`."""
        inner = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**{**config, "inner": inner})
