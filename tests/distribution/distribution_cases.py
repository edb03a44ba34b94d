"""What has to give the same model on one replica and on two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
from small_models import every_loss, make_distiller, make_student, make_two_heads, randomized

from kdkeras.distillation import RunningMagnitude, Stage, UncertaintyWeighting
from kdkeras.losses import (
    CorrelationDistillation,
    EmbeddingDistillation,
    RelationalAngle,
    RelationalDistance,
    SimilarityDistillation,
    SimilarityMatrix,
    SoftTargets,
    TranslationRanking,
)
from kdkeras.optimizers import FusedAdam, LazyAdam
from kdkeras.schedules import DecayToZero, LinearWarmup

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
    stages: tuple = ()


def sgd(**arguments):
    return keras.optimizers.SGD(0.05, momentum=0.9, **arguments)


def with_loss(name, loss):
    kind = "alignment_losses" if name == "ranking" else "distillation_losses"
    other = {} if kind == "distillation_losses" else {"distillation_losses": {}}
    return lambda: make_distiller(optimizer=sgd(), **{**other, kind: {name: loss()}})


def with_optimizer(make):
    return lambda: make_distiller(optimizer=make(), **every_loss())


def labelled(regularizer=None):
    task = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return make_distiller(
        make_two_heads(regularizer=regularizer), optimizer=sgd(), loss=task, **every_loss()
    )


def scheduled(**arguments):
    similarity = SimilarityDistillation(keras.optimizers.schedules.PolynomialDecay(1.0, 6, 0.3))
    losses = every_loss()
    losses["distillation_losses"]["similarity"] = similarity
    losses["loss_weights"] = {
        "embedding": LinearWarmup(2.0, 4, initial=0.5),
        "similarity": DecayToZero(1.0, 0.5, 8),
        "ranking": keras.optimizers.schedules.CosineDecay(0.5, 6, alpha=0.2),
    }
    return make_distiller(optimizer=sgd(), **losses, **arguments)


def balanced(balancing, **arguments):
    return lambda: make_distiller(
        optimizer=sgd(), balancing=balancing(), **every_loss(), **arguments
    )


STAGES = (
    Stage(steps=2, loss_weights={"embedding": 1.0}),
    Stage(steps=3, frozen=["token_embedding"], learning_rate=LinearWarmup(0.1, 3)),
    Stage(steps=2, loss_weights={"similarity": DecayToZero(1.0, 1.0, 4), "ranking": 1.0}),
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
    "schedule": Case(
        build=with_optimizer(
            lambda: FusedAdam(keras.optimizers.schedules.CosineDecay(0.05, decay_steps=4))
        )
    ),
    "scheduled weights and temperature": Case(build=scheduled, rows=7),
    "scheduled, micro-batches": Case(build=lambda: scheduled(micro_batches=2)),
    "scheduled, jit": Case(build=lambda: scheduled(jit_compile=True)),
    "running magnitude": Case(build=balanced(RunningMagnitude), rows=7, weighted=True),
    "running magnitude, an empty replica": Case(build=balanced(RunningMagnitude), rows=9),
    # A term near zero, the difference of larger numbers, is what others are divided by.
    "running magnitude, micro-batches": Case(
        build=balanced(RunningMagnitude, micro_batches=2), tolerance=4e-6
    ),
    "uncertainty": Case(build=balanced(UncertaintyWeighting), rows=7, weighted=True),
    "uncertainty, an empty replica": Case(build=balanced(UncertaintyWeighting), rows=9),
    "stages": Case(build=balanced(UncertaintyWeighting), rows=12, stages=STAGES),
    "stages, FusedAdam": Case(
        build=with_optimizer(lambda: FusedAdam(0.05)), rows=12, stages=STAGES
    ),
    "stages, jit": Case(build=balanced(RunningMagnitude, jit_compile=True), rows=12, stages=STAGES),
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
