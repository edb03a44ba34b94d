"""From a recipe to what is trained: vocabulary, student, start, losses and learning rate."""

from __future__ import annotations

import dataclasses
import os
from itertools import islice
from typing import Any

import keras
import numpy as np

from kdkeras.data import DistillationSet, Vocabulary, load_vocabulary, train_vocabulary
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
from kdkeras.progress import Progress, no_progress
from kdkeras.recipe import Recipe
from kdkeras.schedules import LinearDecay
from kdkeras.students import (
    StaticStudent,
    Student,
    build_student,
    initialize_from_targets,
    initialize_from_teacher,
)

__all__ = [
    "compiled_distiller",
    "choose_vocabulary",
    "copied_student",
    "recipe_for_student",
    "new_student",
    "resolved",
    "initialize_student",
    "teacher_axes",
]

DIMS = (256, 128, 64, 32)
"""Narrower widths that are trained by default, if they are below the embedding's width."""
LEARNING_RATES = {True: 4e-3, False: 5e-4}
"""Default maximum learning rate of a static student, and of a transformer."""
OPTIMIZERS = {"adam": FusedAdam, "lazy_adam": LazyAdam}
AXES_FROM = 20_000
"""Number of cached embeddings that the principal axes are computed from."""


def recipe_for_student(
    recipe: Any, given: Student | None, size: Any, teacher: Any = None
) -> Recipe:
    """Returns the recipe with the size of the student, or without for a trained student.

    Raises:
        InputError: If it is no recipe, there is no student, or a teacher is missing or unused.
    """
    if not isinstance(recipe, Recipe):
        raise InputError(
            f"`recipe` must be a Recipe. Received: {type(recipe).__name__}. Use "
            "Recipe.load(path) for a file, Recipe.from_dict(values) for a dict."
        )
    if str(size).endswith(".keras"):
        raise InputError(
            f"A trained student must be loaded. Received: {size}. Pass kdkeras.load(path)."
        )
    if given is None:
        _check_teacher(recipe, teacher)
        recipe = dataclasses.replace(recipe, student=size or recipe.student)
        if recipe.student is None:
            raise InputError(
                "A training needs a student. Received: None, and a recipe with student=None. "
                "Pass a size such as 'static_256', or a trained student."
            )
        return recipe
    # A trained student has its own table and weights.
    return dataclasses.replace(recipe, student=None, start=None, table_rank=None)


def _check_teacher(recipe: Recipe, teacher: Any) -> None:
    if recipe.start == "teacher" and teacher is None:
        raise InputError(
            "A start from the teacher's token vectors needs the teacher. Received: "
            "start='teacher' without a teacher. Pass teacher=kdkeras.teachers.load(...)."
        )
    if recipe.start != "teacher" and teacher is not None:
        raise InputError(
            "A teacher is used only for a start from its token vectors. Received: a teacher and "
            f"start={recipe.start!r}. Use Recipe(start='teacher'), or omit the teacher."
        )


def resolved(recipe: Recipe, student: Student, given: Student | None = None) -> Recipe:
    """Returns the recipe with the values that depend on the student.

    Raises:
        InputError: If it wants a rotation that the student cannot have.
    """
    static = isinstance(student, StaticStudent)
    changes: dict[str, Any] = {}
    if recipe.start is None and given is None:
        changes["start"] = "targets" if static else "random"
    changes["sequence_length"] = min(recipe.sequence_length, student.sequence_length)
    if recipe.learning_rate is None:
        changes["learning_rate"] = LEARNING_RATES[static]
    if recipe.dims is None:
        dims = [dim for dim in DIMS if dim < student.output_dim]
        changes["dims"] = tuple(dims if student.projection is not None else ())
    recipe = dataclasses.replace(recipe, **changes)
    if recipe.keep_axes and not recipe.dims:
        raise InputError(
            "`keep_axes` needs a student that is trained for narrower widths. Received: "
            f"keep_axes=True, and a student of width {student.output_dim} without them. Omit it."
        )
    return recipe


def choose_vocabulary(
    given: Student | None,
    vocabulary: Any,
    dataset: DistillationSet,
    recipe: Recipe,
    progress: Progress = no_progress,
) -> Vocabulary:
    """Returns the vocabulary: of the trained student, the given one, or one trained on the set.

    Raises:
        InputError: If a trained student has none or another one.
    """
    if isinstance(vocabulary, (str, os.PathLike)):
        vocabulary = load_vocabulary(vocabulary)
    if given is not None:
        own = given.vocabulary
        if own is None or (vocabulary is not None and vocabulary.fingerprint != own.fingerprint):
            raise InputError(
                "A trained student continues with its own vocabulary. Received: "
                f"{'a student without one' if own is None else 'another vocabulary'}. Pass the "
                "student as it was saved, and omit the vocabulary."
            )
        return own
    if vocabulary is not None:
        return vocabulary
    return train_vocabulary(
        dataset,
        size=recipe.vocabulary_size,
        kind=recipe.vocabulary_kind,
        seed=recipe.seed,
        language_temperature=recipe.vocabulary_temperature,
        progress=progress,
    )


