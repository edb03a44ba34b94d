"""The table of losses: add a new loss here, once.

An entry has a non-default value of every argument, and cases: the loss in one
setting, its float64 oracle, and what it reads. The first case has the defaults.
`test_every_loss.py` checks all properties on this table.
"""

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
from keras.tree import flatten, map_structure

from kdkeras.losses import (
    AlignmentLoss,
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

Shape = Any
"""`(4, 5)`, or a list or dict of shapes."""


class Case(NamedTuple):
    """A loss in one setting, as a function of (teacher, student).

    Each side is an array, or a list or dict of arrays like its shape. For
    alignment losses, the sides are the source and the translation.
    """

    label: str
    loss: Callable[..., Any]
    oracle: Callable[..., np.ndarray]
    shape: Shape = (4, 5)
    student_shape: Shape | None = None
    """Defaults to `shape`."""
    same: Callable[[Any], Any] | None = copy.deepcopy
    """Makes the student at which the loss is 0 from a teacher; None if there is none."""
    parts: Mapping[str, Any] = {}
    """Other parts of the batch that the loss and its oracle read, one row per example."""
    cached: Callable[[Any], tuple[Any, dict[str, Any]]] | None = None
    """Makes the cached target, and further parts, from the whole output of the teacher."""
    any_order: bool = True
    """Whether the value of an example is independent of the order of the batch."""

    @property
    def aligns(self) -> bool:
        return isinstance(self.loss, AlignmentLoss)

    def value(self, teacher: Any, student: Any, rows: Any = slice(None), **more: Any) -> Any:
        """Loss of each example; with `rows`, of these examples in this order."""
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

    def inputs(self, kind: str = "random") -> tuple[Any, Any]:
        """Teacher and student: `"random"`, with `"ties"`, or with `"equal rows"`."""
        shapes = (self.shape, self.student_shape or self.shape)
        generator = np.random.default_rng(0)
        if kind == "random":
            return tuple(_filled(shape, iter(generator.normal(size=1000))) for shape in shapes)
        bound = 3 if kind == "ties" else 0
        sides = [
            _filled(shape, iter(generator.integers(-bound, bound + 1, 1000))) for shape in shapes
        ]
        for side, sign in zip(sides, (1, -1), strict=True):
            for array in flatten(side):
                array[..., 0] += 4 * sign  # A vector of zeros has no direction.
                if isinstance(self.loss, RelationalDistance | RelationalAngle):
                    # Nor have the distance and the angle of equal vectors.
                    array[:, 1:] += 8 * sign * np.eye(4, dtype="float32")
        return tuple(sides)


class Entry(NamedTuple):
    """A loss in the table."""

    arguments: dict[str, Any]
    """A non-default value of every argument."""
    cases: list[Case]


def _filled(shape: Shape, numbers: Any) -> Any:
    if isinstance(shape, tuple):
        return np.array(list(islice(numbers, int(np.prod(shape)))), "float32").reshape(shape)
    if isinstance(shape, dict):
        return {name: _filled(part, numbers) for name, part in shape.items()}
    return [_filled(part, numbers) for part in shape]


def top(k: int, temperature: float = 1.0) -> Callable[[Any], tuple[Any, dict[str, Any]]]:
    """What a batch contains if only the teacher's top k logits are stored."""

    def cached(logits: Any) -> tuple[Any, dict[str, Any]]:
        kept = top_k_targets(logits, k, (temperature, 9.0))
        rest = kept[f"top_rest_{temperature:g}"]
        return kept["top_logits"], {"top_indices": kept["top_indices"], "top_rest": rest}

    return cached


def of_tokens(oracle: Callable[..., np.ndarray], **arguments: Any) -> Callable[..., np.ndarray]:
    """The oracle of a loss on tokens."""
    return partial(oracles_logits.of_tokens, oracle, **arguments)


def with_queue(loss: Any) -> Any:
    """A loss to whose queue QUEUE was added, two rows at a time."""
    for start in range(0, len(QUEUE), 2):
        loss.enqueue(QUEUE[start : start + 2])
    return loss


SOURCE_ID = np.array([7, 8, 7, 9])
LABEL = np.array([1, 4, 0, 1])
GUIDE = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]], "float32")
QUEUE = np.random.default_rng(7).normal(size=(5, 5)).astype("float32")
ROTATION = np.linalg.qr(np.random.default_rng(8).normal(size=(5, 5)))[0].astype("float32")
# No padding, padding after the tokens, no real token, and padding before the tokens.
PADDING = {"padding_mask": np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]])}
TOKEN_LOGITS = (4, 4, 5)
STATES = (4, 4, 6)
ATTENTION = dict.fromkeys(("query", "key", "value"), STATES)
PROJECTED = HiddenStateDistillation({1: 1, -1: 2}, projection=(6, 6))
KERNEL = np.asarray(PROJECTED.kernel)
# The student's embeddings after the input and after two layers.
LAYERS = {"student_shape": [(4, 5)] * 3, "same": lambda teacher: [teacher] * 3}

