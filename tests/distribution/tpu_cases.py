"""Training steps that cover every student, loss and optimizer path of the package."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import keras_hub
import tensorflow as tf
from keras import ops

from kdkeras.data import Vocabulary
from kdkeras.distillation import Distiller, RunningMagnitude, UncertaintyWeighting
from kdkeras.layers import EmbeddingTable, MeanPooling
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
)
from kdkeras.optimizers import FusedAdam
from kdkeras.schedules import Delayed, LinearDecay, LinearWarmup, Piecewise
from kdkeras.students import SIZES, build_student
from kdkeras.teachers.sentence_encoder import SentenceEncoder

OUTPUT_DIM = 384
TAGGER = "tagger"
TOP_K = 8
DISTILLATION: dict[str, Callable[[], Any]] = {
    "EmbeddingDistillation cosine": EmbeddingDistillation,
    "EmbeddingDistillation mse": partial(EmbeddingDistillation, metric="mse"),
    "EmbeddingDistillation projected": partial(
        EmbeddingDistillation, projection=(OUTPUT_DIM, OUTPUT_DIM)
    ),
    "SimilarityDistillation": SimilarityDistillation,
    "SimilarityDistillation without self": partial(SimilarityDistillation, exclude_self=True),
    "SimilarityMatrix": SimilarityMatrix,
    "RelationalDistance": RelationalDistance,
    "RelationalAngle": RelationalAngle,
    "SoftTargets": partial(SoftTargets, temperature=2.0, target="embedding"),
    "SoftTargets standardized": partial(SoftTargets, standardize=True, target="embedding"),
    "CorrelationDistillation": partial(CorrelationDistillation, target="embedding"),
    "KerasLoss": partial(KerasLoss, "huber"),
    "LogitMSE": partial(LogitMSE, target="embedding"),
    "LogitMSE standardized": partial(LogitMSE, standardize=True, target="embedding"),
    "DecoupledDistillation": partial(DecoupledDistillation, target="embedding"),
    "TopKSoftTargets": partial(TopKSoftTargets, temperature=2.0, student_output="embedding"),
    "QueueDistillation": partial(QueueDistillation, OUTPUT_DIM),
    "QueueContrast": partial(QueueContrast, OUTPUT_DIM),
    "Matryoshka": lambda: Matryoshka(
        SimilarityDistillation(), [64, OUTPUT_DIM], rotation=OUTPUT_DIM
    ),
}
TOKENS: dict[str, Callable[[], Any]] = {
    "TokenSoftTargets": partial(TokenSoftTargets, target="token_logits"),
    "TokenLogitMSE": partial(TokenLogitMSE, target="token_logits"),
    "TokenTopKSoftTargets": partial(TokenTopKSoftTargets, temperature=2.0, prefix="token_top"),
}
ALIGNMENT: dict[str, Callable[[], Any]] = {
    "TranslationRanking": TranslationRanking,
    "TranslationRanking guided": partial(TranslationRanking, guide_margin=0.1),
    "SpreadOut": SpreadOut,
    "VICReg": VICReg,
    "BarlowTwins": BarlowTwins,
    "MatryoshkaAlignment": lambda: MatryoshkaAlignment(TranslationRanking(), [64, OUTPUT_DIM]),
}
# For a student with layers and a live teacher whose layers have TEACHER_DIM units.
TEACHER_DIM, LAYERED = 64, "tiny"
STATIC = "static_128"
USED = {STATIC, LAYERED}
LAYERS: dict[str, Callable[[], Any]] = {
    "HiddenStateDistillation": partial(
        HiddenStateDistillation,
        projection=(SIZES[LAYERED][1]["hidden_dim"], TEACHER_DIM),
        embedding_layer=True,
    ),
    "MiniLMv2": partial(MiniLMv2, num_relation_heads=4, teacher_layer=2),
    # Compares cosines, so the widths of student and teacher may differ.
    "PerLayer": lambda: PerLayer(SimilarityMatrix(), layers=[0, 1, 2]),
}
OPTIMIZERS: dict[str, Callable[[], keras.Optimizer]] = {
    "FusedAdam with a schedule": lambda: FusedAdam(
        keras.optimizers.schedules.CosineDecay(1e-3, decay_steps=10)
    ),
    "FusedAdam with clipnorm": partial(FusedAdam, clipnorm=1.0),
    "FusedAdam with clipvalue": partial(FusedAdam, clipvalue=1.0),
    "FusedAdam with global_clipnorm": partial(FusedAdam, global_clipnorm=1.0),
    "FusedAdam with moving average": partial(FusedAdam, use_ema=True),
    "Adam": keras.optimizers.Adam,
    "AdamW": keras.optimizers.AdamW,
    "SGD": partial(keras.optimizers.SGD, momentum=0.9),
}


def batch_spec(batch_size: int, sequence_length: int) -> Any:
    """A batch of pairs with static shapes and all targets that the losses read."""
    rows = tf.TensorSpec((batch_size, sequence_length), tf.int32)
    x = {f"{s}_{n}": rows for s in ("source", "translation") for n in ("token_ids", "padding_mask")}
    x["source_id"] = tf.TensorSpec((batch_size,), tf.int64)
    y = {
        "embedding": tf.TensorSpec((batch_size, OUTPUT_DIM), tf.float32),
        "label": tf.TensorSpec((batch_size,), tf.int32),
        "token_logits": tf.TensorSpec((batch_size, sequence_length, OUTPUT_DIM), tf.float32),
    }
    for prefix, shape in (("top", [batch_size]), ("token_top", [batch_size, sequence_length])):
        y[f"{prefix}_logits"] = tf.TensorSpec([*shape, TOP_K], tf.float32)
        y[f"{prefix}_indices"] = tf.TensorSpec([*shape, TOP_K], tf.int32)
        y[f"{prefix}_rest_2"] = tf.TensorSpec(shape, tf.float32)
    return x, y


def build(
    vocabulary: Vocabulary,
    precision: str,
    sequence_length: int,
    student: str = STATIC,
    optimizer: str | None = None,
    live: bool = False,
    arguments: Callable[[], dict[str, Any]] | None = None,
) -> Distiller:
    """Returns the compiled Distiller of a case."""
    policy = "float32" if precision == "float32" else f"mixed_{precision}"
    if student == TAGGER:
        model = _tagger(vocabulary.size, sequence_length, policy)
    else:
        model = build_student(
            student,
            vocabulary=vocabulary,
            output_dim=OUTPUT_DIM,
            sequence_length=sequence_length,
            dtype=policy,
        )
    teacher = {"teacher": _teacher(vocabulary, sequence_length)} if live else {}
    distiller = Distiller(model, **(arguments or usual_losses)(), **teacher)
    distiller.compile(OPTIMIZERS.get(optimizer, FusedAdam)(), jit_compile=False)
    return distiller


def together(**kinds: dict[str, Callable[[], Any]]) -> Callable[[], dict[str, Any]]:
    """Arguments of a Distiller that trains with all losses of the tables."""
    return lambda: {
        f"{kind}_losses": {name: loss() for name, loss in losses.items()}
        for kind, losses in kinds.items()
    }


def usual_losses() -> dict[str, Any]:
    return {
        "distillation_losses": {
            "embedding": EmbeddingDistillation(),
            "similarity": SimilarityDistillation(),
        },
        "alignment_losses": {"ranking": TranslationRanking(guide_margin=0.1)},
    }


def scheduled_losses() -> dict[str, Any]:
    """Every kind of schedule, of weights and of temperatures."""
    cosine = keras.optimizers.schedules.CosineDecay(2.0, 10, alpha=0.5)
    linear = keras.optimizers.schedules.PolynomialDecay(2.0, 10, 0.5)
    return {
        "distillation_losses": {
            "embedding": EmbeddingDistillation(),
            "similarity": SimilarityDistillation(cosine),
            "soft": SoftTargets(linear, target="embedding"),
            "correlation": CorrelationDistillation(linear, target="embedding"),
        },
        "alignment_losses": {"ranking": TranslationRanking()},
        "loss_weights": {
            "embedding": LinearWarmup(1.0, 5),
            "similarity": LinearDecay(1.0, 0.5, 10),
            "soft": Piecewise([5], [1.0, Delayed(cosine, 5)]),
            "correlation": keras.optimizers.schedules.PiecewiseConstantDecay([5], [1.0, 0.5]),
            "ranking": linear,
        },
    }


# Name of the case, and the arguments of `build`. Losses that read the same outputs share a step:
# a finding names the operation and its line of Python, and therefore its loss.
CASES: dict[str, dict[str, Any]] = {
    "embedding losses": {"arguments": together(distillation=DISTILLATION)},
    "alignment losses": {"arguments": together(alignment=ALIGNMENT)},
    "token losses": {"student": TAGGER, "arguments": together(distillation=TOKENS)},
    "layer losses": {
        "student": LAYERED,
        "live": True,
        "arguments": together(distillation=LAYERS),
    },
    # The other sizes and the default optimizer are in other cases.
    **{f"student {name}": {"student": name} for name in SIZES if name not in USED},
    **{f"optimizer {name}": {"optimizer": name} for name in OPTIMIZERS},
    "micro-batches, schedules": {"arguments": lambda: {"micro_batches": 2, **scheduled_losses()}},
    "schedules, RunningMagnitude": {
        "arguments": lambda: {"balancing": RunningMagnitude(), **scheduled_losses()}
    },
    # 30 does not divide the batch of 64, 32 does.
    "chunks of 30, UncertaintyWeighting": {
        "student": LAYERED,
        "arguments": lambda: {
            "chunk_size": 30,
            "balancing": UncertaintyWeighting(),
            **usual_losses(),
        },
    },
    "chunks of 32": {
        "student": LAYERED,
        "arguments": lambda: {"chunk_size": 32, **usual_losses()},
    },
}


def _tagger(vocabulary_size: int, sequence_length: int, policy: str) -> keras.Model:
    """A small student whose logits of each token depend on the whole sentence."""
    names = ("token_ids", "padding_mask")
    inputs = {n: keras.Input((sequence_length,), dtype="int32", name=n) for n in names}
    tokens = EmbeddingTable(vocabulary_size, 32, dtype=policy)(inputs["token_ids"])
    sentence = MeanPooling(dtype=policy)(tokens, inputs["padding_mask"])
    hidden = tokens + ops.expand_dims(sentence, 1)
    return keras.Model(inputs, keras.layers.Dense(OUTPUT_DIM, dtype=policy)(hidden))


def _teacher(vocabulary: Vocabulary, sequence_length: int) -> SentenceEncoder:
    """An untrained BERT with the student's vocabulary."""
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=vocabulary.size,
        num_layers=3,
        num_heads=4,
        hidden_dim=TEACHER_DIM,
        intermediate_dim=2 * TEACHER_DIM,
        max_sequence_length=sequence_length,
        dtype="float32",
    )
    return SentenceEncoder(backbone, "mean", [])
