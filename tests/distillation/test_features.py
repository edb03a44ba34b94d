"""Features of student and live teacher: requested once, and compared as in the formulas."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import oracles
import oracles_features
import pytest
from contracts import assert_one_line
from small_models import (
    assert_equal_weights,
    fit,
    make_distiller,
    make_student,
    pairs,
    randomized,
    weights,
)

import kdkeras
from kdkeras import teachers
from kdkeras.distillation.batches import forward, unpack
from kdkeras.distillation.features import requested_outputs
from kdkeras.errors import InputError
from kdkeras.layers import EmbeddingTable, FeatureModel, MeanPooling
from kdkeras.losses import (
    EmbeddingDistillation,
    HiddenStateDistillation,
    MiniLMv2,
    PerLayer,
    SimilarityDistillation,
    SoftTargets,
    TranslationRanking,
)
from kdkeras.optimizers import FusedAdam
from kdkeras.students import TransformerStudent

TEACHERS = Path(__file__).parents[1] / "teachers"


@pytest.fixture(scope="module")
def teacher():
    """A real BERT, through keras_hub: two layers of width 32, four heads, 600 tokens."""
    return teachers.load(TEACHERS / "tiny_bert" / "mean")


@pytest.fixture(scope="module")
def batch(teacher):
    """Real sentences in the teacher's tokens; the translation of each is another of them."""
    sentences = json.loads((TEACHERS / "tiny_vectors.json").read_text("utf-8"))["sentences"][:8]
    tokens = teacher.tokenize(sentences)
    x = {f"source_{name}": values for name, values in tokens.items()}
    return {**x, **{f"translation_{name}": values[::-1] for name, values in tokens.items()}}


def side(x, name="source"):
    return {key: x[f"{name}_{key}"] for key in ("token_ids", "padding_mask")}


def transformer(vocabulary_size=600, layers=3, width=8, **arguments):
    arguments = {"dropout": 0.0, "sequence_length": 48, "output_dim": 32, **arguments}
    sizes = {"num_layers": layers, "hidden_dim": width, "num_heads": 2, "intermediate_dim": 16}
    student = TransformerStudent(vocabulary_size, **sizes, **arguments)
    return randomized(student, seed=1)


def losses():
    return {
        "embedding": EmbeddingDistillation(),
        "hidden": randomized(HiddenStateDistillation(projection=(8, 32), embedding_layer=True)),
        "attention": MiniLMv2(4, student_layer=2),
    }


def live(teacher, student=None, optimizer=None, given=None, **arguments):
    return make_distiller(
        student or transformer(),
        optimizer or FusedAdam(0.01),
        teacher=teacher.model,
        distillation_losses=given or losses(),
        **arguments,
    )


# ---- numbers ------------------------------------------------------------


def test_a_live_teachers_layers_equal_the_formulas(teacher, batch):
    distiller = live(teacher)
    logs = distiller.evaluate(batch, batch_size=8, verbose=0, return_dict=True)
    names = ("embedding", "hidden_states", "attention")
    theirs = teacher.model(side(batch), outputs=names)
    ours, translated = (distiller.student(side(batch, s), outputs=names) for s in SIDES)
    mask = batch["source_padding_mask"]
    expected = {
        "embedding": sum(
            oracles.embedding_cosine(theirs["embedding"], s["embedding"])
            for s in (ours, translated)
        ),
        # Three layers learn from two: the teacher's first and last.
        "hidden": oracles_features.hidden_states(
            as_numpy(theirs["hidden_states"]),
            as_numpy(ours["hidden_states"]),
            mask,
            [(0, 0), (1, 1), (3, 2)],
            distiller.distillation_losses["hidden"].get_weights()[0],
        ),
        "attention": oracles_features.attention_relations(
            as_numpy(theirs["attention"]), as_numpy(ours["attention"]), mask, 4, student_layer=1
        ),
    }
    for name, values in expected.items():
        assert logs[name] == pytest.approx(values.mean(), rel=1e-4), name


SIDES = ("source", "translation")


def as_numpy(structure):
    return keras.tree.map_structure(np.asarray, structure)


def test_per_layer_with_cached_targets_equals_the_formula():
    x, y = pairs(rows=4)
    student = transformer(7, output_dim=3)
    given = {"layers": PerLayer(SimilarityDistillation(0.5), layers=[1, 3])}
    logs = make_distiller(student, distillation_losses=given).evaluate(
        x, y, verbose=0, return_dict=True
    )
    expected = 0.0
    for name in SIDES:
        found = student(side(x, name), outputs=("layer_embeddings",))["layer_embeddings"]
        inner = [oracles.similarity(y["embedding"], found[k], 0.5) for k in (1, 3)]
        expected += np.mean(inner)
    assert logs["layers"] == pytest.approx(expected, rel=1e-5)


