"""Every loss with non-default arguments, its oracle, and inputs that it takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import oracles

from kdkeras.losses import (
    CorrelationDistillation,
    EmbeddingDistillation,
    KerasLoss,
    RelationalAngle,
    RelationalDistance,
    SimilarityDistillation,
    SimilarityMatrix,
    SoftTargets,
    TranslationRanking,
)

SOURCE_ID = np.array([7, 8, 7, 9])
GUIDE = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]], "float32")


class Case(NamedTuple):
    """A loss in one setting, as a function of (teacher, student)."""

    name: str
    loss: Callable[..., Any]
    oracle: Callable[..., np.ndarray]
    shape: tuple[int, ...] = (4, 5)

    def inputs(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Random teacher and student."""
        values = np.random.default_rng(seed).normal(size=(2, *self.shape))
        return values[0].astype("float32"), values[1].astype("float32")


DISTILLATION = [
    Case("cosine", EmbeddingDistillation(), oracles.embedding_cosine),
    Case("mse", EmbeddingDistillation("mse"), oracles.embedding_mse),
    Case("similarity", SimilarityDistillation(), oracles.similarity),
    Case(
        "similarity_without_self",
        SimilarityDistillation(temperature=0.3, exclude_self=True),
        partial(oracles.similarity, temperature=0.3, exclude_self=True),
    ),
    Case("soft_targets", SoftTargets(), oracles.soft_targets),
    Case("softened", SoftTargets(temperature=3.0), partial(oracles.soft_targets, temperature=3.0)),
    Case(
        "soft_targets_of_tokens",
        SoftTargets(temperature=2.0),
        partial(oracles.soft_targets, temperature=2.0),
        (4, 3, 5),
    ),
    Case(
        "soft_targets_standardized",
        SoftTargets(temperature=2.0, standardize=True),
        partial(oracles.standardized_targets, temperature=2.0),
    ),
    Case("correlation", CorrelationDistillation(), oracles.correlation),
    Case(
        "correlation_weighted",
        CorrelationDistillation(temperature=2.0, row_weight=0.5, column_weight=2.0),
        partial(oracles.correlation, temperature=2.0, row_weight=0.5, column_weight=2.0),
    ),
    Case("similarity_matrix", SimilarityMatrix(), oracles.similarity_matrix),
    Case("relational_distance", RelationalDistance(), oracles.relational_distance),
    Case("relational_angle", RelationalAngle(), oracles.relational_angle),
    Case(
        "relational_angle_to_three",
        RelationalAngle(max_neighbours=3),
        partial(oracles.relational_angle, max_neighbours=3),
    ),
    Case("mse_of_keras", KerasLoss(keras.losses.MeanSquaredError()), oracles.embedding_mse),
    Case(
        "mse_of_keras_for_tokens",
        KerasLoss("mse", temperature=2.0),
        lambda teacher, student: oracles.embedding_mse(teacher / 2, student / 2).mean(axis=-1),
        (4, 3, 5),
    ),
]

ALIGNMENT = [
    Case("ranking", TranslationRanking(), oracles.translation_ranking),
    Case(
        "ranking_with_duplicates",
        partial(TranslationRanking(margin=0.1, scale=5.0), source_id=SOURCE_ID),
        partial(oracles.translation_ranking, margin=0.1, scale=5.0, source_id=SOURCE_ID),
    ),
    Case(
        "ranking_with_guide",
        partial(TranslationRanking(guide_margin=0.05), teacher=GUIDE),
        partial(oracles.translation_ranking, teacher=GUIDE, guide_margin=0.05),
    ),
    Case(
        "ranking_with_both",
        partial(TranslationRanking(guide_margin=0.05), source_id=SOURCE_ID, teacher=GUIDE),
        partial(oracles.translation_ranking, source_id=SOURCE_ID, teacher=GUIDE, guide_margin=0.05),
    ),
]

# Non-default arguments of every loss, for the round trip.
ARGUMENTS: dict[type, dict[str, Any]] = {
    EmbeddingDistillation: {"metric": "mse", "projection": [3, 4], "target": "pooled"},
    SimilarityDistillation: {"temperature": 0.2, "exclude_self": True, "target": "pooled"},
    SoftTargets: {"temperature": 4.0, "standardize": True, "target": "scores"},
    CorrelationDistillation: {
        "temperature": 4.0,
        "row_weight": 0.5,
        "column_weight": 2.0,
        "target": "scores",
    },
    SimilarityMatrix: {"target": "pooled"},
    RelationalDistance: {"target": "pooled"},
    RelationalAngle: {"max_neighbours": 5, "target": "pooled"},
    KerasLoss: {"function": keras.losses.huber, "temperature": 4.0, "target": "pooled"},
    TranslationRanking: {"margin": 0.1, "scale": 7.0, "guide_margin": 0.2},
}
