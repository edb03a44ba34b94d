"""Starting a student's last layer from its teacher's vectors, in closed form."""

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

__all__ = [
    "ProjectionFit",
    "ProjectionMethod",
    "fit_projection",
    "fold_projection",
    "require_projection",
    "rotate_projection",
]


class ProjectionMethod(StrEnum):
    """How a projection is found."""

    PROCRUSTES = "procrustes"
    WHITENING = "whitening"
    RIDGE = "ridge"


@dataclass(frozen=True, kw_only=True)
class ProjectionFit:
    """What a projection was fitted to, and how well.

    Attributes:
        rows: Vectors that were read.
        cosine_before: Mean cosine of the student's embeddings with the
            teacher's before; None without a teacher.
        cosine_after: The same after.
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
    limit: int = 50_000,
    batch_size: int = 256,
) -> ProjectionFit:
    """Sets a student's last Dense (`student.projection`) in closed form.

    What the student says is a linear map of what it pools; the best one needs
    no training. It is written into kernel and bias, so that the exported
    student needs nothing more. The rest of the student stays as it is: start
    its token vectors first (`initialize_from_teacher`).

    Formula, with `H` the pooled vectors `(n, p)` and `T` the teacher's `(n, d)`,
    both minus their means:

    ```
    procrustes: kernel = s * U @ V.T,  H.T @ T = U @ S @ V.T,  s = least squares
    ridge:      kernel = inverse(H.T @ H / n + ridge * mean variance * I) @ H.T @ T / n
    whitening:  kernel = E @ diag(variances ** -0.5),  H.T @ H / n = E @ diag(variances) @ E.T
    bias = mean of the teacher (whitening: 0) - mean of the pooled @ kernel
    ```

    `"procrustes"` keeps all angles of the pooled vectors (where `p <= d`), so
    it is for vectors that are already good. `"ridge"` comes nearest to the
    teacher. `"whitening"` takes the `d` directions of largest variance and
    gives each the variance 1; with a teacher the result is turned towards it,
    which changes no variance. A student with unit norm scales it to length 1.

    Args:
        student: A student with a projection; it is changed.
        data: A distillation set, of which each sentence is compared with its
            group's teacher vector; or sentences; or pooled vectors `(n, p)`,
            what comes before the projection.
        teacher_embeddings: `(n, output_dim)`, one a sentence or vector. None
            with a distillation set, which has them, and allowed to be None
            for `"whitening"`.
        method: `"ridge"` (the default), `"procrustes"` or `"whitening"`.
        ridge: Share of the mean variance that is added to each, above 0.
        limit: The most sentences read of a distillation set, its first ones.
        batch_size: Sentences computed at once.

    Returns:
        What was fitted.

    Raises:
        InputError: If the student has no projection or a factorised one, an
            argument is out of its range, the shapes do not fit, a number is not finite, or
            whitening finds fewer directions than it needs.

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
    pooled, teacher = _vectors(student, data, teacher_embeddings, limit, batch_size)
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
    """Turns a student's embeddings: `kernel @ rotation`, `bias @ rotation`.

    What was started in the teacher's space is then in that of
    `principal_axes(teacher_vectors)`, which `Matryoshka` trains in. Cosines
    between the student's own embeddings stay as they are.

    Args:
        student: A student with a projection; it is changed.
        rotation: Orthonormal `(output_dim, output_dim)`.

    Raises:
        InputError: If the student has no projection, or the rotation is of another width.
    """
    require_projection(student)
    width = student.output_dim
    if np.shape(rotation) != (width, width):
        raise InputError(
            f"`rotation` must be of the student's width, ({width}, {width}). Received: shape "
            f"{np.shape(rotation)}. Fit principal_axes() on its own teacher's vectors."
        )
    student.projection.set_weights([w @ rotation for w in student.projection.get_weights()])


