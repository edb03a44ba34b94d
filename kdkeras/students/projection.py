"""Closed-form initialization and changes of a student's projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from kdkeras.data import DistillationSet
from kdkeras.errors import InputError
from kdkeras.layers import FactorizedDense
from kdkeras.students.student import Student
from kdkeras.vectors import cosine_by_row

__all__ = [
    "ProjectionFit",
    "ProjectionMethod",
    "fit_projection",
    "fold_projection",
    "require_projection",
    "rotate_projection",
]


class ProjectionMethod(StrEnum):
    """Methods of `fit_projection`."""

    PROCRUSTES = "procrustes"
    WHITENING = "whitening"
    RIDGE = "ridge"


@dataclass(frozen=True, kw_only=True)
class ProjectionFit:
    """Result of `fit_projection`.

    Attributes:
        rows: Number of vectors used.
        cosine_before: Mean cosine similarity between the embeddings of student and
            teacher before the fit; None without teacher embeddings.
        cosine_after: The same after the fit.
    """

    rows: int
    cosine_before: float | None
    cosine_after: float | None


def fit_projection(
    student: Student,
    data: DistillationSet | Sequence[str] | np.ndarray,
    teacher_embeddings: np.ndarray | None = None,
    *,
    method: str = ProjectionMethod.RIDGE,
    ridge: float = 1e-3,
    max_sentences: int = 50_000,
    batch_size: int = 256,
) -> ProjectionFit:
    """Fits the last layer of a student (`student.projection`) in closed form.

    The embedding is a linear function of the pooled vector, so the best projection
    can be computed without training. All other weights are unchanged; initialize
    the token vectors first (`initialize_from_teacher`).

    Formula, with the centered pooled vectors `H`, `(n, p)`, and teacher embeddings
    `T`, `(n, d)`:

    ```
    procrustes: kernel = s * U @ V.T,  H.T @ T = U @ S @ V.T,  s = least squares
    ridge:      kernel = inverse(H.T @ H / n + ridge * mean variance * I) @ H.T @ T / n
    whitening:  kernel = E @ diag(variances ** -0.5),  H.T @ H / n = E @ diag(variances) @ E.T
    bias = mean of teacher embeddings (whitening: 0) - mean of pooled vectors @ kernel
    ```

    `"ridge"` comes nearest to the teacher. `"procrustes"` preserves all angles
    between pooled vectors (if `p <= d`); use it if the pooled vectors are already
    good. `"whitening"` takes the `d` directions of largest variance and scales
    each to variance 1; with teacher embeddings, the result is rotated towards
    them, which preserves the variances. If the student normalizes, embeddings are
    scaled to length 1 as usual.

    Args:
        student: A student with a projection. It is changed.
        data: A distillation set, in which each sentence is paired with the teacher
            embedding of its group; or `n` sentences; or pooled vectors `(n, p)`,
            the inputs of the projection (`student.encode_pooled`).
        teacher_embeddings: `(n, output_dim)`, one embedding per sentence or
            vector. Omit it for a distillation set, which contains them. Optional
            for `"whitening"`.
        method: `"ridge"` (the default), `"procrustes"` or `"whitening"`.
        ridge: Share of the mean variance that is added to each variance.
            Positive, default 1e-3.
        max_sentences: Maximum number of sentences read from a distillation set,
            from its beginning. Default 50,000.
        batch_size: Number of sentences per forward pass.

    Returns:
        The number of vectors, and the mean cosine before and after.

    Raises:
        InputError: If the student has no projection or a factorized one, an
            argument is out of range, shapes do not match, a value is not finite,
            or the pooled vectors have fewer directions than whitening needs.

    References:
        Schönemann (1966), A generalized solution of the orthogonal Procrustes
        problem; Su et al. (2021), arXiv:2103.15316, algorithm 1.
    """
    require_projection(student)
    if method not in list(ProjectionMethod):
        raise InputError(
            f"`method` must be one of {[str(m) for m in ProjectionMethod]}. "
            f"Received: method={method!r}. Use 'ridge' if in doubt."
        )
    if not 0 < ridge < np.inf:
        raise InputError(
            f"`ridge` must be positive and finite. Received: ridge={ridge}. Use 1e-3 if in doubt."
        )
    pooled, teacher = _vectors(student, data, teacher_embeddings, max_sentences, batch_size)
    _check(student, pooled, teacher, method)
    before = _mean_cosine(pooled, student.projection.get_weights(), teacher)
    if method == ProjectionMethod.WHITENING or teacher is None:
        weights = _whitening(pooled, student.output_dim, teacher)
    elif method == ProjectionMethod.PROCRUSTES:
        weights = _procrustes(pooled, teacher)
    else:
        weights = _ridge(pooled, teacher, ridge)
    student.projection.set_weights(weights)
    after = _mean_cosine(pooled, weights, teacher)
    return ProjectionFit(rows=len(pooled), cosine_before=before, cosine_after=after)


def rotate_projection(student: Student, rotation: np.ndarray) -> None:
    """Rotates a student's embeddings: `kernel @ rotation`, `bias @ rotation`.

    Similarities between the student's embeddings do not change. Rotate by
    `kdkeras.losses.principal_axes(teacher_embeddings)` to order the components by
    variance, so that the leading components (`encode(..., dim=64)`) carry most of
    it.

    Args:
        student: A student with a projection. It is changed.
        rotation: Orthonormal matrix, `(output_dim, output_dim)`.

    Raises:
        InputError: If the student has no projection, or `rotation` has another
            shape.
    """
    require_projection(student)
    width = student.output_dim
    if np.shape(rotation) != (width, width):
        raise InputError(
            f"`rotation` must have the student's width, ({width}, {width}). Received: shape "
            f"{np.shape(rotation)}. Use principal_axes() of its teacher's embeddings."
        )
    student.projection.set_weights([w @ rotation for w in student.projection.get_weights()])


def fold_projection(student: Student, kernel: Any) -> Student:
    """Creates a student whose embeddings are multiplied by a matrix.

    Use it after training with `EmbeddingDistillation(projection=...)`: the
    embeddings of the new student have the teacher's width and can be compared with
    the teacher's. The matrix is multiplied into the last layer:
    `kernel' = kernel @ matrix`, `bias' = bias @ matrix`. If the student normalizes,
    the new student normalizes the result.

    Args:
        student: A student with a projection. It is unchanged.
        kernel: The matrix, `(output_dim, d)`, e.g. `loss.kernel`.

    Returns:
        A new student with `output_dim=d` and the same vocabulary.

    Raises:
        InputError: If the student has no projection, or `kernel` has another
            number of rows.
    """
    require_projection(student)
    matrix = np.asarray(kernel, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != student.output_dim:
        raise InputError(
            f"`kernel` must have the shape ({student.output_dim}, d), d being the new width. "
            f"Received: shape {matrix.shape}. Pass the `kernel` of the loss of its training."
        )
    folded = student.clone(output_dim=matrix.shape[1], copy_weights=False)
    last = {id(weight) for weight in folded.projection.weights}
    for mine, theirs in zip(folded.weights, student.weights, strict=True):
        if id(mine) not in last:
            mine.assign(theirs)
    folded.projection.set_weights([w @ matrix for w in student.projection.get_weights()])
    return folded


def require_projection(student: Student) -> None:
    """Checks that a student has a projection with one kernel.

    Raises:
        InputError: If it has none, or a factorized one.
    """
    if getattr(student, "projection", None) is None:
        raise InputError(
            f"The student must end in a projection. Received: {type(student).__name__} without "
            "one. Create it with project=True."
        )
    if isinstance(student.projection, FactorizedDense):
        raise InputError(
            "The student's projection must have one kernel. Received: a factorized one of rank "
            f"{student.projection.rank}. Call kdkeras.compression.merge(student) first."
        )


def _vectors(
    student: Student, data: Any, teacher: np.ndarray | None, max_sentences: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray | None]:
    if isinstance(data, DistillationSet):
        if teacher is not None:
            raise InputError(
                "A distillation set contains teacher embeddings. Received: a set and "
                "teacher_embeddings. Omit them, or pass the sentences instead of the set."
            )
        data, teacher = _first_sentences(data, max_sentences)
    if not isinstance(data, np.ndarray):
        data = student.encode_pooled(data, batch_size)
    return (
        np.asarray(data, np.float64),
        None if teacher is None else np.asarray(teacher, np.float64),
    )


def _first_sentences(dataset: DistillationSet, count: int) -> tuple[list[str], np.ndarray]:
    sentences: list[str] = []
    vectors: list[np.ndarray] = []
    for group, vector in dataset.records():
        sentences += [group.source, *group.translations]
        vectors += [vector] * (1 + len(group.translations))
        if len(sentences) >= count:
            break
    return sentences[:count], np.array(vectors[:count])


def _check(student: Student, pooled: np.ndarray, teacher: np.ndarray | None, method: str) -> None:
    width = student.projection.kernel.shape[0]
    if pooled.ndim != 2 or pooled.shape[1] != width or len(pooled) < 2:
        raise InputError(
            f"`data` must be at least two pooled vectors of width {width}. Received: shape "
            f"{pooled.shape}. Pass sentences, or the result of student.encode_pooled(sentences)."
        )
    if teacher is None and method != ProjectionMethod.WHITENING:
        raise InputError(
            f"The method {str(method)!r} needs teacher embeddings. Received: none. Pass "
            "teacher_embeddings, or a distillation set."
        )
    if teacher is not None and teacher.shape != (len(pooled), student.output_dim):
        raise InputError(
            "`teacher_embeddings` must have one row of the student's width per sentence. "
            f"Received: shape {teacher.shape}, expected {(len(pooled), student.output_dim)}. Set "
            "the student's output_dim to the teacher's width, and pass aligned rows."
        )
    for name, values in (("pooled vectors", pooled), ("teacher_embeddings", teacher)):
        if values is not None and not np.isfinite(values).all():
            bad = int((~np.isfinite(values).all(axis=1)).sum())
            raise InputError(
                f"The {name} must be finite. Received: {bad} rows with NaN or infinity. "
                "Check the encoder that computed them."
            )
    if not np.ptp(pooled, axis=0).any():
        raise InputError(
            f"The pooled vectors must differ. Received: {len(pooled)} equal ones. Initialize the "
            "student's token vectors, or pass more sentences."
        )


def _procrustes(pooled: np.ndarray, teacher: np.ndarray) -> list[np.ndarray]:
    (h, h_mean), (t, t_mean) = _centered(pooled), _centered(teacher)
    rotation = _rotation(h, t)
    moved = h @ rotation
    kernel = rotation * ((moved * t).sum() / (moved**2).sum())
    return [kernel, t_mean - h_mean @ kernel]


def _ridge(pooled: np.ndarray, teacher: np.ndarray, ridge: float) -> list[np.ndarray]:
    (h, h_mean), (t, t_mean) = _centered(pooled), _centered(teacher)
    covariance = h.T @ h / len(h)
    covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    kernel = np.linalg.solve(covariance, h.T @ t / len(h))
    return [kernel, t_mean - h_mean @ kernel]


def _whitening(pooled: np.ndarray, dim: int, teacher: np.ndarray | None) -> list[np.ndarray]:
    h, h_mean = _centered(pooled)
    variances, axes = np.linalg.eigh(h.T @ h / len(h))  # ascending
    variances, axes = variances[::-1], axes[:, ::-1]
    found = int((variances > 1e-9 * variances[0]).sum())
    if found < dim:
        raise InputError(
            f"Whitening needs pooled vectors of rank {dim} or more, the student's output_dim. "
            f"Received: rank {found} of {len(h)} vectors of width {h.shape[1]}. Pass more "
            "sentences, or use 'ridge'."
        )
    kernel = axes[:, :dim] / np.sqrt(variances[:dim])
    if teacher is not None:
        kernel = kernel @ _rotation(h @ kernel, _centered(teacher)[0])
    return [kernel, -h_mean @ kernel]


def _rotation(rows: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Returns the orthonormal `(p, d)` matrix that maps `rows` nearest to `towards`."""
    left, _, right = np.linalg.svd(rows.T @ towards, full_matrices=False)
    return left @ right


def _centered(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = rows.mean(axis=0)
    return rows - mean, mean


def _mean_cosine(
    pooled: np.ndarray, weights: list[np.ndarray], teacher: np.ndarray | None
) -> float | None:
    if teacher is None:
        return None
    return float(cosine_by_row(pooled @ weights[0] + weights[1], teacher).mean())