LOSSES: dict[type, Entry] = {
    # ---- embeddings ----
    EmbeddingDistillation: Entry(
        {"metric": "mse", "projection": [3, 4], "target": "pooled"},
        [
            Case("defaults", EmbeddingDistillation(), oracles.embedding_cosine),
            Case("mse", EmbeddingDistillation("mse"), oracles.embedding_mse),
            Case("l2", EmbeddingDistillation("l2"), oracles.embedding_l2),
        ],
    ),
    SimilarityDistillation: Entry(
        {"temperature": 0.2, "exclude_self": True, "target": "pooled"},
        [
            Case("defaults", SimilarityDistillation(), oracles.similarity),
            Case(
                "without self",
                SimilarityDistillation(temperature=0.3, exclude_self=True),
                partial(oracles.similarity, temperature=0.3, exclude_self=True),
            ),
        ],
    ),
    QueueDistillation: Entry(
        {
            "dim": 3,
            "size": 7,
            "temperature": 0.2,
            "student_temperature": 0.3,
            "target": "pooled",
        },
        [
            Case(
                "defaults, empty slots",
                with_queue(QueueDistillation(5, size=7)),
                partial(oracles_embeddings.queue_similarity, queue=QUEUE),
            ),
            Case(
                "full",
                with_queue(QueueDistillation(5, size=3, temperature=0.2)),
                partial(oracles_embeddings.queue_similarity, queue=QUEUE[-3:], temperature=0.2),
            ),
            Case(
                "two temperatures",
                with_queue(QueueDistillation(5, size=5, temperature=0.1, student_temperature=0.3)),
                partial(
                    oracles_embeddings.queue_similarity,
                    queue=QUEUE,
                    temperature=0.1,
                    student_temperature=0.3,
                ),
                same=None,
            ),
        ],
    ),
    QueueContrast: Entry(
        {"dim": 3, "size": 7, "temperature": 0.2, "guide_margin": 0.3, "target": "pooled"},
        [
            Case(
                "defaults, empty slots",
                with_queue(QueueContrast(5, size=7)),
                partial(oracles_embeddings.queue_contrast, queue=QUEUE),
                same=None,
            ),
            Case(
                "guided",
                with_queue(QueueContrast(5, size=3, temperature=0.3, guide_margin=0.75)),
                partial(
                    oracles_embeddings.queue_contrast,
                    queue=QUEUE[-3:],
                    temperature=0.3,
                    guide_margin=0.75,
                ),
                same=None,
            ),
        ],
    ),
    SimilarityMatrix: Entry(
        {"target": "pooled"}, [Case("defaults", SimilarityMatrix(), oracles.similarity_matrix)]
    ),
    RelationalDistance: Entry(
        {"target": "pooled"}, [Case("defaults", RelationalDistance(), oracles.relational_distance)]
    ),
    RelationalAngle: Entry(
        {"max_neighbors": 5, "target": "pooled"},
        [
            Case("defaults", RelationalAngle(), oracles.relational_angle),
            Case(
                "three neighbors",
                RelationalAngle(max_neighbors=3),
                partial(oracles.relational_angle, max_neighbors=3),
                any_order=False,
            ),
        ],
    ),
    KerasLoss: Entry(
        {"function": keras.losses.huber, "temperature": 4.0, "target": "pooled"},
        [
            Case("defaults", KerasLoss(keras.losses.MeanSquaredError()), oracles.embedding_mse),
            Case(
                "tokens",
                KerasLoss("mse", temperature=2.0),
                lambda teacher, student: oracles.embedding_mse(teacher / 2, student / 2).mean(-1),
                (4, 3, 5),
            ),
        ],
    ),
    Matryoshka: Entry(
        {
            "inner": SimilarityDistillation(0.2, target="pooled"),
            "dims": [2, 3],
            "dim_weights": [0.5, 2.0],
            "rotation": 3,
        },
        [
            Case(
                "defaults",
                Matryoshka(EmbeddingDistillation(), [2, 5]),
                partial(oracles_embeddings.matryoshka, inner=oracles.embedding_cosine, dims=[2, 5]),
            ),
            Case(
                "weighted and rotated",
                Matryoshka(SimilarityDistillation(0.2), [3, 4], [0.5, 2.0], ROTATION),
                partial(
                    oracles_embeddings.matryoshka,
                    inner=partial(oracles.similarity, temperature=0.2),
                    dims=[3, 4],
                    dim_weights=[0.5, 2.0],
                    rotation=ROTATION,
                ),
            ),
        ],
    ),
    # ---- logits ----
    SoftTargets: Entry(
        {"temperature": 4.0, "standardize": True, "target": "scores"},
        [
            Case("defaults", SoftTargets(), oracles.soft_targets),
            Case(
                "standardized",
                SoftTargets(temperature=2.0, standardize=True),
                partial(oracles.standardized_targets, temperature=2.0),
            ),
        ],
    ),
    CorrelationDistillation: Entry(
        {"temperature": 4.0, "row_weight": 0.5, "column_weight": 2.0, "target": "scores"},
        [
            Case("defaults", CorrelationDistillation(), oracles.correlation),
            Case(
                "weighted",
                CorrelationDistillation(temperature=2.0, row_weight=0.5, column_weight=2.0),
                partial(oracles.correlation, temperature=2.0, row_weight=0.5, column_weight=2.0),
            ),
        ],
    ),
    DecoupledDistillation: Entry(
        {"temperature": 4.0, "label_weight": 0.5, "other_weight": 8.0, "target": "scores"},
        [
            Case(
                "defaults",
                DecoupledDistillation(),
                oracles_logits.decoupled,
                parts={"label": LABEL},
            ),
            Case(
                "weighted",
                DecoupledDistillation(temperature=2.0, label_weight=0.5, other_weight=8.0),
                partial(
                    oracles_logits.decoupled, temperature=2.0, label_weight=0.5, other_weight=8.0
                ),
                parts={"label": LABEL},
            ),
        ],
    ),
    LogitMSE: Entry(
        {"standardize": True, "target": "scores"},
        [
            Case("defaults", LogitMSE(), oracles_logits.logit_mse),
            Case("standardized", LogitMSE(standardize=True), oracles_logits.standardized_mse),
        ],
    ),
    TopKSoftTargets: Entry(
        {"temperature": 2.5, "prefix": "best", "student_output": "scores"},
        [
            Case("defaults", TopKSoftTargets(), partial(oracles_logits.top_k, k=2), cached=top(2)),
            Case(
                "softened",
                TopKSoftTargets(temperature=2.5),
                partial(oracles_logits.top_k, k=3, temperature=2.5),
                cached=top(3, 2.5),
            ),
            Case("all classes", TopKSoftTargets(), oracles.soft_targets, cached=top(5)),
        ],
    ),
    TokenSoftTargets: Entry(
        {
            "temperature": 4.0,
            "standardize": True,
            "padding_mask": "decoder_padding_mask",
            "target": "scores",
        },
        [
            Case(
                "defaults",
                TokenSoftTargets(),
                of_tokens(oracles.soft_targets),
                TOKEN_LOGITS,
                parts=PADDING,
            ),
            Case(
                "standardized",
                TokenSoftTargets(temperature=2.0, standardize=True),
                of_tokens(oracles.standardized_targets, temperature=2.0),
                TOKEN_LOGITS,
                parts=PADDING,
            ),
            Case(
                "without padding",
                TokenSoftTargets(padding_mask=None),
                oracles.soft_targets,
                (4, 3, 5),
            ),
        ],
    ),
    TokenLogitMSE: Entry(
        {"standardize": True, "padding_mask": "decoder_padding_mask", "target": "scores"},
        [
            Case(
                "defaults",
                TokenLogitMSE(),
                of_tokens(oracles_logits.logit_mse),
                TOKEN_LOGITS,
                parts=PADDING,
            ),
            Case(
                "standardized",
                TokenLogitMSE(standardize=True),
                of_tokens(oracles_logits.standardized_mse),
                TOKEN_LOGITS,
                parts=PADDING,
            ),
        ],
    ),
    TokenTopKSoftTargets: Entry(
        {
            "temperature": 2.5,
            "prefix": "best",
            "student_output": "scores",
            "padding_mask": "decoder_padding_mask",
        },
        [
            Case(
                "defaults",
                TokenTopKSoftTargets(),
                of_tokens(oracles_logits.top_k, k=3),
                TOKEN_LOGITS,
                parts=PADDING,
                cached=top(3),
            ),
            Case(
                "softened",
                TokenTopKSoftTargets(temperature=2.0),
                of_tokens(oracles_logits.top_k, k=2, temperature=2.0),
                TOKEN_LOGITS,
                parts=PADDING,
                cached=top(2, 2.0),
            ),
        ],
    ),
    # ---- layers ----
    HiddenStateDistillation: Entry(
        {
            "layers": [[0, 0], [1, 3], [-1, -1]],
            "projection": [3, 4],
            "embedding_layer": True,
            "target": "states",
        },
        [
            Case(
                "defaults",
                HiddenStateDistillation(),
                partial(oracles_features.hidden_states, pairs=[(1, 1), (2, 2)]),
                [STATES] * 3,
                parts=PADDING,
            ),
            Case(
                "deeper teacher",
                HiddenStateDistillation(embedding_layer=True),
                partial(oracles_features.hidden_states, pairs=[(0, 0), (1, 1), (2, 3)]),
                [STATES] * 4,
                [STATES] * 3,
                same=lambda teacher: [teacher[0], teacher[1], teacher[3]],
                parts=PADDING,
            ),
            Case(
                "projected",
                PROJECTED,
                partial(oracles_features.hidden_states, pairs=[(1, 1), (2, 2)], kernel=KERNEL),
                [STATES] * 3,
                # The kernel is orthonormal.
                same=lambda teacher: [state @ KERNEL.T for state in teacher],
                parts=PADDING,
            ),
        ],
    ),
    MiniLMv2: Entry(
        {"num_relation_heads": 4, "student_layer": 2, "teacher_layer": -3, "target": "heads"},
        [
            Case(
                "defaults",
                MiniLMv2(2),
                partial(oracles_features.attention_relations, num_relation_heads=2),
                [ATTENTION] * 2,
                parts=PADDING,
            ),
            Case(
                "middle layer",
                MiniLMv2(3, student_layer=1, teacher_layer=2),
                partial(
                    oracles_features.attention_relations,
                    num_relation_heads=3,
                    student_layer=0,
                    teacher_layer=1,
                ),
                [ATTENTION] * 3,
                [ATTENTION] * 2,
                same=lambda teacher: [teacher[1], teacher[0]],
                parts=PADDING,
            ),
        ],
    ),
    PerLayer: Entry(
        {
            "inner": EmbeddingDistillation("mse", projection=[3, 4], target="pooled"),
            "layers": [1, 3],
        },
        [
            Case(
                "defaults",
                PerLayer(EmbeddingDistillation()),
                partial(oracles_features.per_layer, inner=oracles.embedding_cosine, layers=[1, 2]),
                **LAYERS,
            ),
            Case(
                "Matryoshka in two layers",
                PerLayer(Matryoshka(SimilarityDistillation(0.3), [2, 5]), layers=[0, -1]),
                partial(
                    oracles_features.per_layer,
                    inner=partial(
                        oracles_embeddings.matryoshka,
                        inner=partial(oracles.similarity, temperature=0.3),
                        dims=[2, 5],
                    ),
                    layers=[0, 2],
                ),
                **LAYERS,
            ),
        ],
    ),
    # ---- alignment ----
    TranslationRanking: Entry(
        {"margin": 0.1, "scale": 7.0, "guide_margin": 0.2},
        [
            Case("defaults", TranslationRanking(), oracles.translation_ranking, same=None),
            Case(
                "repeated sources",
                TranslationRanking(margin=0.1, scale=5.0),
                partial(oracles.translation_ranking, margin=0.1, scale=5.0),
                same=None,
                parts={"source_id": SOURCE_ID},
            ),
            Case(
                "guided, repeated sources",
                TranslationRanking(guide_margin=0.05),
                partial(oracles.translation_ranking, guide_margin=0.05),
                same=None,
                parts={"source_id": SOURCE_ID, "teacher": GUIDE},
            ),
        ],
    ),
    SpreadOut: Entry(
        {},
        [
            Case("defaults", SpreadOut(), oracles_embeddings.spread_out, same=None),
            Case(
                "repeated sources",
                SpreadOut(),
                oracles_embeddings.spread_out,
                same=None,
                parts={"source_id": SOURCE_ID},
            ),
        ],
    ),
    VICReg: Entry(
        {
            "invariance_weight": 1.0,
            "variance_weight": 2.0,
            "covariance_weight": 3.0,
            "target_std": 0.5,
        },
        [
            Case("defaults", VICReg(), oracles_embeddings.vicreg, same=None),
            Case(
                "weighted",
                VICReg(0.5, 2.0, 3.0, target_std=1.5),
                partial(
                    oracles_embeddings.vicreg,
                    invariance_weight=0.5,
                    variance_weight=2.0,
                    covariance_weight=3.0,
                    target_std=1.5,
                ),
                same=None,
            ),
        ],
    ),
    BarlowTwins: Entry(
        {"redundancy_weight": 0.1},
        [
            Case("defaults", BarlowTwins(), oracles_embeddings.barlow_twins, same=None),
            Case(
                "weighted",
                BarlowTwins(redundancy_weight=0.5),
                partial(oracles_embeddings.barlow_twins, redundancy_weight=0.5),
                same=None,
            ),
        ],
    ),
    MatryoshkaAlignment: Entry(
        {"inner": TranslationRanking(0.1), "dims": [2, 3], "dim_weights": [0.5, 2.0]},
        [
            Case(
                "defaults",
                MatryoshkaAlignment(SpreadOut(), [2, 5]),
                partial(
                    oracles_embeddings.matryoshka, inner=oracles_embeddings.spread_out, dims=[2, 5]
                ),
                same=None,
            ),
            Case(
                "weighted",
                MatryoshkaAlignment(TranslationRanking(margin=0.1, scale=5.0), [2, 5], [0.5, 2.0]),
                partial(
                    oracles_embeddings.matryoshka,
                    inner=partial(oracles.translation_ranking, margin=0.1, scale=5.0),
                    dims=[2, 5],
                    dim_weights=[0.5, 2.0],
                ),
                same=None,
                parts={"source_id": SOURCE_ID},
            ),
        ],
    ),
}