def fold_projection(student: Student, kernel: Any) -> Student:
    """Returns a student whose embeddings are those of `student`, times a matrix.

    For the map of `EmbeddingDistillation(projection=...)`: after training the
    student then gives vectors of the teacher's width, for an index of the
    teacher's. The matrix is multiplied into the last Dense:
    `W' = W @ kernel`, `b' = b @ kernel`.

    Where the student normalises, the new one normalises after the map: its
    embeddings have the direction of `embedding @ kernel`, and length 1.

    Args:
        student: A student with a projection; it is left as it is.
        kernel: `(output_dim, d)`, e.g. `loss.kernel`.

    Returns:
        A student of `output_dim` `d`, with weights and vocabulary of its own.

    Raises:
        InputError: If the student has no projection, or the kernel is of another width.
    """
    require_projection(student)
    matrix = np.asarray(kernel, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != student.output_dim:
        raise InputError(
            f"`kernel` must begin with the student's width, ({student.output_dim}, d). Received: "
            f"shape {matrix.shape}. Give the `kernel` of the loss that it was trained with."
        )
    folded = student.clone(output_dim=matrix.shape[1], copy_weights=False)
    last = {id(weight) for weight in folded.projection.weights}
    for mine, theirs in zip(folded.weights, student.weights, strict=True):
        if id(mine) not in last:
            mine.assign(theirs)
    folded.projection.set_weights([w @ matrix for w in student.projection.get_weights()])
    return folded


def require_projection(student: Student) -> None:
    """Refuses a student without a projection of one kernel.

    Raises:
        InputError: If there is none, or it is a product of two.
    """
    if getattr(student, "projection", None) is None:
        raise InputError(
            f"The student must end in a projection. Received: {type(student).__name__} without "
            "one. Create it with project=True."
        )
    if isinstance(student.projection, FactorizedDense):
        raise InputError(
            "The student's projection must be one kernel. Received: a product of two of rank "
            f"{student.projection.rank}. Multiply them first: kdkeras.growth.merge(student)."
        )


def _vectors(
    student: Student, data: Any, teacher: np.ndarray | None, limit: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray | None]:
    if isinstance(data, DistillationSet):
        if teacher is not None:
            raise InputError(
                "A distillation set has its teacher's vectors. Received: a set and "
                "teacher_embeddings. Leave them out, or pass the sentences."
            )
        data, teacher = _first_sentences(data, limit)
    if not isinstance(data, np.ndarray):
        data = student.encode_pooled(data, batch_size)
    return (
        np.asarray(data, np.float64),
        None if teacher is None else np.asarray(teacher, np.float64),
    )


def _first_sentences(dataset: DistillationSet, limit: int) -> tuple[list[str], np.ndarray]:
    sentences: list[str] = []
    vectors: list[np.ndarray] = []
    for group, vector in dataset.records():
        sentences += [group.source, *group.translations]
        vectors += [vector] * (1 + len(group.translations))
        if len(sentences) >= limit:
            break
    return sentences[:limit], np.array(vectors[:limit])


def _check(student: Student, pooled: np.ndarray, teacher: np.ndarray | None, method: str) -> None:
    width = student.projection.kernel.shape[0]
    if pooled.ndim != 2 or pooled.shape[1] != width or len(pooled) < 2:
        raise InputError(
            f"A projection is fitted to two or more pooled vectors of width {width}. Received: "
            f"shape {pooled.shape}. Pass sentences, or what comes before the projection."
        )
    if teacher is None and method != ProjectionMethod.WHITENING:
        raise InputError(
            f"The method {str(method)!r} compares with the teacher. Received: no "
            "teacher_embeddings. Pass them, or a distillation set."
        )
    if teacher is not None and teacher.shape != (len(pooled), student.output_dim):
        raise InputError(
            "There must be one teacher vector of the student's width a row. Received: shape "
            f"{teacher.shape}, expected {(len(pooled), student.output_dim)}. Set the student's "
            "output_dim to the teacher's width, and pass aligned rows."
        )
    for name, values in (("pooled vectors", pooled), ("teacher_embeddings", teacher)):
        if values is not None and not np.isfinite(values).all():
            bad = int((~np.isfinite(values).all(axis=1)).sum())
            raise InputError(
                f"The {name} must be finite. Received: {bad} rows with NaN or infinity. "
                "Look for a broken encoder."
            )
    if not np.ptp(pooled, axis=0).any():
        raise InputError(
            f"The pooled vectors must differ. Received: {len(pooled)} equal ones. Initialise the "
            "student's token vectors, or pass more sentences."
        )


def _procrustes(pooled: np.ndarray, teacher: np.ndarray) -> list[np.ndarray]:
    (h, h_mean), (t, t_mean) = _centred(pooled), _centred(teacher)
    turned = _rotation(h, t)
    moved = h @ turned
    kernel = turned * ((moved * t).sum() / (moved**2).sum())
    return [kernel, t_mean - h_mean @ kernel]


def _ridge(pooled: np.ndarray, teacher: np.ndarray, ridge: float) -> list[np.ndarray]:
    (h, h_mean), (t, t_mean) = _centred(pooled), _centred(teacher)
    covariance = h.T @ h / len(h)
    covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    kernel = np.linalg.solve(covariance, h.T @ t / len(h))
    return [kernel, t_mean - h_mean @ kernel]


def _whitening(pooled: np.ndarray, dim: int, teacher: np.ndarray | None) -> list[np.ndarray]:
    h, h_mean = _centred(pooled)
    variances, axes = np.linalg.eigh(h.T @ h / len(h))  # ascending
    variances, axes = variances[::-1], axes[:, ::-1]
    found = int((variances > 1e-9 * variances[0]).sum())
    if found < dim:
        raise InputError(
            f"Whitening needs as many directions as the student's output_dim, {dim}. Received: "
            f"{found} in which the {len(h)} pooled vectors of width {h.shape[1]} differ. Pass more "
            "sentences, or use 'ridge'."
        )
    kernel = axes[:, :dim] / np.sqrt(variances[:dim])
    if teacher is not None:
        kernel = kernel @ _rotation(h @ kernel, _centred(teacher)[0])
    return [kernel, -h_mean @ kernel]


def _rotation(rows: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """The orthonormal map, `(p, d)`, that agrees best with `towards`."""
    left, _, right = np.linalg.svd(rows.T @ towards, full_matrices=False)
    return left @ right


def _centred(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = rows.mean(axis=0)
    return rows - mean, mean


def _mean_cosine(
    pooled: np.ndarray, weights: list[np.ndarray], teacher: np.ndarray | None
) -> float | None:
    if teacher is None:
        return None
    embeddings = pooled @ weights[0] + weights[1]
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(teacher, axis=1)
    return float(((embeddings * teacher).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())
