"""What has to give the same model on one replica and on two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from small_models import (
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
    targets: Callable[[int], dict] | None = None
    """What the teacher said of that many rows, besides the embedding."""
    taught: bool = False
    """Whether a live teacher gives the targets."""
    stages: tuple = ()
    callbacks: Callable[[], list] = list


def sgd(**arguments):
    return keras.optimizers.SGD(0.05, momentum=0.9, **arguments)


def with_loss(name, loss):
    kind = "alignment_losses" if name == "ranking" else "distillation_losses"
    other = {} if kind == "distillation_losses" else {"distillation_losses": {}}
    return lambda: make_distiller(optimizer=sgd(), **{**other, kind: {name: loss()}})


def with_logits(loss, student=make_two_heads):
    return lambda: make_distiller(
        student(), optimizer=sgd(), distillation_losses={"classes": loss()}
    )


def token_logits(rows):
    return logit_targets(rows, 4)


def token_labels(rows):
    """One to four labels a row, then padding."""
    generator = np.random.default_rng(0)
    label = generator.integers(0, 4, (rows, 4))
    return {"label": np.where(np.arange(4) < generator.integers(1, 5, (rows, 1)), label, -1)}


def with_optimizer(make):
    return lambda: make_distiller(optimizer=make(), **every_loss())


def with_layers(**arguments):
    """Layers and attention of a real live BERT, and a map that is trained."""
    losses = {
        "hidden": randomized(HiddenStateDistillation(projection=(4, 32), embedding_layer=True)),
        "attention": MiniLMv2(2, student_layer=1),
    }
    return make_distiller(
        make_transformer(),
        optimizer=sgd(),
        teacher=teachers.load(TINY_BERT).model,
        distillation_losses=losses,
        **arguments,
    )


def with_per_layer():
    losses = {
        "place": PerLayer(EmbeddingDistillation("mse")),
        "relations": PerLayer(SimilarityDistillation(0.5), layers=[0, -1]),
    }
    return make_distiller(make_transformer(), optimizer=sgd(), distillation_losses=losses)


def make_transformer():
    return randomized(TransformerStudent(7, 3, 2, 4, 2, 6, dropout=0.0))


def layers_on_a_table():
    """Grown where the Distiller is built, inside a strategy's scope or not."""
    sizes = {"hidden_dim": 4, "num_heads": 2, "num_layers": 1}
    made = grow(make_student(), GrowthPlan(sizes=sizes))
    student = TransformerStudent.from_config({**made.get_config(), "dropout": 0.0})
    student.set_weights(made.get_weights())
    return make_distiller(student, optimizer=sgd(), **every_loss())


def growing_under_a_mask():
    plan = GrowthPlan(
        sizes={"hidden_dim": 6, "num_heads": 3, "num_layers": 3},
        operators=MaskedGrowth(),
        depth=MaskedLayers(),
    )
    return make_distiller(grow(make_transformer(), plan), optimizer=sgd(), **every_loss())


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


def scheduled(**arguments):
    similarity = SimilarityDistillation(keras.optimizers.schedules.PolynomialDecay(1.0, 6, 0.3))
    losses = every_loss()
    losses["distillation_losses"]["similarity"] = similarity
    losses["loss_weights"] = {
        "embedding": LinearWarmup(2.0, 4, initial=0.5),
        "similarity": LinearDecay(1.0, 0.5, 8),
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
    Stage(steps=2, loss_weights={"similarity": LinearDecay(1.0, 1.0, 4), "ranking": 1.0}),
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
    "logit mse": Case(build=with_logits(LogitMSE), targets=logit_targets, rows=7),
    "decoupled": Case(
        build=with_logits(lambda: DecoupledDistillation(2.0, 1.0, 4.0)),
        targets=logit_targets,
        labelled=True,
        rows=7,
    ),
    "top k": Case(build=with_logits(lambda: TopKSoftTargets(2.0)), targets=logit_targets, rows=7),
    "token targets": Case(
        build=with_logits(TokenSoftTargets, make_tagger), targets=token_logits, rows=7
    ),
    "token mse": Case(build=with_logits(TokenLogitMSE, make_tagger), targets=token_logits, rows=7),
    "token top k": Case(
        build=with_logits(lambda: TokenTopKSoftTargets(2.0), make_tagger),
        targets=token_logits,
        weighted=True,
        rows=7,
    ),
    "token labels": Case(
        build=lambda: make_distiller(
            make_tagger(), optimizer=sgd(), distillation_losses={}, loss=TokenCrossEntropy()
        ),
        targets=token_labels,
        weighted=True,
        rows=7,
    ),
    "live layers": Case(build=with_layers),
    "live layers, uneven": Case(build=with_layers, rows=7, weighted=True),
    "live layers, an empty replica": Case(build=with_layers, rows=9),
    "live layers, jit": Case(build=lambda: with_layers(jit_compile=True)),
    "per layer": Case(build=with_per_layer, rows=7),
    # Of the last batch one replica has more rows than the other, or all of them.
    "queue": Case(build=with_loss("queue", lambda: QueueDistillation(3, 5, 0.5)), rows=7),
    "queue, an empty replica": Case(
        build=with_loss("queue", lambda: QueueDistillation(3, 6, 0.5)), rows=9, weighted=True
    ),
    "queue, micro-batches": Case(
        build=lambda: make_distiller(
            optimizer=sgd(),
            distillation_losses={"queue": QueueDistillation(3, 6, 0.5)},
            micro_batches=2,
        ),
    ),
    "queue contrast": Case(build=with_loss("queue", lambda: QueueContrast(3, 5, 0.5)), rows=7),
    "spread out": Case(build=with_loss("ranking", SpreadOut), rows=7),
    "variance and covariance": Case(
        build=with_loss("ranking", lambda: VICReg(1.0, 1.0, 1.0)), rows=7
    ),
    # Of few rows correlations are steep, and rounding grows: batches of seven.
    "cross-correlation": Case(
        build=with_loss("ranking", lambda: BarlowTwins(0.5)), rows=14, batch_size=7
    ),
    "matryoshka": Case(
        build=lambda: make_distiller(
            optimizer=sgd(),
            distillation_losses={"prefixes": Matryoshka(SimilarityDistillation(0.5), [2, 3])},
            alignment_losses={
                "ranking": MatryoshkaAlignment(TranslationRanking(scale=3.0), [2, 3], [0.5, 1.0])
            },
        ),
        rows=7,
    ),
    "matryoshka, rotated": Case(
        build=with_loss(
            "prefixes",
            lambda: Matryoshka(
                EmbeddingDistillation(),
                [2, 3],
                rotation=principal_axes(pairs(rows=7)[1]["embedding"]),
            ),
        ),
        rows=7,
    ),
    "all that there is": Case(build=everything, taught=True, rows=7, weighted=True),
    # A term near zero, the difference of larger numbers, is what others are divided by.
    "all that there is, chunks, jit": Case(
        build=lambda: everything(RunningMagnitude, chunk_size=3, jit_compile=True),
        taught=True,
        tolerance=1e-5,
        rows=15,
        batch_size=8,
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
    "quantisation in the loop, jit": Case(
        build=lambda: make_distiller(optimizer=sgd(), jit_compile=True, **every_loss()),
        callbacks=lambda: [QuantizationAwareTraining("int8", start_step=1)],
    ),
    "layers on a table": Case(build=layers_on_a_table, rows=7),
    "growing under a mask": Case(
        build=growing_under_a_mask, rows=7, callbacks=lambda: [MaskSchedule(LinearWarmup(1.0, 3))]
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