def test_one_forward_of_both_sides_equals_two(batch):
    student = transformer()
    requested = requested_outputs(student, ["hidden_states", "attention", "embedding", "pooled"])
    outputs = forward(student, unpack(batch, None), False, requested)
    assert set(outputs.source) == {"hidden_states", "attention", "embedding", "pooled"}
    for name, half in zip(SIDES, outputs, strict=True):
        expected = student(side(batch, name), outputs=("attention", "embedding", "hidden_states"))
        expected["pooled"] = expected["embedding"]
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), half, expected
        )


# ---- requested outputs --------------------------------------------------


class Recording(TransformerStudent):
    def features(self, inputs, names, training=None):
        self.requested.append((tuple(names), training))
        return super().features(inputs, names, training)


@pytest.mark.parametrize(
    ("given", "requested"),
    [
        (
            {
                "one": MiniLMv2(4),
                "two": MiniLMv2(2),
                "three": "embedding",
                "four": HiddenStateDistillation(),
            },
            ("attention", "embedding", "hidden_states"),
        ),
        ({"one": PerLayer(EmbeddingDistillation())}, ("layer_embeddings",)),
        ({"three": "embedding"}, ("embedding",)),
    ],
)
def test_the_student_runs_once_with_requested_outputs(given, requested, teacher, batch):
    sizes = {"num_layers": 2, "hidden_dim": 32, "num_heads": 2, "intermediate_dim": 16}
    student = Recording(600, 32, sequence_length=48, **sizes)
    object.__setattr__(student, "requested", [])
    given = {k: EmbeddingDistillation() if v == "embedding" else v for k, v in given.items()}
    fit(live(teacher, student, given=given, run_eagerly=True), batch, None, batch_size=8)
    assert student.requested == [(requested, True)]


def test_the_teacher_runs_once_without_training(teacher, batch):
    class Recording(FeatureModel):
        requested = []

        def output_specs(self):
            return teacher.model.output_specs()

        def features(self, inputs, names, training=None):
            self.requested.append((tuple(names), training))
            return teacher.model.features(inputs, names)

    distiller = make_distiller(
        transformer(), teacher=Recording(), distillation_losses=losses(), run_eagerly=True
    )
    fit(distiller, batch, None, batch_size=8)
    assert Recording.requested == [(("attention", "embedding", "hidden_states"), False)]


def test_losses_on_tokens_do_not_read_the_translation(teacher, batch):
    given = {name: loss for name, loss in losses().items() if name != "embedding"}
    other = {**batch, "translation_token_ids": batch["translation_token_ids"] * 0 + 5}
    distiller = live(teacher, given=given)
    assert distiller.evaluate(batch, verbose=0) == distiller.evaluate(other, verbose=0)


def test_alignment_beside_layers_reads_the_embedding(teacher, batch):
    given = {
        "distillation_losses": {"attention": MiniLMv2(4)},
        "alignment_losses": {"ranking": TranslationRanking()},
    }
    student = transformer()
    logs = make_distiller(student, teacher=teacher.model, **given).evaluate(
        batch, batch_size=8, verbose=0, return_dict=True
    )
    embeddings = (student(side(batch, name)).numpy() for name in SIDES)
    expected = oracles.translation_ranking(*embeddings).mean()
    assert logs["ranking"] == pytest.approx(expected, rel=1e-4)


def functional(layers=2, names=False):
    """A plain Keras model that returns its layers, as a list or by name."""
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    states = [EmbeddingTable(600, 32)(ids)]
    for _ in range(layers):
        states.append(keras.layers.Dense(32, activation="tanh")(states[-1]))
    hidden = {f"layer_{i}": state for i, state in enumerate(states)} if names else states
    outputs = {"embedding": MeanPooling()(states[-1], mask), "hidden_states": hidden}
    return randomized(keras.Model({"token_ids": ids, "padding_mask": mask}, outputs))


