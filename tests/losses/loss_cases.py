"""Every loss with non-default arguments, its oracle, and inputs that it takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import oracles
import oracles_features

from kdkeras.losses import (
    AttentionRelations,
    CorrelationDistillation,
    EmbeddingDistillation,
    HiddenStateDistillation,
    PerLayer,
    RelationalAngle,
    RelationalDistance,
    SimilarityDistillation,
    SimilarityMatrix,
    SoftTargets,
    TranslationRanking,
)

SOURCE_ID = np.array([7, 8, 7, 9])
GUIDE = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]], "float32")


Shape = Any
"""`(4, 5)`, or a list or dict of shapes."""


class Case(NamedTuple):
    """A loss in one setting, as a function of (teacher, student).

    Each side is an array, or a list or dict of arrays where `shape` is one of shapes.
    """

    name: str
    loss: Callable[..., Any]
    oracle: Callable[..., np.ndarray]
    shape: Shape = (4, 5)
    student_shape: Shape | None = None
    """The same as `shape` unless given."""
    same: Callable[[Any], Any] = copy.deepcopy
    """The student that says what the teacher says."""
    parts: dict[str, np.ndarray] = {}
    """What else the loss and its oracle read, one row an example."""

    def inputs(self, seed: int = 0) -> tuple[Any, Any]:
        """Random teacher and student."""
        values = np.random.default_rng(seed).normal(size=(2, self.size)).astype("float32")
        return self.fill(values)

    @property
    def size(self) -> int:
        """Numbers that fill the larger side."""
        return max(_size(self.shape), _size(self.student_shape or self.shape))

    def fill(self, values: np.ndarray) -> tuple[Any, Any]:
        """Both sides from rows of numbers, which are repeated where they are too few."""
        shapes = (self.shape, self.student_shape or self.shape)
        teacher, student = (
            _filled(shape, iter(np.resize(row, self.size)))
            for row, shape in zip(values, shapes, strict=True)
        )
        return teacher, student

    def value(self, teacher: Any, student: Any, order: Any = slice(None)) -> Any:
        """Loss of each example; `order` is that in which both sides are given."""
        return self.loss(teacher, student, **{k: v[order] for k, v in self.parts.items()})

    def expected(self, teacher: Any, student: Any) -> np.ndarray:
        """What the oracle says."""
        return self.oracle(teacher, student, **self.parts)


def _size(shape: Shape) -> int:
    if isinstance(shape, tuple):
        return int(np.prod(shape))
    parts = shape.values() if isinstance(shape, dict) else shape
    return sum(_size(part) for part in parts)


def _filled(shape: Shape, numbers: Any) -> Any:
    if isinstance(shape, tuple):
        return np.array(list(islice(numbers, int(np.prod(shape)))), "float32").reshape(shape)
    if isinstance(shape, dict):
        return {name: _filled(part, numbers) for name, part in shape.items()}
    return [_filled(part, numbers) for part in shape]


# The last sentence has no token.
PADDING_MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
TOKENS = (4, 4, 6)
LAYER = dict.fromkeys(("query", "key", "value"), TOKENS)
PROJECTED = HiddenStateDistillation({1: 1, -1: 2}, projection=(6, 6))
KERNEL = np.asarray(PROJECTED.kernel)

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
]

FEATURES = [
    Case(
        "hidden_states",
        HiddenStateDistillation(),
        partial(oracles_features.hidden_states, pairs=[(1, 1), (2, 2)]),
        [TOKENS] * 3,
        parts={"padding_mask": PADDING_MASK},
    ),
    Case(
        "hidden_states_of_a_deeper_teacher",
        HiddenStateDistillation(embedding_layer=True),
        partial(oracles_features.hidden_states, pairs=[(0, 0), (1, 1), (2, 3)]),
        [TOKENS] * 4,
        [TOKENS] * 3,
        same=lambda teacher: [teacher[0], teacher[1], teacher[3]],
        parts={"padding_mask": PADDING_MASK},
    ),
    Case(
        "hidden_states_projected",
        PROJECTED,
        partial(oracles_features.hidden_states, pairs=[(1, 1), (2, 2)], kernel=KERNEL),
        [TOKENS] * 3,
        # Its columns are orthonormal.
        same=lambda teacher: [state @ KERNEL.T for state in teacher],
        parts={"padding_mask": PADDING_MASK},
    ),
    Case(
        "attention_relations",
        AttentionRelations(2),
        partial(oracles_features.attention_relations, num_relation_heads=2),
        [LAYER] * 2,
        parts={"padding_mask": PADDING_MASK},
    ),
    Case(
        "attention_relations_of_a_middle_layer",
        AttentionRelations(3, student_layer=1, teacher_layer=2),
        partial(
            oracles_features.attention_relations,
            num_relation_heads=3,
            student_layer=0,
            teacher_layer=1,
        ),
        [LAYER] * 3,
        [LAYER] * 2,
        same=lambda teacher: [teacher[1], teacher[0]],
        parts={"padding_mask": PADDING_MASK},
    ),
    Case(
        "per_layer_cosine",
        PerLayer(EmbeddingDistillation()),
        partial(oracles_features.per_layer, inner=oracles.embedding_cosine, layers=[1, 2]),
        (4, 5),
        [(4, 5)] * 3,
        same=lambda teacher: [teacher] * 3,
    ),
    Case(
        "per_layer_similarity",
        PerLayer(SimilarityDistillation(0.3), layers=[0, -1]),
        partial(
            oracles_features.per_layer,
            inner=partial(oracles.similarity, temperature=0.3),
            layers=[0, 2],
        ),
        (4, 5),
        [(4, 5)] * 3,
        same=lambda teacher: [teacher] * 3,
    ),
]
DISTILLATION.extend(FEATURES)

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
    TranslationRanking: {"margin": 0.1, "scale": 7.0, "guide_margin": 0.2},
    HiddenStateDistillation: {
        "layers": [[0, 0], [1, 3], [-1, -1]],
        "projection": [3, 4],
        "embedding_layer": True,
        "target": "states",
    },
    AttentionRelations: {
        "num_relation_heads": 4,
        "student_layer": 2,
        "teacher_layer": -3,
        "target": "heads",
    },
    PerLayer: {
        "inner": EmbeddingDistillation("mse", projection=[3, 4], target="pooled"),
        "layers": [1, 3],
    },
}
