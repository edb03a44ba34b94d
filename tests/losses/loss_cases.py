"""Every loss with non-default arguments, its oracle, and inputs that it takes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import keras
import numpy as np
import oracles
import oracles_embeddings
import oracles_features
import oracles_logits
from keras.tree import map_structure

from kdkeras.losses import (
    BarlowTwins,
    CorrelationDistillation,
    DecoupledDistillation,
    EmbeddingDistillation,
    HiddenStateDistillation,
    KerasLoss,
    LogitMSE,
    Matryoshka,
    MatryoshkaAlignment,
    MiniLMv2,
    PerLayer,
    QueueContrast,
    QueueDistillation,
    RelationalAngle,
    RelationalDistance,
    SimilarityDistillation,
    SimilarityMatrix,
    SoftTargets,
    SpreadOut,
    TokenLogitMSE,
    TokenSoftTargets,
    TokenTopKSoftTargets,
    TopKSoftTargets,
    TranslationRanking,
    VICReg,
    top_k_targets,
)

SOURCE_ID = np.array([7, 8, 7, 9])
QUEUE = np.random.default_rng(7).normal(size=(5, 5)).astype("float32")
ROTATION = np.linalg.qr(np.random.default_rng(8).normal(size=(5, 5)))[0].astype("float32")
GUIDE = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]], "float32")
LABEL = np.array([1, 4, 0, 1])
# No padding, some, a sentence without a token, and padding before the tokens.
PADDING = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]])

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
    same: Callable[[Any], Any] | None = copy.deepcopy
    """The student that says what the teacher says; None if it is not the best one."""
    parts: Mapping[str, Any] = {}
    """What else of the batch it reads, one row an example; the oracle reads the same."""
    cached: Callable[[Any], tuple[Any, dict[str, Any]]] | None = None
    """Makes what the batch holds of the teacher, and more parts; None if it holds all."""

    def value(self, teacher: Any, student: Any, rows: Any = slice(None), **more: Any) -> Any:
        """The loss of each example; with `rows` of these, in this order."""
        of_rows = partial(map_structure, lambda values: values[rows])
        parts = of_rows(dict(self.parts))
        teacher, student = of_rows(teacher), of_rows(student)
        if self.cached is not None:
            teacher, kept = self.cached(teacher)
            parts.update(kept)
        return self.loss(teacher, student, **parts, **more)

    def expected(self, teacher: Any, student: Any) -> np.ndarray:
        """The same by the oracle."""
        return self.oracle(teacher, student, **self.parts)

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


TOKENS = (4, 4, 6)
LAYER = dict.fromkeys(("query", "key", "value"), TOKENS)
PROJECTED = HiddenStateDistillation({1: 1, -1: 2}, projection=(6, 6))
KERNEL = np.asarray(PROJECTED.kernel)


def top(k: int, temperature: float = 1.0) -> Callable[[Any], tuple[Any, dict[str, Any]]]:
    """What a batch holds of a teacher whose top k are kept."""

    def cached(logits: Any) -> tuple[Any, dict[str, Any]]:
        kept = top_k_targets(logits, k, (temperature, 9.0))
        rest = kept[f"top_rest_{temperature:g}"]
        return kept["top_logits"], {"top_indices": kept["top_indices"], "top_rest": rest}

    return cached


def of_tokens(oracle: Callable[..., np.ndarray], **arguments: Any) -> Callable[..., np.ndarray]:
    """The oracle of a loss on tokens."""
    return partial(oracles_logits.of_tokens, oracle, **arguments)


OF_TOKENS: dict[str, Any] = {"shape": (4, 4, 5), "parts": {"padding_mask": PADDING}}


def filled(loss, rows=QUEUE):
    """A loss whose queue has been given rows, two at a time."""
    for start in range(0, len(rows), 2):
        loss.enqueue(rows[start : start + 2])
    return loss


DISTILLATION = [
    Case("cosine", EmbeddingDistillation(), oracles.embedding_cosine),
    Case("mse", EmbeddingDistillation("mse"), oracles.embedding_mse),
    Case("l2", EmbeddingDistillation("l2"), oracles.embedding_l2),
    Case("similarity", SimilarityDistillation(), oracles.similarity),
    Case(
        "similarity_without_self",
        SimilarityDistillation(temperature=0.3, exclude_self=True),
        partial(oracles.similarity, temperature=0.3, exclude_self=True),
    ),
    Case("soft_targets", SoftTargets(), oracles.soft_targets),
    Case("softened", SoftTargets(temperature=3.0), partial(oracles.soft_targets, temperature=3.0)),
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
    Case("logit_mse", LogitMSE(), oracles_logits.logit_mse),
    Case("logit_mse_standardized", LogitMSE(standardize=True), oracles_logits.standardized_mse),
    Case("decoupled", DecoupledDistillation(), oracles_logits.decoupled, parts={"label": LABEL}),
    Case(
        "decoupled_weighted",
        DecoupledDistillation(temperature=2.0, label_weight=0.5, other_weight=8.0),
        partial(oracles_logits.decoupled, temperature=2.0, label_weight=0.5, other_weight=8.0),
        parts={"label": LABEL},
    ),
    Case("top_two", TopKSoftTargets(), partial(oracles_logits.top_k, k=2), cached=top(2)),
    Case(
        "top_three_softened",
        TopKSoftTargets(temperature=2.5),
        partial(oracles_logits.top_k, k=3, temperature=2.5),
        cached=top(3, 2.5),
    ),
    Case("top_all", TopKSoftTargets(), oracles.soft_targets, cached=top(5)),
    Case("token_targets", TokenSoftTargets(), of_tokens(oracles.soft_targets), **OF_TOKENS),
    Case(
        "token_targets_softened",
        TokenSoftTargets(temperature=2.0),
        of_tokens(oracles.soft_targets, temperature=2.0),
        **OF_TOKENS,
    ),
    Case(
        "token_targets_standardized",
        TokenSoftTargets(temperature=2.0, standardize=True),
        of_tokens(oracles.standardized_targets, temperature=2.0),
        **OF_TOKENS,
    ),
    Case(
        "token_targets_without_padding",
        TokenSoftTargets(padding_mask=None),
        oracles.soft_targets,
        (4, 3, 5),
    ),
    Case("token_mse", TokenLogitMSE(), of_tokens(oracles_logits.logit_mse), **OF_TOKENS),
    Case(
        "token_top_two",
        TokenTopKSoftTargets(temperature=2.0),
        of_tokens(oracles_logits.top_k, k=2, temperature=2.0),
        **OF_TOKENS,
        cached=top(2, 2.0),
    ),
    Case(
        "token_top_three",
        TokenTopKSoftTargets(),
        of_tokens(oracles_logits.top_k, k=3),
        **OF_TOKENS,
        cached=top(3),
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
        same=None,
    ),
    Case(
        "queue_contrast",
        filled(QueueContrast(5, size=7)),
        partial(oracles_embeddings.queue_contrast, queue=QUEUE),
        same=None,
    ),
    Case(
        "queue_contrast_guided",
        filled(QueueContrast(5, size=3, temperature=0.3, guide_margin=0.75)),
        partial(
            oracles_embeddings.queue_contrast, queue=QUEUE[-3:], temperature=0.3, guide_margin=0.75
        ),
        same=None,
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
        same=lambda teacher: teacher @ ROTATION,
    ),
]

FEATURES = [
    Case(
        "hidden_states",
        HiddenStateDistillation(),
        partial(oracles_features.hidden_states, pairs=[(1, 1), (2, 2)]),
        [TOKENS] * 3,
        parts={"padding_mask": PADDING},
    ),
    Case(
        "hidden_states_of_a_deeper_teacher",
        HiddenStateDistillation(embedding_layer=True),
        partial(oracles_features.hidden_states, pairs=[(0, 0), (1, 1), (2, 3)]),
        [TOKENS] * 4,
        [TOKENS] * 3,
        same=lambda teacher: [teacher[0], teacher[1], teacher[3]],
        parts={"padding_mask": PADDING},
    ),
    Case(
        "hidden_states_projected",
        PROJECTED,
        partial(oracles_features.hidden_states, pairs=[(1, 1), (2, 2)], kernel=KERNEL),
        [TOKENS] * 3,
        # Its columns are orthonormal.
        same=lambda teacher: [state @ KERNEL.T for state in teacher],
        parts={"padding_mask": PADDING},
    ),
    Case(
        "attention_relations",
        MiniLMv2(2),
        partial(oracles_features.attention_relations, num_relation_heads=2),
        [LAYER] * 2,
        parts={"padding_mask": PADDING},
    ),
    Case(
        "attention_relations_of_a_middle_layer",
        MiniLMv2(3, student_layer=1, teacher_layer=2),
        partial(
            oracles_features.attention_relations,
            num_relation_heads=3,
            student_layer=0,
            teacher_layer=1,
        ),
        [LAYER] * 3,
        [LAYER] * 2,
        same=lambda teacher: [teacher[1], teacher[0]],
        parts={"padding_mask": PADDING},
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
        "per_layer_matryoshka",
        PerLayer(Matryoshka(EmbeddingDistillation(), [2, 5])),
        partial(
            oracles_features.per_layer,
            inner=partial(
                oracles_embeddings.matryoshka, inner=oracles.embedding_cosine, dims=[2, 5]
            ),
            layers=[1, 2],
        ),
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
        TranslationRanking(margin=0.1, scale=5.0),
        partial(oracles.translation_ranking, margin=0.1, scale=5.0),
        parts={"source_id": SOURCE_ID},
    ),
    Case(
        "ranking_with_guide",
        TranslationRanking(guide_margin=0.05),
        partial(oracles.translation_ranking, guide_margin=0.05),
        parts={"teacher": GUIDE},
    ),
    Case(
        "ranking_with_both",
        TranslationRanking(guide_margin=0.05),
        partial(oracles.translation_ranking, guide_margin=0.05),
        parts={"source_id": SOURCE_ID, "teacher": GUIDE},
    ),
    Case("spread_out", SpreadOut(), oracles_embeddings.spread_out),
    Case(
        "spread_out_with_duplicates",
        SpreadOut(),
        oracles_embeddings.spread_out,
        parts={"source_id": SOURCE_ID},
    ),
    Case("variance_covariance", VICReg(), oracles_embeddings.variance_covariance),
    Case(
        "variance_covariance_weighted",
        VICReg(0.5, 2.0, 3.0, target_std=1.5),
        partial(
            oracles_embeddings.variance_covariance,
            invariance_weight=0.5,
            variance_weight=2.0,
            covariance_weight=3.0,
            target_std=1.5,
        ),
    ),
    Case("cross_correlation", BarlowTwins(), oracles_embeddings.cross_correlation),
    Case(
        "cross_correlation_weighted",
        BarlowTwins(redundancy_weight=0.5),
        partial(oracles_embeddings.cross_correlation, redundancy_weight=0.5),
    ),
    Case(
        "matryoshka_spread_out",
        MatryoshkaAlignment(SpreadOut(), [2, 5]),
        partial(oracles_embeddings.matryoshka, inner=oracles_embeddings.spread_out, dims=[2, 5]),
    ),
    Case(
        "matryoshka_ranking",
        MatryoshkaAlignment(TranslationRanking(margin=0.1, scale=5.0), [2, 5], [0.5, 2.0]),
        partial(
            oracles_embeddings.matryoshka,
            inner=partial(oracles.translation_ranking, margin=0.1, scale=5.0),
            dims=[2, 5],
            dim_weights=[0.5, 2.0],
        ),
        parts={"source_id": SOURCE_ID},
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
    DecoupledDistillation: {
        "temperature": 4.0,
        "label_weight": 0.5,
        "other_weight": 8.0,
        "target": "scores",
    },
    LogitMSE: {"standardize": True, "target": "scores"},
    TopKSoftTargets: {"temperature": 2.5, "prefix": "best", "student_output": "scores"},
    TokenSoftTargets: {
        "temperature": 4.0,
        "standardize": True,
        "padding_mask": "decoder_padding_mask",
        "target": "scores",
    },
    TokenLogitMSE: {
        "standardize": True,
        "padding_mask": "decoder_padding_mask",
        "target": "scores",
    },
    TokenTopKSoftTargets: {
        "temperature": 2.5,
        "prefix": "best",
        "student_output": "scores",
        "padding_mask": "decoder_padding_mask",
    },
    SimilarityMatrix: {"target": "pooled"},
    RelationalDistance: {"target": "pooled"},
    RelationalAngle: {"max_neighbours": 5, "target": "pooled"},
    KerasLoss: {"function": keras.losses.huber, "temperature": 4.0, "target": "pooled"},
    TranslationRanking: {"margin": 0.1, "scale": 7.0, "guide_margin": 0.2},
    HiddenStateDistillation: {
        "layers": [[0, 0], [1, 3], [-1, -1]],
        "projection": [3, 4],
        "embedding_layer": True,
        "target": "states",
    },
    MiniLMv2: {
        "num_relation_heads": 4,
        "student_layer": 2,
        "teacher_layer": -3,
        "target": "heads",
    },
    PerLayer: {
        "inner": EmbeddingDistillation("mse", projection=[3, 4], target="pooled"),
        "layers": [1, 3],
    },
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
    VICReg: {
        "invariance_weight": 1.0,
        "variance_weight": 2.0,
        "covariance_weight": 3.0,
        "target_std": 0.5,
    },
    BarlowTwins: {"redundancy_weight": 0.1},
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
