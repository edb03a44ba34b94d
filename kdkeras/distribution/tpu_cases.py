"""Every student, loss and optimizer path that ships, each in a training step to check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kdkeras.data import Vocabulary
from kdkeras.distillation import Distiller
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
from kdkeras.optimizers import FusedAdam
from kdkeras.students import PRESETS, from_preset

__all__ = ["batch_spec", "shipped_cases"]

OUTPUT_DIM = 384
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
}
ALIGNMENT: dict[str, Callable[[], Any]] = {
    "TranslationRanking": TranslationRanking,
    "TranslationRanking guided": partial(TranslationRanking, guide_margin=0.1),
}
OPTIMIZERS: dict[str, Callable[[], keras.Optimizer]] = {
    "FusedAdam": FusedAdam,
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

Build = Callable[[], Distiller]


def batch_spec(batch_size: int, sequence_length: int) -> Any:
    """Returns what a batch of pairs looks like, with static shapes."""
    rows = tf.TensorSpec((batch_size, sequence_length), tf.int32)
    x = {f"{s}_{n}": rows for s in ("source", "translation") for n in ("token_ids", "padding_mask")}
    x["source_id"] = tf.TensorSpec((batch_size,), tf.int64)
    return x, {"embedding": tf.TensorSpec((batch_size, OUTPUT_DIM), tf.float32)}


def shipped_cases(
    vocabulary: Vocabulary, precision: str, sequence_length: int
) -> Iterator[tuple[str, Build]]:
    """Yields every case: its name, and what builds its compiled Distiller.

    Args:
        vocabulary: The students' vocabulary.
        precision: `"float32"` or `"bfloat16"`.
        sequence_length: Tokens that the students read.
    """
    policy = "float32" if precision == "float32" else f"mixed_{precision}"

    def build(preset: str = "static_128", optimizer: str = "FusedAdam", **losses: Any) -> Distiller:
        student = from_preset(
            preset,
            vocabulary=vocabulary,
            output_dim=OUTPUT_DIM,
            sequence_length=sequence_length,
            dtype=policy,
        )
        distiller = Distiller(student, **(losses or _all_losses()))
        distiller.compile(OPTIMIZERS[optimizer](), jit_compile=False)
        return distiller

    for preset in PRESETS:
        yield f"{preset}, all losses", partial(build, preset)
    for name, loss in DISTILLATION.items():
        yield name, partial(build, distillation_losses={"one": loss()})
    for name, loss in ALIGNMENT.items():
        yield name, partial(build, alignment_losses={"one": loss()})
    for name in OPTIMIZERS:
        yield name, partial(build, optimizer=name)
    yield "micro-batches", partial(build, micro_batches=2, **_all_losses())
    # No divisor of the usual batch sizes, and one.
    for size in (30, 32):
        yield f"chunks of {size}", partial(build, "tiny", chunk_size=size, **_all_losses())


def _all_losses() -> dict[str, Any]:
    return {
        "distillation_losses": {
            "embedding": EmbeddingDistillation(),
            "similarity": SimilarityDistillation(),
        },
        "alignment_losses": {"ranking": TranslationRanking(guide_margin=0.1)},
    }
