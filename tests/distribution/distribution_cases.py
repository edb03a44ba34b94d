"""What has to give the same model on one replica and on two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
from small_models import every_loss, make_distiller, make_student, make_two_heads, randomized

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
from kdkeras.optimizers import FusedAdam, LazyAdam

# Each replica rounds its part of a gradient to the short type before the sum:
# one unit in the last place of a value of 1.
BFLOAT16, FLOAT16 = 2.0**-8, 2.0**-11


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A Distiller to build (inside a strategy's scope or not) and its data."""

    build: Callable[[], keras.Model]
    rows: int = 8
    batch_size: int = 4
    weighted: bool = False
    tolerance: float = 1e-6
    labelled: bool = False
    taught: bool = False
    """Whether a live teacher gives the targets."""


def sgd(**arguments):
    return keras.optimizers.SGD(0.05, momentum=0.9, **arguments)


def with_loss(name, loss):
    kind = "alignment_losses" if name == "ranking" else "distillation_losses"
    other = {} if kind == "distillation_losses" else {"distillation_losses": {}}
    return lambda: make_distiller(optimizer=sgd(), **{**other, kind: {name: loss()}})


def with_optimizer(make):
    return lambda: make_distiller(optimizer=make(), **every_loss())


def chunked(optimizer, **arguments):
    return make_distiller(optimizer=optimizer, chunk_size=3, **every_loss(), **arguments)


def labelled(regularizer=None, **arguments):
    task = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return make_distiller(
        make_two_heads(regularizer=regularizer),
        optimizer=sgd(),
        loss=task,
        **every_loss(),
        **arguments,
    )