@pytest.mark.parametrize("names", [False, True])
def test_a_plain_model_with_a_dict_of_outputs_works_as_it_is(names, teacher, batch):
    student = functional(names=names)
    layers = {"layer_2": -1} if names else {2: -1}
    given = {"hidden": HiddenStateDistillation(layers), "embedding": EmbeddingDistillation()}
    distiller = live(teacher, student, given=given)
    logs = distiller.evaluate(batch, batch_size=8, verbose=0, return_dict=True)
    states = student(side(batch))["hidden_states"]
    expected = oracles_features.hidden_states(
        as_numpy(teacher.model.hidden_states(side(batch))),
        [np.asarray(states["layer_2"] if names else states[2])],
        batch["source_padding_mask"],
        [(0, -1)],
    )
    assert logs["hidden"] == pytest.approx(expected.mean(), rel=1e-4)
    before = weights(student)
    fit(distiller, batch, None, batch_size=8)
    assert np.abs(weights(student)[0] - before[0]).max() > 1e-4


def test_a_plain_model_can_be_the_teacher(batch):
    given = {"hidden": HiddenStateDistillation(projection=(8, 32))}
    model = functional()
    distiller = make_distiller(transformer(), teacher=model, distillation_losses=given)
    logs = distiller.evaluate(batch, batch_size=8, verbose=0, return_dict=True)
    expected = oracles_features.hidden_states(
        as_numpy(model(side(batch))["hidden_states"]),
        as_numpy(distiller.student.hidden_states(side(batch))),
        batch["source_padding_mask"],
        [(1, 1), (3, 2)],
        given["hidden"].get_weights()[0],
    )
    assert logs["hidden"] == pytest.approx(expected.mean(), rel=1e-4)


# ---- training -----------------------------------------------------------


def test_training_lowers_every_term_and_does_not_change_the_teacher(teacher, batch):
    before = weights(teacher.model)
    distiller = live(teacher)
    kernel = distiller.distillation_losses["hidden"].get_weights()[0]
    logs = fit(distiller, batch, None, batch_size=8, epochs=40)
    for name in losses():
        assert logs[name][-1] < 0.8 * logs[name][0], name
    assert_equal_weights(weights(teacher.model), before)
    assert np.abs(distiller.distillation_losses["hidden"].get_weights()[0] - kernel).max() > 0.01


def trained(teacher, batch, **arguments):
    distiller = live(teacher, optimizer=keras.optimizers.SGD(0.05), **arguments)
    logs = fit(distiller, batch, None, batch_size=8, epochs=2)
    return weights(distiller), logs


@pytest.fixture(scope="module")
def trained_in_graph(teacher, batch):
    return trained(teacher, batch)


WAYS = {
    "eager": {"run_eagerly": True},
    "jit": {"jit_compile": True},
    "micro-batches": {"micro_batches": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_run_gives_the_same_weights_and_logs(way, trained_in_graph, teacher, batch):
    (expected, expected_logs), (found, logs) = (
        trained_in_graph,
        trained(teacher, batch, **WAYS[way]),
    )
    assert_equal_weights(found, expected, atol=1e-5)
    for name, values in expected_logs.items():
        assert logs[name] == pytest.approx(values, abs=1e-5)


def test_cached_layers_equal_the_live_teachers(teacher, batch):
    given = {"hidden": HiddenStateDistillation(projection=(8, 32))}
    states = as_numpy(teacher.model.hidden_states(side(batch)))
    expected = live(teacher, given=given).evaluate(batch, verbose=0)
    alone = make_distiller(transformer(), distillation_losses=given)
    dataset = keras.utils.pack_x_y_sample_weight(batch, {"hidden_states": states})
    assert alone.test_on_batch(*dataset)[0] == pytest.approx(expected[0], rel=1e-5)


def test_the_projection_is_saved_with_the_distiller(teacher, batch, tmp_path):
    distiller = live(teacher)
    fit(distiller, batch, None)
    distiller.save(tmp_path / "distiller.keras")
    loaded = kdkeras.load(tmp_path / "distiller.keras")
    assert loaded.teacher is None
    assert_equal_weights(weights(loaded), weights(distiller))


def test_per_layer_is_saved_with_its_inner_loss(tmp_path):
    x, y = pairs()
    given = {"all": PerLayer(EmbeddingDistillation("mse", projection=(4, 3)), layers=[1, -1])}
    distiller = make_distiller(transformer(7, output_dim=4), distillation_losses=given)
    fit(distiller, x, y)
    distiller.save(tmp_path / "d.keras")
    loaded = kdkeras.load(tmp_path / "d.keras")
    assert loaded.evaluate(x, y, verbose=0) == distiller.evaluate(x, y, verbose=0)
    assert_equal_weights(weights(loaded), weights(distiller))


# ---- refusals -----------------------------------------------------------


def built(teacher, student, loss):
    return lambda: make_distiller(student, teacher=teacher.model, distillation_losses={"one": loss})


def test_unequal_features_are_refused_when_the_distiller_is_created(teacher):
    cases = [
        (transformer(), HiddenStateDistillation(), "(None, None, 32)", "(None, None, 8)"),
        (transformer(), HiddenStateDistillation(projection=(4, 32)), "projection=(8, 32)"),
        (transformer(), HiddenStateDistillation({4: 2}), "Received: 4", "has [0, 1, 2, 3]"),
        (transformer(), HiddenStateDistillation({3: 3}), "Received: 3", "teacher has [0, 1, 2]"),
        (transformer(), MiniLMv2(16), "(None, None, 32)", "(None, None, 8)"),
        (transformer(), MiniLMv2(4, teacher_layer=5), "teacher has [1, 2]"),
        (transformer(output_dim=7), EmbeddingDistillation(), "(None, 32)", "(None, 7)"),
        (transformer(output_dim=7), EmbeddingDistillation(projection=(5, 32)), "(None, 7)"),
        (transformer(output_dim=7), PerLayer(EmbeddingDistillation()), "(None, 32)", "(None, 7)"),
        (functional(), HiddenStateDistillation({"top": 1}), "'top'", "student has [0, 1, 2]"),
        (
            transformer(vocabulary_size=900),
            MiniLMv2(4),
            "900 token ids",
            "teacher of 600",
            "Use the teacher's vocabulary",
        ),
    ]
    for student, loss, *parts in cases:
        with pytest.raises(InputError) as error:
            built(teacher, student, loss)()
        assert_one_line(str(error.value), *parts)


def test_plain_models_of_unequal_widths_are_refused_when_the_distiller_is_created():
    def dense(width):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(width)])

    with pytest.raises(InputError) as error:
        make_distiller(dense(3), teacher=dense(5))
    assert_one_line(str(error.value), "(None, 5)", "(None, 3)", "projection=(3, 5)")
    # Of several targets some are cached, and which is not known before there is a batch.
    several = {"pull": EmbeddingDistillation(), "classes": SoftTargets()}
    assert make_distiller(dense(3), teacher=dense(5), distillation_losses=several).built


