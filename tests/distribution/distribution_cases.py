"""Trainings that must give the same model on one replica and on two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from small_models import (
    CLASSES,
    TINY_BERT,
    every_loss,
    everything,
    logit_targets,
    make_distiller,
    make_student,
    make_tagger,
    make_two_heads,
    pairs,
    randomized,
)

from kdkeras import teachers
from kdkeras.distillation import RunningMagnitude, UncertaintyWeighting
from kdkeras.growth import GrowthPlan, MaskedGrowth, MaskedLayers, MaskSchedule, grow
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
    TokenCrossEntropy,
    TokenLogitMSE,
    TokenSoftTargets,
    TokenTopKSoftTargets,
    TopKSoftTargets,
    TranslationRanking,
    VICReg,
    principal_axes,
)
from kdkeras.optimizers import FusedAdam, LazyAdam
from kdkeras.schedules import LinearDecay, LinearWarmup
from kdkeras.students import TransformerStudent
from kdkeras.training import QuantizationAwareTraining, Stage

# Each replica rounds its part of a gradient to the short type before the reduction:
# one unit in the last place of a value of 1.
BFLOAT16, FLOAT16 = 2.0**-8, 2.0**-11


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A Distiller to build, inside a strategy's scope or not, and the data to train it on."""

    build: Callable[[], keras.Model]
    rows: tuple[int, ...] = (7,)
    """Rows of the data sets that are trained on one after the other. In batches of 4 the last
    batch has 3 rows, so that the replicas have 2 and 1, or 1 row, so that one replica has none."""
    batch_size: int = 4
    weighted: bool = False
    """Whether there are sample weights."""
    tolerance: float = 1e-6
    labeled: bool = False
    targets: Callable[[int], dict] | None = None
    """Returns further targets for a number of rows."""
    live: bool = False
    """Whether a live teacher computes all targets."""
    stages: tuple = ()
    callbacks: Callable[[], list] = list


def sgd(**arguments):
    return keras.optimizers.SGD(0.05, momentum=0.9, **arguments)


def distiller(optimizer=sgd, **arguments):
    """A static student with three losses."""
    return make_distiller(**{"optimizer": optimizer(), **every_loss(), **arguments})


def embedding_and_alignment_losses():
    distillation = {
        "cosine": EmbeddingDistillation(),
        "mse": EmbeddingDistillation(metric="mse"),
        "projection": randomized(EmbeddingDistillation("mse", projection=(3, 3))),
        "similarity": SimilarityDistillation(0.5),
        "without self": SimilarityDistillation(0.5, exclude_self=True),
        "soft targets": SoftTargets(temperature=2.0, target="embedding"),
        "standardized": SoftTargets(standardize=True, target="embedding"),
        "matrix": SimilarityMatrix(),
        "distance": RelationalDistance(),
        "angle": RelationalAngle(),
        "correlation": CorrelationDistillation(target="embedding"),
        "keras": KerasLoss(keras.losses.MeanSquaredError()),
        "prefixes": Matryoshka(SimilarityDistillation(0.5), [2, 3]),
        "rotated": Matryoshka(
            EmbeddingDistillation(),
            [2, 3],
            rotation=principal_axes(pairs(rows=14)[1]["embedding"]),
        ),
    }
    alignment = {
        "ranking": TranslationRanking(scale=3.0),
        "guided": TranslationRanking(scale=3.0, guide_margin=0.6),
        "spread": SpreadOut(),
        "variance": VICReg(1.0, 1.0, 1.0),
        "correlated": BarlowTwins(0.5),
        "aligned prefixes": MatryoshkaAlignment(TranslationRanking(scale=3.0), [2, 3], [0.5, 1.0]),
    }
    return make_distiller(
        optimizer=sgd(),
        distillation_losses=distillation,
        alignment_losses=alignment,
        loss_weights=dict.fromkeys([*distillation, *alignment], 0.1),
    )


def queues(**arguments):
    losses = {
        "distillation": QueueDistillation(3, 5, 0.5),
        "contrast": QueueContrast(3, 5, 0.5),
    }
    return make_distiller(optimizer=sgd(), distillation_losses=losses, **arguments)


def labels(optimizer=sgd, **arguments):
    """A model with two outputs, a task loss and a regularizer."""
    return make_distiller(
        make_two_heads(regularizer=keras.regularizers.L2(0.1)),
        optimizer=optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **{**every_loss(), **arguments},
    )


def logit_losses():
    losses = {
        "mse": LogitMSE(),
        "decoupled": DecoupledDistillation(2.0, 1.0, 4.0),
        "top k": TopKSoftTargets(2.0),
    }
    return labels(distillation_losses=losses, alignment_losses={}, loss_weights={})


