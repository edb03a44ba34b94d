"""A live teacher computes targets; it is not trained and not saved."""

from __future__ import annotations

import zipfile

import h5py
import numpy as np
import oracles
import pytest
import tensorflow as tf
from contracts import assert_one_line
from small_models import (
    assert_equal_weights,
    fit,
    make_distiller,
    make_student,
    make_two_heads,
    one_side,
    pairs,
    weights,
)

import kdkeras
from kdkeras.errors import InputError
from kdkeras.losses import SoftTargets, TranslationRanking


def teacher_with_dropout():
    return make_two_heads(seed=5, dropout=0.5)


def logits_losses():
    return {"distillation_losses": {"logits": SoftTargets(temperature=2.0)}}


def test_soft_targets_of_a_live_teacher_equal_the_formula():
    x, _ = pairs()
    teacher, student = teacher_with_dropout(), make_two_heads()
    distiller = make_distiller(student, teacher=teacher, **logits_losses())
    logs = distiller.evaluate(x, verbose=0, return_dict=True)
    targets = teacher(one_side(x), training=False)["logits"]
    sides = (student(one_side(x, side))["logits"] for side in ("source", "translation"))
    expected = sum(oracles.soft_targets(targets, side, 2.0) for side in sides).mean()
    assert logs["logits"] == pytest.approx(expected, rel=1e-5)


def test_a_live_teacher_equals_its_cached_targets():
    x, _ = pairs(rows=8)
    teacher = teacher_with_dropout()
    live = make_distiller(make_two_heads(), teacher=teacher, **logits_losses())
    cached = make_distiller(make_two_heads(), **logits_losses())
    # Also shows that the teacher's dropout is off while the student trains.
    fit(live, x, None, epochs=2)
    fit(cached, x, {"logits": teacher(one_side(x), training=False)["logits"].numpy()}, epochs=2)
    assert_equal_weights(weights(live.student), weights(cached.student), atol=1e-6)


def test_cached_targets_have_priority_over_the_live_teacher():
    x, y = pairs()
    with_teacher = make_distiller(teacher=make_student(seed=9))
    alone = make_distiller()
    assert with_teacher.evaluate(x, y, verbose=0) == alone.evaluate(x, y, verbose=0)


def test_the_teacher_is_not_trained_and_not_saved(tmp_path):
    teacher = teacher_with_dropout()
    before = weights(teacher)
    distiller = make_distiller(make_two_heads(), teacher=teacher, **logits_losses())
    student = weights(distiller.student)
    fit(distiller, pairs()[0], None, epochs=3)
    assert_equal_weights(weights(teacher), before)
    assert any((a != b).any() for a, b in zip(weights(distiller.student), student, strict=True))
    assert not teacher.trainable_weights
    ids = {id(variable) for variable in distiller.variables}
    assert not ids & {id(variable) for variable in teacher.variables}
    assert {id(w) for w in distiller.weights} == {id(w) for w in distiller.student.weights}
    distiller.save(tmp_path / "distiller.keras")
    assert kdkeras.load(tmp_path / "distiller.keras").teacher is None
    assert stored(tmp_path / "distiller.keras", weights(distiller.student)[0])
    assert not stored(tmp_path / "distiller.keras", weights(teacher)[0])


def stored(path, weight):
    """Whether a Keras file has a weight; its configuration may not mention a teacher."""
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file:
        assert "teacher" not in archive.read("config.json").decode()
        arrays = []
        h5py.File(file).visititems(
            lambda _, item: arrays.append(np.array(item)) if hasattr(item, "shape") else None
        )
    return any(a.shape == weight.shape and np.array_equal(a, weight) for a in arrays)


def test_a_teacher_may_have_its_own_tokens():
    x, _ = pairs()
    own = {f"teacher_{name}": value[:, :2] for name, value in one_side(x, "translation").items()}
    teacher = make_student(seed=9)
    distiller = make_distiller(teacher=teacher)
    targets = teacher({name.removeprefix("teacher_"): value for name, value in own.items()}).numpy()
    assert distiller.evaluate({**x, **own}, verbose=0) == pytest.approx(
        distiller.evaluate(x, {"embedding": targets}, verbose=0)
    )


def test_a_live_teacher_guides_the_ranking():
    x, y = pairs()
    teacher = make_student(seed=9)
    guided = {
        "distillation_losses": {},
        "alignment_losses": {"ranking": TranslationRanking(guide_margin=0.5)},
    }
    live = make_distiller(teacher=teacher, **guided).evaluate(x, verbose=0)
    cached = {"embedding": teacher(one_side(x)).numpy()}
    assert live == pytest.approx(make_distiller(**guided).evaluate(x, cached, verbose=0))
    plain = {**guided, "alignment_losses": {"ranking": TranslationRanking()}}
    assert live[0] < make_distiller(**plain).evaluate(x, verbose=0)[0]


def test_sample_weights_without_targets_are_read_from_a_dataset():
    (x, _), w = pairs(), np.array([0.5, 2.0, 0.0, 1.0], "float32")
    teacher = make_student(seed=9)
    distiller = make_distiller(teacher=teacher)
    dataset = tf.data.Dataset.from_tensor_slices((x, {}, w)).batch(4)
    cached = {"embedding": teacher(one_side(x)).numpy()}
    assert distiller.evaluate(dataset, verbose=0) == pytest.approx(
        make_distiller().evaluate(x, cached, sample_weight=w, verbose=0)
    )


@pytest.mark.parametrize("y", [None, {}], ids=str)
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_sample_weights_that_keras_would_drop_are_refused(method, y):
    distiller = make_distiller(teacher=make_student(seed=9))
    with pytest.raises(InputError) as error:
        getattr(distiller, method)(pairs()[0], y, sample_weight=np.ones(4), verbose=0)
    assert_one_line(str(error.value), "`sample_weight` needs", f"y={y}", "tf.data.Dataset")


def test_the_student_reaches_its_teacher():
    x = {name: np.tile(value, (60, 1)) for name, value in one_side(pairs(rows=8)[0]).items()}
    distiller = make_distiller(teacher=make_student(seed=9))
    before = distiller.evaluate(x, batch_size=480, verbose=0)[0]
    fit(distiller, x, None, batch_size=8)
    assert distiller.evaluate(x, batch_size=480, verbose=0)[0] < 0.1 * before
