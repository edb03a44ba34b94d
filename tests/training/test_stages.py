"""Stages: each stage trains its losses and layers, and a killed run continues in its stage."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import run_stages
import tensorflow as tf
from contracts import assert_one_line
from small_models import (
    assert_equal_weights,
    every_loss,
    fit,
    fit_stages,
    make_distiller,
    make_student,
    make_two_heads,
    pairs,
    weights,
)
from test_backup import StopAt

import kdkeras
from kdkeras.distillation import UncertaintyWeighting
from kdkeras.errors import InputError
from kdkeras.losses import EmbeddingDistillation
from kdkeras.optimizers import FusedAdam
from kdkeras.schedules import LinearDecay, LinearWarmup
from kdkeras.training import Stage

BATCHES = 3


def batches(rows=4 * BATCHES):
    return tf.data.Dataset.from_tensor_slices(pairs(rows=rows)).batch(4)


def shuffled():
    """Another order in every epoch."""
    data = tf.data.Dataset.from_tensor_slices(pairs(rows=4 * BATCHES))
    return data.shuffle(20, seed=3, reshuffle_each_iteration=True).batch(4)


def distiller(optimizer=None, student=None, **arguments):
    keras.utils.set_random_seed(1)
    optimizer = optimizer or FusedAdam(0.05)
    return make_distiller(student, optimizer, **{**every_loss(), **arguments})


def moments(model, name):
    return [v.numpy() for v in model.optimizer.variables if name in v.path]


class Watch(keras.callbacks.Callback):
    """Records a value before every step, and after the last."""

    def __init__(self, look):
        super().__init__()
        self.look, self.seen = look, []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(self.look(self.model))

    def on_train_end(self, logs=None):
        self.seen.append(self.look(self.model))


def watch(model, stages, look, **arguments):
    seen = Watch(look)
    fit_stages(model, batches(), stages, callbacks=[seen], verbose=0, **arguments)
    return seen.seen


def test_one_stage_without_changes_equals_fit():
    expected, model = distiller(), distiller()
    logs = expected.fit(batches(), epochs=2, verbose=0).history
    staged = fit_stages(model, batches(), [Stage(steps=2 * BATCHES)], verbose=0).history
    assert_equal_weights(weights(model), weights(expected))
    assert staged == logs


def test_stages_equal_separate_trainings_in_sequence():
    x, y = pairs(rows=16)
    model = distiller(keras.optimizers.SGD(0.3))
    stages = [
        Stage(steps=2, loss_weights={"embedding": 1.0}),
        Stage(steps=3, loss_weights={"ranking": 2.0, "similarity": 1.0}, learning_rate=0.1),
        Stage(steps=3, frozen=["token_embedding", "projection"]),
    ]
    fit_stages(model, batches(32), stages, verbose=0)
    student, x, y = make_student(), *pairs(rows=32)
    losses = every_loss()
    embedding, similarity = losses["distillation_losses"].values()
    parts = [
        (slice(0, 8), 0.3, {"distillation_losses": {"embedding": embedding}}),
        (
            slice(8, 20),
            0.1,
            {
                "distillation_losses": {"similarity": similarity},
                "alignment_losses": losses["alignment_losses"],
                "loss_weights": {"ranking": 2.0},
            },
        ),
        (slice(20, 32), 0.3, losses),
    ]
    for rows, rate, arguments in parts:
        if arguments is losses:
            student.token_embedding.trainable = student.projection.trainable = False
        alone = make_distiller(student, keras.optimizers.SGD(rate), **arguments)
        fit(alone, {k: v[rows] for k, v in x.items()}, {k: v[rows] for k, v in y.items()})
    student.trainable = True
    assert_equal_weights(weights(model.student), weights(student), atol=1e-6)


def test_frozen_layers_and_their_moments_do_not_change():
    stages = [Stage(steps=2), Stage(steps=4, frozen=["token_embedding"]), Stage(steps=2)]

    def look(model):
        return (
            model.student.token_embedding.get_weights() + moments(model, "token_embedding"),
            model.student.projection.get_weights() + moments(model, "projection"),
        )

    seen = watch(distiller(), stages, look)
    assert len(seen[2][0]) == 3 and len(seen) == 9
    for step in range(8):
        frozen = 2 <= step < 6
        (table, projection), (table_after, projection_after) = seen[step], seen[step + 1]
        for one, other in zip(table, table_after, strict=True):
            assert np.array_equal(one, other) is frozen
        for one, other in zip(projection, projection_after, strict=True):
            assert not np.array_equal(one, other)


def test_weights_of_an_unused_loss_do_not_change(recwarn):
    losses = {
        "pull": EmbeddingDistillation("mse", projection=(3, 3)),
        "embedding": EmbeddingDistillation(),
    }
    model = make_distiller(
        optimizer=FusedAdam(0.05),
        distillation_losses=losses,
        balancing=UncertaintyWeighting(),
    )
    stages = [Stage(steps=2), Stage(steps=2, loss_weights={"embedding": 1.0})]

    def look(model):
        trained = model.balancing.log_variances["pull"].numpy(), losses["pull"].kernel.numpy()
        return [*trained, *moments(model, "pull"), *moments(model, "embedding_distillation")]

    seen = watch(model, stages, look)
    assert_equal_weights(seen[2], seen[4])
    assert not np.array_equal(seen[1][1], seen[2][1])
    assert not [w for w in recwarn if "Gradients do not exist" in str(w.message)]


def test_learning_rates_follow_the_stages():
    rates = {
        "a float": (0.05, [0.05, 0.05]),
        "a schedule": (LinearDecay(1.0, 1.0, 10), [0.5, 0.4]),
    }
    for compiled, third in rates.values():
        stages = [
            Stage(steps=2, learning_rate=0.3),
            Stage(steps=3, learning_rate=LinearWarmup(0.3, 3)),
            Stage(steps=2),
        ]
        model = distiller(FusedAdam(compiled))
        seen = watch(model, stages, lambda model: float(model.optimizer.learning_rate))
        assert seen[:7] == pytest.approx([0.3, 0.3, 0.0, 0.1, 0.2, *third])


def test_schedules_of_a_stage_count_its_steps_and_other_losses_are_not_computed():
    stages = [
        Stage(steps=3, loss_weights={"embedding": 1.0}),
        Stage(steps=3, loss_weights={"similarity": LinearWarmup(1.0, 2)}),
    ]
    model = distiller()
    logs = fit_stages(
        model, batches(), stages, steps_per_epoch=1, validation_data=batches(), verbose=0
    ).history
    assert set(logs) == {
        *("loss", "embedding", "similarity", "weight_similarity"),
        *("val_loss", "val_embedding", "val_similarity"),
    }
    assert len(logs["embedding"]) == len(logs["val_embedding"]) == 3
    assert logs["weight_similarity"] == [0.0, 0.5, 1.0]
    assert logs["loss"][:3] == logs["embedding"]
    assert logs["val_loss"][:3] == logs["val_embedding"]
    assert logs["loss"][3] == 0.0 < logs["similarity"][0]


def test_flags_and_weights_are_restored_afterwards():
    model = distiller(student=make_two_heads())
    model.student.layers[-1].trainable = False
    before = [v.path for v in model.trainable_variables]
    stages = [
        Stage(steps=2, frozen=[model.student.layers[1].name], loss_weights={"embedding": 1.0}),
        Stage(steps=2),
    ]
    for crash in (True, False):
        expected = pytest.raises(KeyboardInterrupt) if crash else contextlib.nullcontext()
        with expected:
            callbacks = [StopAt(1, crash=True)] if crash else []
            fit_stages(model, batches(), stages, callbacks=callbacks, verbose=0)
        assert [v.path for v in model.trainable_variables] == before
        assert dict(model.active_weights) == dict(model.term_weights)
        assert set(model.evaluate(*pairs(), verbose=0, return_dict=True)) == {
            *("loss", "embedding", "similarity", "ranking")
        }
    assert int(model.step) == 4


# ---- resuming -----------------------------------------------------------

STAGES = [
    Stage(steps=4, loss_weights={"embedding": 1.0}, learning_rate=0.1),
    Stage(steps=5, frozen=["token_embedding"], learning_rate=LinearWarmup(0.1, 5)),
    Stage(steps=4, loss_weights={"similarity": LinearDecay(1.0, 0.5, 4), "ranking": 1.0}),
]


def run(folder, *callbacks, stages=STAGES, **arguments):
    model = distiller(balancing=UncertaintyWeighting(), **arguments)
    logs = fit_stages(
        model, shuffled(), stages, backup=folder, callbacks=list(callbacks), verbose=0
    ).history
    return model, logs


def state(model):
    return [*weights(model), *(v.numpy() for v in model.optimizer.variables)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "backup"
    model, logs = run(folder)
    return state(model), logs, folder


# At the end of a stage, within a stage, and at the end of both a stage and an epoch.
@pytest.mark.parametrize("stopped", [4, 7, 9])
def test_a_resumed_training_equals_an_uninterrupted_one(stopped, uninterrupted, tmp_path):
    run(tmp_path / "backup", StopAt(stopped))
    assert json.loads((tmp_path / "backup" / "state.json").read_text())["step"] == stopped
    model, logs = run(tmp_path / "backup")
    assert_equal_weights(state(model), uninterrupted[0])
    for name, values in logs.items():
        assert values == uninterrupted[1][name][-len(values) :]


def test_a_finished_training_is_not_repeated(uninterrupted):
    expected, _, folder = uninterrupted
    model, logs = run(folder)
    assert logs == {} and int(model.step) == 13
    assert_equal_weights(state(model), expected)
    assert fit_stages(model, batches(), STAGES, verbose=0).history == {}
    assert_equal_weights(state(model), expected)


def test_a_loaded_distiller_continues_in_its_stage(tmp_path):
    stages = [Stage(steps=3, loss_weights={"embedding": 1.0}), *STAGES[1:]]
    expected, model = distiller(), distiller()
    fit_stages(expected, batches(), stages, verbose=0)
    fit_stages(model, batches(), stages, callbacks=[StopAt(6)], verbose=0)
    model.save(tmp_path / "distiller.keras")
    resumed = kdkeras.load(tmp_path / "distiller.keras")
    fit_stages(resumed, batches(), stages, verbose=0)
    assert_equal_weights(state(resumed), state(expected))


def test_stages_that_differ_from_the_backup_are_refused(tmp_path):
    run(tmp_path / "backup", StopAt(2))
    with pytest.raises(InputError) as error:
        run(tmp_path / "backup", stages=[Stage(steps=9)])
    assert_one_line(str(error.value), "settings it started with", "'steps': 9", "'steps': 4")


def test_a_killed_process_continues_in_its_stage_bit_for_bit(tmp_path):
    script = str(Path(run_stages.__file__))

    def start(folder):
        command = [sys.executable, script, str(tmp_path / folder), str(tmp_path / f"{folder}.npz")]
        return subprocess.Popen(command)

    def kept(folder):
        file = tmp_path / folder / "state.json"
        return json.loads(file.read_text("utf-8"))["step"] if file.exists() else 0

    assert start("uninterrupted").wait(timeout=300) == 0
    process = start("killed")
    while kept("killed") < run_stages.FIRST + run_stages.SECOND + 5:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed.npz").exists()
    assert start("killed").wait(timeout=300) == 0
    one, other = (np.load(tmp_path / f"{name}.npz") for name in ("uninterrupted", "killed"))
    assert_equal_weights([one[k] for k in one.files], [other[k] for k in one.files])


# ---- ways to run, and bad input -----------------------------------------

EXECUTIONS = {
    "eager": {"run_eagerly": True},
    "jit": {"jit_compile": True},
    "two steps per execution": {"steps_per_execution": 2},
}


def trained(**arguments):
    stages = [
        Stage(steps=2, loss_weights={"embedding": 1.0}),
        Stage(steps=4, frozen=["projection"], learning_rate=LinearWarmup(0.1, 4)),
    ]
    model = distiller(**arguments)
    fit_stages(model, batches(16), stages, steps_per_epoch=6, verbose=0)
    return weights(model)


@pytest.fixture(scope="module")
def trained_in_graph():
    return trained()


@pytest.mark.parametrize("way", EXECUTIONS)
def test_every_way_to_run_gives_the_same_weights(way, trained_in_graph):
    assert_equal_weights(trained(**EXECUTIONS[way]), trained_in_graph, atol=2e-6)


def test_a_stage_survives_as_json():
    for stage in (*STAGES, Stage(steps=1)):
        config = json.loads(json.dumps(stage.get_config()))
        assert Stage.from_config(config).get_config() == config == stage.get_config()


def stages(*given, **arguments):
    return lambda: fit_stages(distiller(**arguments), batches(), list(given), verbose=0)


TWO = Stage(steps=2)
BAD = {
    "no stage": (stages(), "stages=[]", "Stage(steps=...)"),
    "no steps": (lambda: Stage(steps=0), "`steps` must be", "steps=0"),
    "half a step": (lambda: Stage(steps=1.5), "steps=1.5"),
    "one name": (lambda: Stage(steps=1, frozen="pooling"), "frozen=['pooling']"),
    "negative rate": (lambda: Stage(steps=1, learning_rate=-0.1), "learning_rate=-0.1"),
    "negative rate later": (
        lambda: Stage(steps=1, learning_rate=LinearWarmup(-0.5, 3)),
        "learning_rate=-0.5",
    ),
    "unknown loss": (
        stages(TWO, Stage(steps=1, loss_weights={"pull": 1.0})),
        "'pull'",
        "['embedding', 'similarity', 'ranking', 'task']",
    ),
    "negative weight": (
        stages(TWO, Stage(steps=1, loss_weights={"embedding": -1.0})),
        "embedding=-1",
        "0 or more",
    ),
    "no loss": (stages(Stage(steps=1, loss_weights={})), "A stage needs a loss", "{}"),
    "no task loss": (stages(Stage(steps=1, loss_weights={"task": 1.0})), "needs a loss"),
    "unknown layer": (
        stages(TWO, Stage(steps=1, frozen=["table"])),
        "'table'",
        "['projection', 'token_embedding', 'token_weight']",
    ),
    "all frozen": (
        stages(Stage(steps=1, frozen=["projection", "token_embedding", "token_weight"])),
        "must train something",
        "Freeze fewer layers",
    ),
    "inside an execution": (
        stages(TWO, Stage(steps=3), steps_per_execution=2),
        "ends at step 5, steps_per_execution=2",
        "multiples of 2",
    ),
    "moving averages": (
        stages(Stage(steps=2, frozen=["projection"]), optimizer=keras.optimizers.SGD(use_ema=True)),
        "use_ema=True",
        "freeze nothing",
    ),
    "accumulated": (
        stages(TWO, optimizer=keras.optimizers.SGD(gradient_accumulation_steps=2)),
        "gradient_accumulation_steps=2",
        "micro_batches",
    ),
    "epochs": (
        lambda: fit_stages(distiller(), batches(), [TWO], epochs=2),
        "epochs=2",
        "Stage(steps=...)",
    ),
    "arrays": (lambda: fit_stages(distiller(), pairs()[0], [TWO]), "backup or stages", "dict"),
    "missing target": (
        stages(
            TWO,
            distillation_losses={"pull": EmbeddingDistillation(target="pooled")},
            loss_weights={},
        ),
        "target 'pooled'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case):
    act, *parts = BAD[case]
    with pytest.raises(InputError) as error:
        act()
    assert_one_line(str(error.value), *parts)