def test_a_cached_target_of_another_name_may_have_another_width(teacher, batch):
    given = {"pull": EmbeddingDistillation(target="other"), "attention": MiniLMv2(4)}
    distiller = live(teacher, transformer(output_dim=3), given=given)
    y = {"other": np.random.default_rng(0).normal(size=(8, 3)).astype("float32")}
    logs = distiller.evaluate(batch, y, batch_size=8, verbose=0, return_dict=True)
    expected = sum(
        oracles.embedding_cosine(y["other"], distiller.student(side(batch, name))) for name in SIDES
    )
    assert logs["pull"] == pytest.approx(expected.mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "feature"),
    [
        (HiddenStateDistillation(), "hidden_states"),
        (MiniLMv2(1), "attention"),
        (PerLayer(EmbeddingDistillation()), "layer_embeddings"),
    ],
)
def test_a_student_without_layers_is_refused(loss, feature):
    with pytest.raises(InputError) as error:
        make_distiller(make_student(), distillation_losses={"one": loss})
    assert_one_line(str(error.value), repr(feature), "StaticStudent", "['embedding']")


def test_a_teacher_without_layers_is_refused(batch):
    given = {"one": HiddenStateDistillation()}
    distiller = make_distiller(
        transformer(),
        teacher=functional(),
        distillation_losses={"one": MiniLMv2(4)},
    )
    with pytest.raises(InputError) as error:
        distiller.evaluate(batch, verbose=0)
    assert_one_line(str(error.value), "'attention'", "['embedding', 'hidden_states']")
    with pytest.raises(InputError) as error:
        make_distiller(transformer(), distillation_losses=given).evaluate(batch, verbose=0)
    assert_one_line(str(error.value), "target 'hidden_states'", "no live teacher")


def test_separate_tokens_for_the_teacher_are_refused(teacher, batch):
    own = {f"teacher_{name}": values for name, values in side(batch).items()}
    with pytest.raises(InputError) as error:
        live(teacher).evaluate({**batch, **own}, verbose=0)
    assert_one_line(str(error.value), "'hidden'", "`teacher_token_ids`", "teacher's vocabulary")
    # A loss on embeddings does not need the same tokens.
    given = {"embedding": EmbeddingDistillation()}
    shorter = {name: values[:, :30] for name, values in own.items()}
    assert live(teacher, given=given).evaluate({**batch, **shorter}, verbose=0)[0] > 0.1