def token_losses():
    losses = {
        "targets": TokenSoftTargets(),
        "mse": TokenLogitMSE(),
        "top k": TokenTopKSoftTargets(2.0),
    }
    return make_distiller(
        make_tagger(), optimizer=sgd(), distillation_losses=losses, loss=TokenCrossEntropy()
    )


def token_targets(rows):
    """Logits of four tokens per row; one to four labels per row, then padding."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, CLASSES, (rows, 4))
    label = np.where(np.arange(4) < generator.integers(1, 5, (rows, 1)), label, -1)
    return {**logit_targets(rows, 4), "label": label}


def losses_of_keras():
    logits = keras.distillation.LogitsDistillation(
        temperature=2.0, loss=keras.losses.KLDivergence()
    )
    features = keras.distillation.FeatureDistillation("mse")
    return make_distiller(
        make_two_heads(),
        optimizer=sgd(),
        teacher=make_two_heads(seed=5),
        distillation_losses={"classes": logits, "features": features},
    )


def live_layers():
    """Layers and attention of a live BERT, and a trained projection."""
    losses = {
        "hidden": randomized(HiddenStateDistillation(projection=(4, 32), embedding_layer=True)),
        "attention": MiniLMv2(2, student_layer=1),
    }
    return make_distiller(
        make_transformer(),
        optimizer=sgd(),
        teacher=teachers.load(TINY_BERT).model,
        distillation_losses=losses,
    )


def layers_of_the_student():
    losses = {
        "place": PerLayer(EmbeddingDistillation("mse")),
        "relations": PerLayer(SimilarityDistillation(0.5), layers=[0, -1]),
    }
    return make_distiller(make_transformer(), optimizer=sgd(), distillation_losses=losses)


def make_transformer():
    return randomized(TransformerStudent(7, 3, 2, 4, 2, 6, dropout=0.0))


def layers_on_a_table():
    """Layers grown on a static student, inside a strategy's scope or not."""
    sizes = {"hidden_dim": 4, "num_heads": 2, "num_layers": 1}
    grown = grow(make_student(), GrowthPlan(sizes=sizes))
    student = TransformerStudent.from_config({**grown.get_config(), "dropout": 0.0})
    student.set_weights(grown.get_weights())
    return distiller(student=student)


def growing_under_a_mask():
    plan = GrowthPlan(
        sizes={"hidden_dim": 6, "num_heads": 3, "num_layers": 3},
        operators=MaskedGrowth(),
        depth=MaskedLayers(),
    )
    return distiller(student=grow(make_transformer(), plan))


def precise(dtype, optimizer=sgd, **arguments):
    """The student in mixed precision."""
    return distiller(optimizer, student=make_student(dtype=f"mixed_{dtype}"), **arguments)


def scheduled(**arguments):
    similarity = SimilarityDistillation(keras.optimizers.schedules.PolynomialDecay(1.0, 6, 0.3))
    losses = every_loss()
    losses["distillation_losses"]["similarity"] = similarity
    losses["loss_weights"] = {
        "embedding": LinearWarmup(2.0, 4, initial=0.5),
        "similarity": LinearDecay(1.0, 0.5, 8),
        "ranking": keras.optimizers.schedules.CosineDecay(0.5, 6, alpha=0.2),
    }
    return distiller(**losses, **arguments)


def scheduled_adam():
    return FusedAdam(keras.optimizers.schedules.CosineDecay(0.05, decay_steps=4))


def lazy_adam():
    return LazyAdam(0.05)


STAGES = (
    Stage(steps=2, loss_weights={"embedding": 1.0}),
    Stage(steps=3, frozen=["token_embedding"], learning_rate=LinearWarmup(0.1, 3)),
    Stage(steps=2, loss_weights={"similarity": LinearDecay(1.0, 1.0, 4), "ranking": 1.0}),
)