def new_student(recipe: Recipe, dataset: DistillationSet, vocabulary: Vocabulary) -> Student:
    """Returns an untrained student for the targets of a set."""
    return build_student(
        recipe.student or "",
        vocabulary=vocabulary,
        output_dim=dataset.embedding_dim,
        normalize=dataset.normalized,
        table_rank=recipe.table_rank,
        sequence_length=recipe.sequence_length,
        dtype=_dtype(recipe),
    )


def copied_student(given: Student, recipe: Recipe, dataset: DistillationSet) -> Student:
    """Returns a copy of a trained student to continue with.

    Raises:
        InputError: If its width is not that of the targets.
    """
    if given.output_dim != dataset.embedding_dim:
        raise InputError(
            "A trained student must have the width of the cached targets. Received: output_dim="
            f"{given.output_dim}, targets of width {dataset.embedding_dim}. Use a set of the "
            "teacher that the student was trained with."
        )
    return given.clone(dtype=_dtype(recipe))


def _dtype(recipe: Recipe) -> str:
    return f"mixed_{recipe.mixed_precision}" if recipe.mixed_precision else "float32"


def initialize_student(
    student: Student, recipe: Recipe, dataset: DistillationSet, teacher: Any, progress: Progress
) -> None:
    """Sets the weights that the training of a new student starts from."""
    if recipe.start == "teacher":
        initialize_from_teacher(student, teacher, seed=recipe.seed)
    elif recipe.start == "targets":
        initialize_from_targets(
            student,
            dataset,
            language_temperature=recipe.language_temperature,
            progress=progress,
        )


def teacher_axes(dataset: DistillationSet) -> np.ndarray:
    """Returns the principal axes of the set's first embeddings, which are in random order."""
    return principal_axes(np.stack([vector for _, vector in islice(dataset.records(), AXES_FROM)]))


def compiled_distiller(
    student: Student, recipe: Recipe, steps: int, axes: np.ndarray | None = None, **arguments: Any
) -> Distiller:
    """Returns the compiled Distiller of a recipe.

    Args:
        student: The student.
        recipe: The recipe, as `resolved` returns it.
        steps: Steps of the whole training.
        axes: `(d, d)`, the teacher's principal axes; needed if the recipe has `dims`.
        **arguments: More arguments of `Distiller`.
    """
    distiller = Distiller(
        student,
        loss_weights=_weights(recipe, max(1, steps)),
        # The Distiller's own policy makes Keras scale float16 losses.
        dtype=student.dtype_policy,
        **_losses(recipe, student.output_dim, axes),
        **arguments,
    )
    optimizer = OPTIMIZERS[recipe.optimizer](_learning_rate(recipe, steps))
    distiller.compile(optimizer, jit_compile=recipe.jit_compile)
    return distiller


def _weights(recipe: Recipe, steps: int) -> dict[str, Any]:
    return {
        name: LinearDecay(weight, recipe.decay[name], steps) if name in recipe.decay else weight
        for name, weight in recipe.loss_weights.items()
    }


def _losses(recipe: Recipe, width: int, axes: np.ndarray | None) -> dict[str, Any]:
    losses: dict[str, Any] = {
        "embedding": EmbeddingDistillation(),
        "similarity": SimilarityDistillation(),
        "ranking": TranslationRanking(),
    }
    if recipe.dims:
        widths = [width, *(dim for dim in recipe.dims if dim != width)]
        # Equal shares of the weight for every width.
        shares = [1 / len(widths)] * len(widths)
        losses["embedding"] = Matryoshka(losses["embedding"], widths, shares, axes)
    used = {name: loss for name, loss in losses.items() if name in recipe.loss_weights}
    return {
        "distillation_losses": {name: loss for name, loss in used.items() if name != "ranking"},
        "alignment_losses": {name: loss for name, loss in used.items() if name == "ranking"},
    }


def _learning_rate(recipe: Recipe, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """Returns a linear warm-up and a cosine decay to zero."""
    warmup, rate = min(recipe.warmup, steps // 10), recipe.learning_rate
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else rate,
        decay_steps=max(1, steps - warmup),
        warmup_target=rate if warmup else None,
        warmup_steps=warmup,
    )
