"""Losses on the first components of embeddings, which can then be truncated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kdkeras.errors import InputError
from kdkeras.layers.feature_model import FEATURES
from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.base import AlignmentLoss, DistillationLoss, ExampleLoss
from kdkeras.losses.checks import positive

__all__ = ["Matryoshka", "MatryoshkaAlignment", "principal_axes"]


@keras.saving.register_keras_serializable(package="kdkeras")
class Matryoshka(DistillationLoss):
    """Applies a loss to the first components of teacher and student, for several widths.

    A student trained with it can be truncated to any of these widths. The first
    components of a teacher carry no more information than the last ones, so
    both sides are rotated before they are truncated:
    `rotation=principal_axes(teacher_embeddings)`. The rotation is inside the loss
    only: the student is trained in the teacher's space, and the full width can be
    compared with the teacher's embeddings.

    To truncate the trained student, rotate it once:
    `rotate_projection(student, rotation)`, then `student.encode(texts, dim=64)`.
    Cosines between its embeddings do not change; the teacher's embeddings must be
    rotated too (`teacher @ rotation`) before they are compared with it.

    Formula:

    ```
    t, s = teacher @ rotation, student @ rotation
    loss = sum_k(dim_weights[k] * inner(t[:dims[k]] / |t[:dims[k]]|, s[:dims[k]] / |s[:dims[k]]|))
    ```

    Cost: that of `inner` at each width, and `2 * B * d^2` for the rotation.

    Args:
        inner: The wrapped loss, without weights of its own.
        dims: Widths, each at least 1 and at most that of the embeddings. The
            full width is included only if listed.
        dim_weights: Weight of each width, above 0. Defaults to None: 1.0 for
            each.
        rotation: Orthonormal matrix `(d, d)`, saved with the loss as a weight
            that is not trained; or only its width `d`, for the identity until
            weights are loaded. Defaults to None: no rotation.

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings, not rotated.
        y_pred: `(B, d)` float, the student's embeddings, not rotated.
        **parts: Keyword arguments in `needs` and `takes` of `inner`.

    Returns:
        `(B,)` float32.

    Raises:
        InputError: If widths, weights or the rotation do not fit, or `inner`
            has weights.

    References:
        Kusupati et al. (2022), arXiv:2205.13147, equation 1.
    """

    def __init__(
        self,
        inner: DistillationLoss,
        dims: Sequence[int],
        dim_weights: Sequence[float] | None = None,
        rotation: np.ndarray | Sequence[Sequence[float]] | int | None = None,
        name: str = "matryoshka",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=_without_weights(inner).target, name=name, **kwargs)
        self.inner = inner
        self.dims = _checked_dims(dims)
        self.dim_weights = _checked_weights(dim_weights, self.dims)
        self.built = True  # The weights do not depend on the shape of the inputs.
        axes = None if rotation is None else _checked_rotation(rotation)
        self.rotation = None if axes is None else len(axes)
        self.axes = None
        if axes is not None:
            self.axes = self.add_weight(
                shape=axes.shape,
                initializer=lambda shape, dtype: ops.convert_to_tensor(axes, dtype),
                trainable=False,
                name="rotation",
            )

    @property
    def needs(self) -> Mapping[str, str]:  # type: ignore[override]
        """The value of the wrapped loss."""
        return self.inner.needs

    @property
    def takes(self) -> Mapping[str, str]:  # type: ignore[override]
        """The value of the wrapped loss."""
        return self.inner.takes

    @property
    def source_only(self) -> bool:  # type: ignore[override]
        """The value of the wrapped loss."""
        return self.inner.source_only

    @property
    def compares_rows(self) -> bool:  # type: ignore[override]
        """The value of the wrapped loss."""
        return self.inner.compares_rows

    @property
    def may_be_negative(self) -> bool:  # type: ignore[override]
        """The value of the wrapped loss."""
        return self.inner.may_be_negative

    def check_student(self, student: Any) -> None:
        """Refuses embeddings that are narrower than a width."""
        _check_width(self.dims, student)

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses embeddings that are narrower than a width, or do not fit the rotation.

        Raises:
            InputError: If the shapes cannot match.
        """
        super().check_shapes(teacher, student)
        _check_width(self.dims, student)
        if self.rotation is None:
            return
        for name, vectors in (("teacher", teacher), ("student", student)):
            if vectors.shape[-1] != self.rotation:
                raise InputError(
                    f"The rotation must have the width of both sides. Received: {name} "
                    f"{tuple(vectors.shape)}, a rotation of width {self.rotation}. Fit "
                    "principal_axes() on this teacher's embeddings, and use its width."
                )

    def loss(self, teacher: Any, student: Any, *_: Any, **parts: Any) -> Any:
        """Returns the weighted sum over the widths, `(B,)`."""
        if self.axes is not None:
            teacher, student = ops.matmul(teacher, self.axes), ops.matmul(student, self.axes)
        return _sum_over_prefixes(self, teacher, student, parts)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with only the width of the rotation."""
        config = {**super().get_config(), **_config(self), "rotation": self.rotation}
        del config["target"]
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Matryoshka:
        """Creates the loss from `get_config()`."""
        inner = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**{**config, "inner": inner})


@keras.saving.register_keras_serializable(package="kdkeras")
class MatryoshkaAlignment(AlignmentLoss):
    """Applies an alignment loss to the first components of both sides, for several widths.

    Use it with `Matryoshka` if the alignment of languages should also hold
    for truncated embeddings. Teacher targets that the wrapped loss reads are
    passed on unchanged.

    Formula:

    ```
    loss = sum_k(dim_weights[k] * inner(source[:dims[k]] / |source[:dims[k]]|,
                                        translation[:dims[k]] / |translation[:dims[k]]|))
    ```

    Cost: that of `inner` at each width.

    Args:
        inner: The wrapped loss, without weights of its own.
        dims: Widths, each at least 1 and at most that of the embeddings. The
            full width is included only if listed.
        dim_weights: Weight of each width, above 0. Defaults to None: 1.0 for
            each.

    Call arguments:
        source: `(B, d)` float, the student's embeddings of the sentences.
        translation: `(B, d)` float, the student's embeddings of their
            translations.
        **parts: Keyword arguments in `needs` and `takes` of `inner`.

    Returns:
        `(B,)` float32.

    Raises:
        InputError: If widths or weights do not fit, or `inner` has weights.

    References:
        Kusupati et al. (2022), arXiv:2205.13147, equation 1.
    """

    def __init__(
        self,
        inner: AlignmentLoss,
        dims: Sequence[int],
        dim_weights: Sequence[float] | None = None,
        name: str = "matryoshka_alignment",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.inner = _without_weights(inner)
        self.dims = _checked_dims(dims)
        self.dim_weights = _checked_weights(dim_weights, self.dims)
        self.built = True  # The weights do not depend on the shape of the inputs.

    @property
    def needs(self) -> Mapping[str, str]:  # type: ignore[override]
        """The value of the wrapped loss."""
        return self.inner.needs

    @property
    def takes(self) -> Mapping[str, str]:  # type: ignore[override]
        """The value of the wrapped loss."""
        return self.inner.takes

    @property
    def compares_rows(self) -> bool:  # type: ignore[override]
        """The value of the wrapped loss."""
        return self.inner.compares_rows

    @property
    def may_be_negative(self) -> bool:  # type: ignore[override]
        """The value of the wrapped loss."""
        return self.inner.may_be_negative

    def check_student(self, student: Any) -> None:
        """Refuses embeddings that are narrower than a width."""
        _check_width(self.dims, student)

    def call(self, source: Any, translation: Any, **parts: Any) -> Any:
        """Returns the weighted sum over the widths, `(B,)`."""
        source, translation = (ops.cast(side, "float32") for side in (source, translation))
        _check_width(self.dims, source)
        return _sum_over_prefixes(self, source, translation, parts)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), **_config(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MatryoshkaAlignment:
        """Creates the loss from `get_config()`."""
        inner = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**{**config, "inner": inner})


def _sum_over_prefixes(loss: Any, one: Any, other: Any, parts: Mapping[str, Any]) -> Any:
    values = [
        weight * loss.inner(l2_normalize(one[..., :dim]), l2_normalize(other[..., :dim]), **parts)
        for dim, weight in zip(loss.dims, loss.dim_weights or [1.0] * len(loss.dims), strict=True)
    ]
    return sum(values[1:], values[0])


def _config(loss: Any) -> dict[str, Any]:
    return {
        "inner": keras.saving.serialize_keras_object(loss.inner),
        "dims": loss.dims,
        "dim_weights": loss.dim_weights,
    }


def _without_weights(inner: Any) -> Any:
    if getattr(inner, "student_output", None) in FEATURES:
        raise InputError(
            "A wrapped loss must accept embeddings of any width. Received: "
            f"{type(inner).__name__}, which reads layers. Use PerLayer(Matryoshka(...)) instead."
        )
    if not isinstance(inner, ExampleLoss) or inner.weights:
        reason = "has weights" if isinstance(inner, ExampleLoss) else "is not a loss of kdkeras"
        raise InputError(
            "A wrapped loss must accept embeddings of any width. Received: "
            f"{type(inner).__name__}, which {reason}. Use one without projection or queue."
        )
    return inner


def _checked_dims(dims: Sequence[int]) -> list[int]:
    found = [int(dim) for dim in dims]
    if not found or min(found) < 1 or len(set(found)) < len(found):
        raise InputError(
            f"`dims` must be different widths, each at least 1. Received: dims={found}. "
            "Use e.g. [64, 128, 384], including the full width."
        )
    return found


def _checked_weights(weights: Sequence[float] | None, dims: list[int]) -> list[float] | None:
    if weights is None:
        return None
    found = [positive("dim_weights", weight) for weight in weights]
    if len(found) != len(dims):
        raise InputError(
            f"`dim_weights` must have one weight per width. Received: {len(found)} weights for "
            f"dims={dims}. Omit it for 1.0 each."
        )
    return found


def _checked_rotation(rotation: Any) -> np.ndarray:
    if isinstance(rotation, int):
        return np.eye(rotation, dtype=np.float32)
    axes = np.asarray(rotation, np.float64)
    square = axes.ndim == 2 and axes.shape[0] == axes.shape[1]
    # `not (... < ...)`, to refuse NaN.
    if not (square and np.abs(axes.T @ axes - np.eye(len(axes))).max() < 1e-3):
        raise InputError(
            "`rotation` must be an orthonormal (d, d) matrix. Received: an array of shape "
            f"{axes.shape}{', not orthonormal' if square else ''}. Use principal_axes(embeddings)."
        )
    return axes.astype(np.float32)


def _check_width(dims: list[int], vectors: Any) -> None:
    if vectors.shape[-1] is not None and max(dims) > vectors.shape[-1]:
        raise InputError(
            f"`dims` must not exceed the width of the embeddings. Received: dims={dims}, student "
            f"{tuple(vectors.shape)}. Use at most {vectors.shape[-1]}."
        )


def principal_axes(vectors: np.ndarray) -> np.ndarray:
    """Returns the rotation that concentrates embeddings in their first components.

    The axes are the eigenvectors of the second moments about the origin, not
    about the mean. A rotation preserves every cosine, and of all linear maps to
    `k` components the first `k` axes have the smallest squared error.

    Args:
        vectors: `(n, d)` float, embeddings of a teacher, where `n` is several
            times `d`.

    Returns:
        `(d, d)` float32, orthonormal. The squares of the components of
        `vectors @ axes` decrease. The largest entry of each axis is positive.

    Raises:
        InputError: If `vectors` is not a matrix of finite numbers, or has no
            row.

    Example:
    >>> principal_axes(np.array([[0.0, 2.0], [1.0, 0.0]])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]

    References:
        Eckart, Young (1936).
    """
    vectors = np.asarray(vectors, np.float64)
    finite = np.isfinite(vectors).all()
    if vectors.ndim != 2 or not len(vectors) or not finite:
        raise InputError(
            "`vectors` must be finite, one row per sentence. Received: an array of shape "
            f"{vectors.shape}{'' if finite else ' with NaN or infinity'}. "
            "Pass the teacher's embeddings of several thousand sentences."
        )
    _, axes = np.linalg.eigh(vectors.T @ vectors)  # ascending
    axes = axes[:, ::-1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return (axes * np.sign(largest)).astype(np.float32)