CASES = {
    # The losses.
    "three losses": Case(build=distiller, rows=(7, 9), weighted=True),
    # Correlations over few rows are steep and amplify rounding: batches of 7 rows.
    "embedding and alignment losses": Case(
        build=embedding_and_alignment_losses, rows=(14,), batch_size=7
    ),
    "logit losses": Case(build=logit_losses, targets=logit_targets, labeled=True, weighted=True),
    "token losses": Case(build=token_losses, targets=token_targets, weighted=True),
    "losses of Keras": Case(build=losses_of_keras, weighted=True, live=True),
    "live layers": Case(build=live_layers, rows=(7, 9), weighted=True, live=True),
    "layers of the student": Case(build=layers_of_the_student),
    "queues": Case(build=queues, rows=(7, 9), weighted=True),
    "labels, global_clipnorm": Case(
        build=lambda: labels(lambda: sgd(global_clipnorm=0.1)), labeled=True
    ),
    "everything": Case(build=everything, live=True, weighted=True),
    # A term near zero, the difference of larger numbers, is the divisor of others.
    "everything, chunks, jit": Case(
        build=lambda: everything(RunningMagnitude, chunk_size=3, jit_compile=True),
        live=True,
        tolerance=1e-5,
        rows=(15,),
        batch_size=8,
    ),
    # Students.
    "layers on a table": Case(build=layers_on_a_table),
    "growing under a mask": Case(
        build=growing_under_a_mask, callbacks=lambda: [MaskSchedule(LinearWarmup(1.0, 3))]
    ),
    # The update.
    "AdamW, clipnorm, EMA": Case(
        build=lambda: distiller(
            lambda: keras.optimizers.AdamW(0.05, clipnorm=0.1, use_ema=True, ema_momentum=0.9)
        )
    ),
    "clipvalue": Case(build=lambda: distiller(lambda: sgd(clipvalue=0.01))),
    "FusedAdam": Case(build=lambda: distiller(scheduled_adam)),
    "LazyAdam": Case(build=lambda: distiller(lazy_adam)),
    "bfloat16": Case(build=lambda: precise("bfloat16"), rows=(8,), tolerance=BFLOAT16),
    "float16, global_clipnorm": Case(
        build=lambda: precise("float16", lambda: sgd(global_clipnorm=0.1)),
        rows=(8,),
        tolerance=1e-4,
    ),
    # Parts of a batch.
    "micro-batches, schedules": Case(build=lambda: scheduled(micro_batches=2), rows=(8,)),
    "micro-batches, queues": Case(build=lambda: queues(micro_batches=2), rows=(8,)),
    # A term near zero, the difference of larger numbers, is the divisor of others.
    "micro-batches, LazyAdam, RunningMagnitude": Case(
        build=lambda: distiller(lazy_adam, micro_batches=2, balancing=RunningMagnitude()),
        rows=(8,),
        tolerance=4e-6,
    ),
    "chunks": Case(build=lambda: distiller(chunk_size=3), rows=(9,), batch_size=8),
    "chunks, labels": Case(
        build=lambda: labels(chunk_size=3),
        labeled=True,
        rows=(15,),
        batch_size=8,
        weighted=True,
    ),
    "chunks, live teacher, global_clipnorm": Case(
        build=lambda: distiller(
            lambda: sgd(global_clipnorm=0.1), chunk_size=3, teacher=make_student(seed=5)
        ),
        rows=(15,),
        batch_size=8,
        live=True,
    ),
    "chunks, LazyAdam": Case(
        build=lambda: distiller(lazy_adam, chunk_size=3), rows=(15,), batch_size=8
    ),
    "chunks, bfloat16, two steps per execution": Case(
        build=lambda: precise("bfloat16", chunk_size=3, steps_per_execution=2),
        rows=(16,),
        batch_size=8,
        tolerance=BFLOAT16,
    ),
    "chunks, float16": Case(
        build=lambda: precise("float16", chunk_size=3),
        rows=(16,),
        batch_size=8,
        tolerance=FLOAT16,
    ),
    "chunks, eager": Case(
        build=lambda: distiller(chunk_size=3, run_eagerly=True), rows=(15,), batch_size=8
    ),
    # The run.
    "RunningMagnitude": Case(
        build=lambda: distiller(balancing=RunningMagnitude()), rows=(7, 9), weighted=True
    ),
    "UncertaintyWeighting": Case(
        build=lambda: distiller(balancing=UncertaintyWeighting()), rows=(7, 9), weighted=True
    ),
    "stages, FusedAdam, UncertaintyWeighting": Case(
        build=lambda: distiller(lambda: FusedAdam(0.05), balancing=UncertaintyWeighting()),
        rows=(12,),
        stages=STAGES,
    ),
    "stages, jit, RunningMagnitude": Case(
        build=lambda: distiller(balancing=RunningMagnitude(), jit_compile=True),
        rows=(12,),
        stages=STAGES,
    ),
    "quantization-aware training, jit": Case(
        build=lambda: distiller(jit_compile=True),
        rows=(8,),
        callbacks=lambda: [QuantizationAwareTraining("int8", start_step=1)],
    ),
    "schedules, jit, two steps per execution": Case(
        build=lambda: scheduled(jit_compile=True, steps_per_execution=2), rows=(8,)
    ),
    "schedules, eager": Case(build=lambda: scheduled(run_eagerly=True), rows=(7,)),
}
