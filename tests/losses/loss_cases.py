"""Every loss with non-default arguments, its oracle, and inputs that it takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import oracles
import oracles_embeddings

from kdkeras.losses import (
    CorrelationDistillation,
    CrossCorrelation,
    EmbeddingDistillation,
    Matryoshka,
    MatryoshkaAlignment,
    QueueContrast,
    QueueDistillation,
    RelationalAngle,
    RelationalDistance,
    SimilarityDistillation,
    SimilarityMatrix,
    SoftTargets,
    SpreadOut,
    TranslationRanking,
    VarianceCovariance,
)

SOURCE_ID = np.array([7, 8, 7, 9])
QUEUE = np.random.default_rng(7).normal(size=(5, 5)).astype("float32")
ROTATION = np.linalg.qr(np.random.default_rng(8).normal(size=(5, 5)))[0].astype("float32")
GUIDE = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]], "float32")


class Case(NamedTuple):
    """A loss in one setting, as a function of (teacher, student)."""

    name: str
    loss: Callable[..., Any]
    oracle: Callable[..., np.ndarray]
    shape: tuple[int, ...] = (4, 5)
    best: Callable[[np.ndarray], np.ndarray] | None = lambda teacher: teacher
    """The student without a loss, of a teacher; None where it depends on the other rows."""

    def inputs(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Random teacher and student."""
        values = np.random.default_rng(seed).normal(size=(2, *self.shape))
        return values[0].astype("float32"), values[1].astype("float32")


def filled(loss, rows=QUEUE):
    """A loss whose queue has been given rows, two at a time."""
    for start in range(0, len(rows), 2):
        loss.enqueue(rows[start : start + 2])
    return loss


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
    Case(
        "queue_not_full",
        filled(QueueDistillation(5, size=7)),
        partial(oracles_embeddings.queue_similarity, queue=QUEUE),
    ),
    Case(
        "queue_overflown",
        filled(QueueDistillation(5, size=3, temperature=0.2)),
        partial(oracles_embeddings.queue_similarity, queue=QUEUE[-3:], temperature=0.2),
    ),
    Case(
        "queue_at_two_temperatures",
        filled(QueueDistillation(5, size=5, temperature=0.1, student_temperature=0.3)),
        partial(
            oracles_embeddings.queue_similarity,
            queue=QUEUE,
            temperature=0.1,
            student_temperature=0.3,
        ),
        best=None,
    ),
    Case(
        "queue_contrast",
        filled(QueueContrast(5, size=7)),
        partial(oracles_embeddings.queue_contrast, queue=QUEUE),
        best=None,
    ),
    Case(
        "queue_contrast_guided",
        filled(QueueContrast(5, size=3, temperature=0.3, guide_margin=0.75)),
        partial(
            oracles_embeddings.queue_contrast, queue=QUEUE[-3:], temperature=0.3, guide_margin=0.75
        ),
        best=None,
    ),
    Case(
        "matryoshka",
        Matryoshka(EmbeddingDistillation(), [2, 5]),
        partial(oracles_embeddings.matryoshka, inner=oracles.embedding_cosine, dims=[2, 5]),
    ),
    Case(
        "matryoshka_rotated",
        Matryoshka(SimilarityDistillation(0.2), [3, 4], [0.5, 2.0], ROTATION),
        partial(
            oracles_embeddings.matryoshka,
            inner=partial(oracles.similarity, temperature=0.2),
            dims=[3, 4],
            dim_weights=[0.5, 2.0],
            rotation=ROTATION,
        ),
        best=lambda teacher: teacher @ ROTATION,
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
    Case("spread_out", SpreadOut(), oracles_embeddings.spread_out),
    Case(
        "spread_out_with_duplicates",
        partial(SpreadOut(), source_id=SOURCE_ID),
        partial(oracles_embeddings.spread_out, source_id=SOURCE_ID),
    ),
    Case("variance_covariance", VarianceCovariance(), oracles_embeddings.variance_covariance),
    Case(
        "variance_covariance_weighted",
        VarianceCovariance(0.5, 2.0, 3.0, target_std=1.5),
        partial(
            oracles_embeddings.variance_covariance,
            invariance_weight=0.5,
            variance_weight=2.0,
            covariance_weight=3.0,
            target_std=1.5,
        ),
    ),
    Case("cross_correlation", CrossCorrelation(), oracles_embeddings.cross_correlation),
    Case(
        "cross_correlation_weighted",
        CrossCorrelation(redundancy_weight=0.5),
        partial(oracles_embeddings.cross_correlation, redundancy_weight=0.5),
    ),
    Case(
        "matryoshka_ranking",
        partial(
            MatryoshkaAlignment(TranslationRanking(margin=0.1, scale=5.0), [2, 5], [0.5, 2.0]),
            source_id=SOURCE_ID,
        ),
        partial(
            oracles_embeddings.matryoshka,
            inner=partial(oracles.translation_ranking, margin=0.1, scale=5.0),
            dims=[2, 5],
            dim_weights=[0.5, 2.0],
            source_id=SOURCE_ID,
        ),
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
    TranslationRanking: {"margin": 0.1, "scale": 7.0, "guide_margin": 0.2},
    QueueDistillation: {
        "dim": 3,
        "size": 7,
        "temperature": 0.2,
        "student_temperature": 0.3,
        "target": "pooled",
    },
    QueueContrast: {
        "dim": 3,
        "size": 7,
        "temperature": 0.2,
        "guide_margin": 0.3,
        "target": "pooled",
    },
    SpreadOut: {},
    VarianceCovariance: {
        "invariance_weight": 1.0,
        "variance_weight": 2.0,
        "covariance_weight": 3.0,
        "target_std": 0.5,
    },
    CrossCorrelation: {"redundancy_weight": 0.1},
    Matryoshka: {
        "inner": SimilarityDistillation(0.2, target="pooled"),
        "dims": [2, 3],
        "dim_weights": [0.5, 2.0],
        "rotation": 3,
    },
    MatryoshkaAlignment: {
        "inner": TranslationRanking(0.1),
        "dims": [2, 3],
        "dim_weights": [0.5, 2.0],
    },
}
