"""Checks of the student's outputs when a Distiller is created, and of the first batch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_one_line
from small_models import (
    CLASSES,
    OUTPUT_DIM,
    VOCABULARY_SIZE,
    fit,
    logit_targets,
    make_distiller,
    make_tagger,
    one_side,
    pairs,
)

from kdkeras import Distiller
from kdkeras.distillation import UncertaintyWeighting
from kdkeras.errors import InputError
from kdkeras.losses import (
    CorrelationDistillation,
    DistillationLoss,
    EmbeddingDistillation,
    HiddenStateDistillation,
    KerasLoss,
    Matryoshka,
    MatryoshkaAlignment,
    MiniLMv2,
    PerLayer,
    QueueDistillation,
    SimilarityDistillation,
    SoftTargets,
    SpreadOut,
    TokenSoftTargets,
    TranslationRanking,
)
from kdkeras.students import TransformerStudent


def transformer():
    return TransformerStudent(VOCABULARY_SIZE, OUTPUT_DIM, 2, 4, 2, 6, dropout=0.0)


def distillation(loss):
    return lambda: Distiller(transformer(), distillation_losses={"pull": loss()})


def alignment(loss):
    return lambda: Distiller(transformer(), alignment_losses={"align": loss()})


def integer_outputs():
    ids = keras.Input((4,))
    outputs = keras.ops.cast(keras.layers.Dense(OUTPUT_DIM)(ids), "int32")
    return Distiller(
        keras.Model(ids, outputs), distillation_losses={"pull": EmbeddingDistillation()}
    )


REFUSED = {
    "missing layer": (
        distillation(lambda: PerLayer(EmbeddingDistillation(), layers=[9])),
        "9 in `per_layer`",
        "[0, 1, 2]",
    ),
    "missing hidden state": (
        distillation(lambda: HiddenStateDistillation({9: 1})),
        "9 in `hidden_state_distillation`",
        "[0, 1, 2]",
    ),
    "missing attention": (
        distillation(lambda: MiniLMv2(2, student_layer=3)),
        "3 in `minilm_v2`",
        "[1, 2]",
    ),
    "heads that do not divide": (
        distillation(lambda: MiniLMv2(3)),
        "num_relation_heads=3",
        "(None, None, 4)",
    ),
    "a projection from another width": (
        distillation(lambda: EmbeddingDistillation(projection=(5, 32))),
        "[5, 32]",
        "(None, 3)",
    ),
    "a projection of states from another width": (
        distillation(lambda: HiddenStateDistillation(projection=(5, 32))),
        "[5, 32]",
        "(None, None, 4)",
    ),
    "a prefix that is wider": (
        distillation(lambda: Matryoshka(EmbeddingDistillation(), [3, 64])),
        "dims=[3, 64]",
        "(None, 3)",
    ),
    "an aligned prefix that is wider": (
        alignment(lambda: MatryoshkaAlignment(TranslationRanking(), [3, 64])),
        "dims=[3, 64]",
        "(None, 3)",
    ),
    "a queue of another width": (
        distillation(lambda: QueueDistillation(64)),
        "dim=64",
        "(None, 3)",
    ),
    "missing logits": (distillation(SoftTargets), "'pull'", "['embedding', ", "Dense"),
    "missing logits of tokens": (distillation(TokenSoftTargets), "'pull'", "Dense"),
    "integers": (integer_outputs, "'pull'", "(None, 3)", "int32"),
    "a distillation loss that aligns": (alignment(EmbeddingDistillation), "'align'", "Embedding"),
    "a loss of Keras that aligns": (alignment(keras.losses.MeanSquaredError), "'align'", "MeanSq"),
    "uncertainty of what may be negative": (
        lambda: make_distiller(
            distillation_losses={"cosine": KerasLoss("cosine_similarity")},
            balancing=UncertaintyWeighting(),
        ),
        "'cosine'",
        "RunningMagnitude",
    ),
    "the same of a wrapped loss": (
        lambda: make_distiller(
            distillation_losses={"cosine": Matryoshka(KerasLoss("cosine_similarity"), [2, 3])},
            balancing=UncertaintyWeighting(),
        ),
        "'cosine'",
        "RunningMagnitude",
    ),
    "a weight that is text": (
        lambda: make_distiller(loss_weights={"embedding": "much"}),
        "'much'",
        "number",
    ),
    "a temperature that is nothing": (lambda: SoftTargets(temperature=None), "None", "number"),
    "an endless margin": (lambda: TranslationRanking(margin=float("inf")), "margin=inf", "finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unreadable_outputs_are_refused_when_the_distiller_is_created(case):
    act, *parts = REFUSED[case]
    with pytest.raises(InputError) as error:
        act()
    assert_one_line(str(error.value), *parts)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: EmbeddingDistillation("mse", target="logits"),
        lambda: SimilarityDistillation(target="logits"),
        lambda: CorrelationDistillation(),
        lambda: Matryoshka(EmbeddingDistillation(target="logits"), [2, CLASSES]),
    ],
)
def test_one_vector_per_token_is_refused_by_losses_on_embeddings(loss):
    x, _ = pairs()
    distiller = make_distiller(make_tagger(), distillation_losses={"pull": loss()})
    with pytest.raises(InputError) as error:
        fit(distiller, one_side(x), {"logits": logit_targets(4, 4)["logits"]})
    assert_one_line(str(error.value), "(4, 4, ", "one vector per sentence")


class OneValue(DistillationLoss):
    """A loss like those of Keras: the mean over the batch."""

    def loss(self, teacher, student):
        return keras.ops.mean(keras.ops.square(teacher - student))


def test_a_mean_over_the_batch_is_refused():
    with pytest.raises(InputError) as error:
        fit(make_distiller(distillation_losses={"own": OneValue()}), *pairs())
    assert_one_line(str(error.value), "() from 'own'", "`(B,)`")


def test_sample_weights_of_another_shape_are_refused():
    x, y = pairs()
    data = tf.data.Dataset.from_tensors((x, y, np.ones((4, 1), "float32")))
    with pytest.raises(InputError) as error:
        make_distiller().fit(data, verbose=0)
    assert_one_line(str(error.value), "(4, 1)", "`(B,)`")


def test_text_targets_are_refused():
    x, _ = pairs()
    with pytest.raises(InputError) as error:
        fit(make_distiller(), x, {"embedding": np.array([["a"] * OUTPUT_DIM] * 4)})
    assert_one_line(str(error.value), "y['embedding']", "(4, 3)", "<U1")


# ---- batches of size one ------------------------------------------------------

SINGLE_ROW = {
    "arrays": ({}, lambda data: data.batch(1)),
    "a fixed size": ({}, lambda data: data.batch(1, drop_remainder=True)),
    "micro-batches": ({"micro_batches": 4}, lambda data: data.batch(4)),
    "eager": ({"run_eagerly": True}, lambda data: data.batch(1)),
}
COMPARING = {
    "ranking": {"alignment_losses": {"rows": TranslationRanking}},
    "prefixes": {
        "alignment_losses": {"rows": lambda: MatryoshkaAlignment(TranslationRanking(), [2, 3])}
    },
    "spread": {"alignment_losses": {"rows": SpreadOut}},
    "similarity": {"distillation_losses": {"rows": SimilarityDistillation}},
}


def comparing(name, **arguments):
    made = {
        kind: {n: make() for n, make in losses.items()} for kind, losses in COMPARING[name].items()
    }
    return make_distiller(**made, **arguments)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        *((case, "ranking") for case in SINGLE_ROW),
        *(("eager", name) for name in COMPARING if name != "ranking"),
    ],
)
def test_batches_of_size_one_are_refused_for_losses_that_compare_rows(case, name):
    arguments, batched = SINGLE_ROW[case]
    data = batched(tf.data.Dataset.from_tensor_slices(pairs(rows=4)))
    with pytest.raises(InputError) as error:
        comparing(name, **arguments).fit(data, verbose=0)
    assert_one_line(str(error.value), "batch size 1", "the loss rows", "at least two")


def test_the_last_batch_may_have_one_row():
    data = tf.data.Dataset.from_tensor_slices(pairs(rows=5)).batch(2)
    distiller = comparing("ranking", optimizer=keras.optimizers.Adam(0.05))
    history = distiller.fit(data, epochs=20, verbose=0).history
    assert int(distiller.optimizer.iterations.numpy()) == 60
    assert history["rows"][-1] < 0.5 * history["rows"][0]


# ---- a head for logits -------------------------------------------------------


def test_a_head_adds_logits_to_the_features_of_a_student(tmp_path):
    student = transformer()
    inputs = {
        name: keras.Input((None,), dtype="int32", name=name)
        for name in ("token_ids", "padding_mask")
    }
    names = ("embedding", "hidden_states", "attention")
    features = student(inputs, outputs=names)
    head = keras.layers.Dense(CLASSES, name="head")
    model = keras.Model(inputs, {**features, "logits": head(features["embedding"])})
    x, y = pairs()
    outputs = model(one_side(x))
    assert set(outputs) == {*names, "logits"}
    np.testing.assert_array_equal(outputs["embedding"], student(one_side(x)))
    np.testing.assert_allclose(
        outputs["logits"],
        np.asarray(outputs["embedding"]) @ head.kernel + head.bias,
        rtol=0,
        atol=1e-6,
    )
    distiller = make_distiller(
        model,
        keras.optimizers.Adam(0.02),
        distillation_losses={"soft": SoftTargets(2.0), "pull": EmbeddingDistillation()},
    )
    history = fit(distiller, x, {**y, **logit_targets(4)}, epochs=60)
    for name in ("soft", "pull"):
        assert history[name][-1] < 0.5 * history[name][0]
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    for name in ("embedding", "logits"):
        np.testing.assert_array_equal(loaded.student(one_side(x))[name], model(one_side(x))[name])
