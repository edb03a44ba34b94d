"""The usual way to train: the three losses by name, and the learning rate's course."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import keras
import numpy as np

from kdkeras import config
from kdkeras.data import DistillationSet
from kdkeras.distillation import Distiller
from kdkeras.errors import InputError
from kdkeras.losses import (
    EmbeddingDistillation,
    Matryoshka,
    SimilarityDistillation,
    TranslationRanking,
    principal_axes,
)
from kdkeras.optimizers import FusedAdam, LazyAdam
from kdkeras.schedules import LinearDecay
from kdkeras.students import Student

__all__ = ["build_distiller", "build_optimizer", "decaying", "default_dims", "teacher_axes"]

_DISTILLATION = {"embedding": EmbeddingDistillation, "similarity": SimilarityDistillation}
_ALIGNMENT = {"ranking": TranslationRanking}


def build_distiller(
    student: Any,
    weights: Mapping[str, Any],
    *,
    dims: Sequence[int] = (),
    axes: np.ndarray | None = None,
    **arguments: Any,
) -> Distiller:
    """Joins a student and the losses that have a weight.

    Args:
        student: The student.
        weights: Weight by name: `"embedding"`, `"similarity"`, `"ranking"`;
            a float or a schedule. A loss that is left out is not computed.
        dims: Widths that embeddings can be cut to after the training, besides
            the whole one; none by default. The whole width and these have
            equal shares of the embedding's weight (`Matryoshka`).
        axes: `(d, d)`, the teacher's principal axes; with `dims`. The student
            learns the vectors turned into them, the first of which say the
            most.
        **arguments: More of `Distiller`'s arguments.

    Raises:
        InputError: For an unknown name, or as `Matryoshka`.
    """
    known = {**_DISTILLATION, **_ALIGNMENT}
    for name in weights:
        if name not in known:
            raise InputError(
                f"A loss must be one of {sorted(known)}. Received: {name!r}. "
                "Write for example embedding=1 similarity=0.5."
            )
    distillation: dict[str, Any] = {n: make() for n, make in _DISTILLATION.items() if n in weights}
    if dims:
        widths = {"embedding": [student.output_dim, *dims], "similarity": [student.output_dim]}
        distillation = {
            name: Matryoshka(loss, widths[name], [1 / len(widths[name])] * len(widths[name]), axes)
            for name, loss in distillation.items()
        }
    return Distiller(
        student,
        distillation_losses=distillation,
        alignment_losses={n: make() for n, make in _ALIGNMENT.items() if n in weights},
        loss_weights=weights,
        **arguments,
    )


def default_dims(student: Student) -> list[int]:
    """Returns the narrower widths that a student is trained for unless told otherwise.

    None for a student without a projection, which could not be turned into the
    teacher's principal axes and back.
    """
    if student.projection is None:
        return []
    return [dim for dim in config.DIMS if dim < student.output_dim]


def teacher_axes(dataset: DistillationSet, limit: int = 20_000) -> np.ndarray:
    """Returns the principal axes of a set's cached vectors, `(d, d)`.

    Args:
        dataset: The set, whose records are in random order.
        limit: Vectors that are read, the first ones.
    """
    return principal_axes(np.stack([vector for _, vector in islice(dataset.records(), limit)]))


def decaying(
    weights: Mapping[str, float], fractions: Mapping[str, float], steps: int
) -> dict[str, Any]:
    """Returns weights of which some fall linearly to zero.

    Args:
        weights: Weight by name.
        fractions: By name, the share of the training after which a weight is
            zero.
        steps: Steps of the whole training.

    Raises:
        InputError: For a loss without a weight, or a fraction out of its range.
    """
    for name in fractions:
        if name not in weights:
            raise InputError(
                f"A weight that decays must be one of {sorted(weights)}. Received: {name!r}. "
                "Give it a weight first."
            )
    return {
        name: LinearDecay(weight, fractions[name], steps) if name in fractions else weight
        for name, weight in weights.items()
    }


OPTIMIZERS = {"adam": FusedAdam, "lazy_adam": LazyAdam}


def build_optimizer(
    learning_rate: float, warmup: int, steps: int, name: str = "adam"
) -> keras.optimizers.Adam:
    """Returns Adam with a linear warm-up and a cosine descent to zero.

    Args:
        learning_rate: The highest rate, reached after the warm-up.
        warmup: Steps of the warm-up; at most a tenth of `steps` is used.
        steps: Steps of the whole training.
        name: `"adam"`, or `"lazy_adam"`, which updates only the rows of the
            batch (see `kdkeras.optimizers.LazyAdam`).
    """
    warmup = min(warmup, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else learning_rate,
        decay_steps=max(1, steps - warmup),
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    return OPTIMIZERS[name](schedule)