CASES = {
    "cosine": Case(build=with_loss("embedding", EmbeddingDistillation)),
    "mse": Case(build=with_loss("embedding", lambda: EmbeddingDistillation(metric="mse"))),
    "projection": Case(
        build=with_loss(
            "embedding", lambda: randomized(EmbeddingDistillation("mse", projection=(3, 3)))
        ),
        rows=7,
    ),
    "similarity": Case(build=with_loss("similarity", lambda: SimilarityDistillation(0.5))),
    "similarity without self": Case(
        build=with_loss("similarity", lambda: SimilarityDistillation(0.5, exclude_self=True))
    ),
    "ranking": Case(build=with_loss("ranking", lambda: TranslationRanking(scale=3.0))),
    "guided ranking": Case(
        build=with_loss("ranking", lambda: TranslationRanking(scale=3.0, guide_margin=0.6))
    ),
    "soft targets": Case(
        build=with_loss("embedding", lambda: SoftTargets(temperature=2.0, target="embedding"))
    ),
    "similarity matrix": Case(build=with_loss("relations", SimilarityMatrix), rows=7),
    "relational distance": Case(build=with_loss("relations", RelationalDistance), rows=7),
    "relational angle": Case(build=with_loss("relations", RelationalAngle), rows=7),
    "correlation": Case(
        build=with_loss("classes", lambda: CorrelationDistillation(target="embedding")), rows=7
    ),
    "standardized targets": Case(
        build=with_loss("classes", lambda: SoftTargets(standardize=True, target="embedding"))
    ),
    "a loss of Keras": Case(
        build=with_loss("embedding", lambda: KerasLoss(keras.losses.MeanSquaredError())), rows=7
    ),
    "logits distillation of Keras": Case(
        build=lambda: make_distiller(
            make_two_heads(),
            optimizer=sgd(),
            teacher=make_two_heads(seed=5),
            distillation_losses={
                "classes": keras.distillation.LogitsDistillation(
                    temperature=2.0, loss=keras.losses.KLDivergence()
                ),
                "features": keras.distillation.FeatureDistillation("mse"),
            },
        ),
        rows=7,
        weighted=True,
    ),
    "all losses": Case(build=with_optimizer(sgd)),
    "uneven shards": Case(build=with_optimizer(sgd), rows=7),
    "an empty replica": Case(build=with_optimizer(sgd), rows=9),
    "sample weights": Case(build=with_optimizer(sgd), weighted=True, rows=7),
    "labels": Case(build=labelled, labelled=True),
    "labels, uneven": Case(build=labelled, labelled=True, weighted=True, rows=7),
    "regularizer": Case(build=lambda: labelled(keras.regularizers.L2(0.1)), labelled=True, rows=7),
    "Adam": Case(build=with_optimizer(lambda: keras.optimizers.Adam(0.05))),
    "AdamW": Case(build=with_optimizer(lambda: keras.optimizers.AdamW(0.05))),
    "FusedAdam": Case(build=with_optimizer(lambda: FusedAdam(0.05))),
    "LazyAdam": Case(build=with_optimizer(lambda: LazyAdam(0.05)), rows=7),
    "LazyAdam, micro-batches": Case(
        build=lambda: make_distiller(optimizer=LazyAdam(0.05), micro_batches=2, **every_loss())
    ),
    "EMA": Case(build=with_optimizer(lambda: sgd(use_ema=True, ema_momentum=0.9))),
    "clipnorm": Case(build=with_optimizer(lambda: sgd(clipnorm=0.1)), rows=7),
    "global_clipnorm": Case(build=with_optimizer(lambda: sgd(global_clipnorm=0.1))),
    "clipvalue": Case(build=with_optimizer(lambda: sgd(clipvalue=0.01))),
    "micro-batches": Case(
        build=lambda: make_distiller(optimizer=sgd(), micro_batches=2, **every_loss())
    ),
    "chunks": Case(build=lambda: chunked(sgd()), rows=16, batch_size=8),
    "chunks, uneven": Case(build=lambda: chunked(sgd()), rows=15, batch_size=8, weighted=True),
    "chunks, an empty replica": Case(build=lambda: chunked(sgd()), rows=9, batch_size=8),
    "chunks, labels and regularizer": Case(
        build=lambda: labelled(keras.regularizers.L2(0.1), chunk_size=3),
        labelled=True,
        rows=15,
        batch_size=8,
    ),
    "chunks, a live teacher": Case(
        build=lambda: chunked(sgd(), teacher=make_student(seed=5)),
        rows=15,
        batch_size=8,
        taught=True,
    ),
    "chunks, LazyAdam": Case(build=lambda: chunked(LazyAdam(0.05)), rows=15, batch_size=8),
    "chunks, clipped": Case(build=lambda: chunked(sgd(global_clipnorm=0.1)), rows=16, batch_size=8),
    "chunks, bfloat16": Case(
        build=lambda: chunked(sgd(), student=make_student(dtype="mixed_bfloat16")),
        rows=16,
        batch_size=8,
        tolerance=BFLOAT16,
    ),
    "chunks, float16": Case(
        build=lambda: chunked(sgd(), student=make_student(dtype="mixed_float16")),
        rows=16,
        batch_size=8,
        tolerance=FLOAT16,
    ),
    "chunks, two steps an execution": Case(
        build=lambda: chunked(sgd(), steps_per_execution=2), rows=16, batch_size=8
    ),
    "chunks, jit": Case(build=lambda: chunked(sgd(), jit_compile=True), rows=15, batch_size=8),
    "chunks, eager": Case(build=lambda: chunked(sgd(), run_eagerly=True), rows=15, batch_size=8),
    "schedule": Case(
        build=with_optimizer(
            lambda: FusedAdam(keras.optimizers.schedules.CosineDecay(0.05, decay_steps=4))
        )
    ),
    "bfloat16": Case(
        build=lambda: make_distiller(
            make_student(dtype="mixed_bfloat16"), optimizer=sgd(), **every_loss()
        ),
        tolerance=BFLOAT16,
    ),
    "float16": Case(
        build=lambda: make_distiller(
            make_student(dtype="mixed_float16"), optimizer=sgd(), **every_loss()
        ),
        tolerance=FLOAT16,
    ),
    "float16, clipped": Case(
        build=lambda: make_distiller(
            make_student(dtype="mixed_float16"), optimizer=sgd(global_clipnorm=0.1), **every_loss()
        ),
        tolerance=1e-4,
    ),
    "two steps an execution": Case(
        build=lambda: make_distiller(optimizer=sgd(), steps_per_execution=2, **every_loss())
    ),
    "jit": Case(build=lambda: make_distiller(optimizer=sgd(), jit_compile=True, **every_loss())),
    "eager": Case(
        build=lambda: make_distiller(optimizer=sgd(), run_eagerly=True, **every_loss()), rows=7
    ),
}
