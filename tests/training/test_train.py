"""`train`: the default job, its files, and how it is stopped and continued."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import keras
import numpy as np
import pytest
from contracts import assert_one_line
from test_backup import StopAt

import kdkeras
from kdkeras import InputError, Recipe
from kdkeras.data import DistillationSet, sample_folder
from kdkeras.losses import (
    EmbeddingDistillation,
    Matryoshka,
    SimilarityDistillation,
    TranslationRanking,
    principal_axes,
)
from kdkeras.optimizers import FusedAdam
from kdkeras.students import build_student, initialize_from_targets, rotate_projection
from kdkeras.training import Backup, Stage, Stages

QUICK = Recipe(student="static_128", batch_size=16, steps=12, sequence_length=16, dims=())
TEXTS = ["Guten Morgen!", "Good morning!", "Доброе утро!"]


@pytest.fixture
def train(small_set, small_vocabulary):
    def run(student=None, recipe=QUICK, **arguments):
        arguments.setdefault("vocabulary", small_vocabulary)
        return kdkeras.train(student, small_set, recipe=recipe, **arguments)

    return run


def changed(**values):
    return dataclasses.replace(QUICK, **values)


def test_train_equals_the_same_steps_by_hand(train, small_set, small_vocabulary):
    """The page of the documentation that shows the default job as a script."""
    recipe = changed(dims=(16, 8))
    keras.utils.set_random_seed(recipe.seed)
    student = build_student(
        "static_128",
        vocabulary=small_vocabulary,
        output_dim=small_set.embedding_dim,
        normalize=small_set.normalized,
        sequence_length=16,
    )
    axes = principal_axes(np.stack([vector for _, vector in small_set.records()]))
    widths = [small_set.embedding_dim, 16, 8]
    distiller = kdkeras.Distiller(
        student,
        distillation_losses={
            "embedding": Matryoshka(EmbeddingDistillation(), widths, [1 / 3] * 3, rotation=axes),
            "similarity": SimilarityDistillation(),
        },
        alignment_losses={"ranking": TranslationRanking()},
        loss_weights={"embedding": 2.0, "similarity": 1.0, "ranking": 0.5},
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=11, warmup_target=4e-3, warmup_steps=1
    )
    distiller.compile(FusedAdam(schedule), jit_compile=False)
    initialize_from_targets(student, small_set)
    batches = small_set.batches(16, small_vocabulary, sequence_length=16)
    distiller.fit(batches.repeat(), steps_per_epoch=12, verbose=0)
    result = train(recipe=recipe)
    np.testing.assert_allclose(result.student.encode(TEXTS), student.encode(TEXTS), atol=1e-6)


def test_output_has_the_student_its_recipe_and_its_history(train, tmp_path):
    result = train(output=tmp_path / "s.keras", steps_per_epoch=5)
    assert {path.name for path in tmp_path.iterdir()} == {
        "s.keras",
        "s.recipe.json",
        "s.history.json",
    }
    loaded = kdkeras.load(tmp_path / "s.keras")
    np.testing.assert_array_equal(loaded.encode(TEXTS), result.student.encode(TEXTS))
    assert json.loads((tmp_path / "s.history.json").read_text()) == result.history
    assert [entry["step"] for entry in result.history] == [5, 10, 12]
    recipe = Recipe.load(tmp_path / "s.recipe.json")
    assert recipe == result.recipe == changed(start="targets", learning_rate=4e-3)
    again = train(recipe=recipe)
    np.testing.assert_array_equal(again.student.encode(TEXTS), result.student.encode(TEXTS))


def test_size_overrides_that_of_the_recipe_and_sets_its_defaults(train):
    result = train("tiny", changed(steps=1))
    recipe = result.recipe
    assert (recipe.student, recipe.start, recipe.learning_rate) == ("tiny", "random", 5e-4)
    assert result.student.name == "tiny"


def test_vocabulary_is_trained_by_the_recipe_if_none_is_given(small_set, small_vocabulary):
    recipe = changed(vocabulary_size=600, steps=1, start="random")
    result = kdkeras.train(None, small_set.folder, recipe=recipe)
    assert result.student.vocabulary.fingerprint == small_vocabulary.fingerprint


def test_keep_axes_rotates_the_trained_student(train, small_set):
    recipe = changed(dims=(8,), steps=3)
    plain = train(recipe=recipe).student
    rotated = train(recipe=dataclasses.replace(recipe, keep_axes=True)).student
    rotate_projection(
        plain, principal_axes(np.stack([vector for _, vector in small_set.records()]))
    )
    np.testing.assert_allclose(rotated.encode(TEXTS), plain.encode(TEXTS), atol=1e-5)


def test_trained_student_continues_and_is_not_changed(train):
    first = train().student
    before = first.encode(TEXTS)
    second = train(first, Recipe(batch_size=16, steps=3)).student
    np.testing.assert_array_equal(first.encode(TEXTS), before)
    moved = np.abs(second.encode(TEXTS) - before).max()
    assert 0 < moved < 0.5


def test_trained_student_continues_with_its_own_recipe(train):
    first = train()
    again = train(first.student, dataclasses.replace(first.recipe, steps=1))
    assert again.recipe.start is None and again.recipe.student is None


def test_training_that_a_callback_stops_is_saved_and_says_where(train, tmp_path):
    result = train(output=tmp_path / "s.keras", callbacks=StopAt(5))
    assert result.stopped_at == 5 and (tmp_path / "s.keras").is_file()


def test_mixed_precision_returns_a_float32_student(train):
    student = train(recipe=changed(mixed_precision="bfloat16", steps=2)).student
    assert student.dtype_policy.name == "float32"


def test_quantization_starts_at_its_fraction(train, monkeypatch):
    seen = []
    original = kdkeras.training.QuantizationAwareTraining._switch

    def switch(self, scheme):
        seen.append((scheme, int(self.model.optimizer.iterations.numpy())))
        original(self, scheme)

    monkeypatch.setattr(kdkeras.training.QuantizationAwareTraining, "_switch", switch)
    train(recipe=changed(quantization="int8", quantization_start=0.5))
    assert seen == [(None, 0), ("int8", 6), (None, 12)]


def test_progress_reports_the_start_and_every_step(train):
    calls = []
    train(progress=lambda *call: calls.append(call))
    training = [(done, total) for task, done, total in calls if task.startswith("Training, loss")]
    assert training == [(step, 12) for step in range(1, 13)]
    assert ("Training", 0, 12) in calls
    assert {task.partition(",")[0] for task, _, _ in calls} == {"Fitting the table", "Training"}


class SignalAt(keras.callbacks.Callback):
    """Sends this process a signal after a step."""

    def __init__(self, step, sent):
        super().__init__()
        self.left, self.sent = step, sent

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.sent)


def test_sigterm_saves_the_step_and_the_same_call_continues(train, tmp_path):
    whole = train().student
    files = {"output": tmp_path / "s.keras", "backup": tmp_path / "backup"}
    stopped = train(**files, callbacks=[SignalAt(5, signal.SIGTERM)])
    assert stopped.stopped_at == 5 and not (tmp_path / "s.keras").exists()
    result = train(**files)
    assert result.stopped_at is None and result.history[-1]["step"] == 12
    np.testing.assert_array_equal(result.student.encode(TEXTS), whole.encode(TEXTS))
    assert not (tmp_path / "backup").exists()


def test_ctrl_c_before_the_first_backup_saves_the_student_and_the_step(train, tmp_path):
    whole = train().student
    files = {"output": tmp_path / "s.keras", "backup": tmp_path / "backup"}
    with pytest.raises(KeyboardInterrupt) as interrupt:
        train(**files, callbacks=[SignalAt(5, signal.SIGINT)])
    for part in ("5 of 12 steps", str(tmp_path / "s.keras"), "resume=True", "step 5"):
        assert part in str(interrupt.value)
    assert kdkeras.load(tmp_path / "s.keras").encode(TEXTS).shape[0] == 3
    result = train(**files)
    np.testing.assert_array_equal(result.student.encode(TEXTS), whole.encode(TEXTS))


@pytest.mark.parametrize(
    "changes", [{"loss_weights": {"embedding": 1.0}}, {"batch_size": 8}, {"learning_rate": 1.0}]
)
def test_other_recipe_than_that_of_the_backup_is_refused(changes, train, tmp_path):
    recipe = changed(start="random")
    train(recipe=recipe, backup=tmp_path / "backup", callbacks=[SignalAt(2, signal.SIGTERM)])
    with pytest.raises(InputError) as error:
        train(recipe=dataclasses.replace(recipe, **changes), backup=tmp_path / "backup")
    assert_one_line(str(error.value), f"Received: {next(iter(changes))}=", "overwrite=True")


def refused(train, *parts, **arguments):
    with pytest.raises(InputError) as error:
        train(**arguments)
    assert_one_line(str(error.value), *parts)


def test_bad_arguments_are_refused_before_training(train, mixed, tmp_path):
    (tmp_path / "kept.keras").write_text("mine")
    (tmp_path / "folder.keras").mkdir()
    refused(train, "must be a .keras file", output=tmp_path / "s.h5")
    refused(train, "must not exist yet", output=tmp_path / "kept.keras")
    refused(train, "must be writable", output=tmp_path / "folder.keras")
    refused(train, "batch_size=100000", recipe=changed(batch_size=100_000))
    refused(train, "keep_axes", recipe=changed(keep_axes=True))
    refused(train, "start='teacher' without", recipe=changed(start="teacher"))
    refused(train, "student=None", recipe=changed(student=None))
    refused(train, "'huge'", student="huge")
    trained = train(recipe=changed(steps=1, start="random")).student
    refused(train, "a Recipe. Received: str", recipe="recipe.json")
    refused(train, "must be loaded", student="mine.keras")
    refused(train, "start=None", teacher=object())
    refused(train, "steps_per_epoch=-1", steps_per_epoch=-1)
    refused(train, "callbacks with a Backup", callbacks=[Backup(tmp_path / "b")])
    refused(train, "callbacks with a Stages", callbacks=[Stages([Stage(steps=1)])])
    refused(train, "another vocabulary", student=trained, vocabulary=mixed)
    assert (tmp_path / "kept.keras").read_text() == "mine"


def test_backup_of_another_output_or_student_is_refused(train, tmp_path):
    stop = [SignalAt(2, signal.SIGTERM)]
    train(
        recipe=changed(start="random"),
        backup=tmp_path / "a",
        output=tmp_path / "a.keras",
        callbacks=stop,
    )
    (tmp_path / "other.keras").write_text("mine")
    refused(
        train,
        "output=",
        recipe=changed(start="random"),
        backup=tmp_path / "a",
        output=tmp_path / "other.keras",
    )
    assert (tmp_path / "other.keras").read_text() == "mine"
    one, two = (
        train(recipe=changed(start="random", steps=1, seed=seed)).student for seed in (0, 1)
    )
    train(one, backup=tmp_path / "b", callbacks=[SignalAt(2, signal.SIGTERM)])
    refused(train, "trained_student=", student=two, backup=tmp_path / "b")


def test_student_of_another_width_is_refused(train, small_vocabulary):
    sample = DistillationSet(sample_folder() / "distillation_set")
    trained = train(recipe=changed(steps=1, start="random")).student
    with pytest.raises(InputError, match="width of the cached targets"):
        kdkeras.train(trained, sample, recipe=Recipe(steps=1))
