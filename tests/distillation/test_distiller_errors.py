"""Errors of a Distiller, one line each, and its state afterwards."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from contracts import assert_one_line
from small_models import (
    assert_equal_weights,
    every_loss,
    fit,
    make_distiller,
    make_two_heads,
    one_side,
    pairs,
    weights,
)

from kdkeras.errors import InputError, NonFiniteLossError
from kdkeras.losses import (
    DecoupledDistillation,
    EmbeddingDistillation,
    SoftTargets,
    TranslationRanking,
)


def build(**arguments):
    return lambda: make_distiller(**arguments)


def train(y=None, x=None, **arguments):
    """Fits on valid pairs, except for the given arguments."""
    given = pairs()
    return lambda: fit(make_distiller(**arguments), x or given[0], given[1] if y is None else y)


EMBEDDING = {"embedding": EmbeddingDistillation()}
RANKING = {"alignment_losses": {"ranking": TranslationRanking()}}
CASES = {
    "no loss": (build(distillation_losses={}), "needs a loss", "distillation_losses="),
    "unknown weight": (build(loss_weights={"pull": 1.0}), "'pull'", "['embedding', 'task']"),
    "negative weight": (build(loss_weights={"embedding": -1}), "embedding=-1", "Use 0"),
    "weight that is no number": (build(loss_weights={"embedding": np.nan}), "embedding=nan"),
    "name used twice": (
        build(alignment_losses={"embedding": TranslationRanking()}),
        "'embedding' twice",
        "Choose another name",
    ),
    "reserved name": (build(distillation_losses={"task": SoftTargets()}), "'task'", "reserved"),
    "reserved total": (build(distillation_losses={"loss": SoftTargets()}), "'loss'", "reserved"),
    "missing target": (train(y={}), "target 'embedding'", "targets []", "teacher="),
    "other target": (
        train(distillation_losses={"pull": EmbeddingDistillation(target="pooled")}),
        "target 'pooled'",
        "['embedding']",
    ),
    "missing translations": (
        train(x=one_side(pairs()[0]), **RANKING),
        "'ranking' needs translations",
        "`translation_token_ids`",
    ),
    "another width": (
        train(y={"embedding": np.ones((4, 5), "float32")}),
        "(4, 5)",
        "(4, 3)",
        "output_dim",
    ),
    "missing output": (
        train(
            y={"pooled": np.ones((4, 3), "float32")},
            student=make_two_heads(),
            distillation_losses={"pull": EmbeddingDistillation(target="pooled")},
        ),
        "['embedding', 'logits']",
        "'pooled'",
    ),
    "missing label": (
        train(distillation_losses={"apart": DecoupledDistillation(target="embedding")}),
        "'apart' needs 'label'",
        "['embedding', 'padding_mask', 'source_id', 'token_ids']",
    ),
    "one pair": (
        lambda: fit(make_distiller(run_eagerly=True, **RANKING), *pairs(rows=1)),
        "batch size 1",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_in_one_line(case):
    act, *parts = CASES[case]
    with pytest.raises(InputError) as error:
        act()
    assert_one_line(str(error.value), *parts)


def test_loss_weights_are_refused_in_compile():
    with pytest.raises(InputError) as error:
        make_distiller().compile("sgd", loss_weights={"embedding": 1.0})
    assert_one_line(str(error.value), "compile(loss_weights=...)", "Distiller(loss_weights=")


def test_class_weight_with_targets_is_refused():
    x, y = pairs()
    with pytest.raises(ValueError, match="class_weight"):
        fit(make_distiller(), x, y, class_weight={0: 1.0})


def non_finite(step, value=np.nan, rows=12):
    """Pairs whose teacher vector is not finite in one batch of four."""
    x, y = pairs(rows=rows)
    y["embedding"][4 * step, 0] = value
    return x, y


@pytest.mark.parametrize(
    ("way", "value"),
    [({}, np.nan), ({"run_eagerly": True}, np.inf), ({"chunk_size": 3}, np.inf)],
    ids=str,
)
def test_a_non_finite_target_stops_at_its_step_with_the_weights_before(way, value):
    x, y = non_finite(1, value)
    distiller = make_distiller(optimizer=keras.optimizers.Adam(0.1), **every_loss(), **way)
    with pytest.raises(NonFiniteLossError) as error:
        fit(distiller, x, y)
    assert_one_line(str(error.value), "embedding=", "at step 2. ", "learning rate")
    assert "ranking" not in str(error.value)
    first = make_distiller(optimizer=keras.optimizers.Adam(0.1), **every_loss(), **way)
    fit(first, {k: v[:4] for k, v in x.items()}, {"embedding": y["embedding"][:4]})
    assert_equal_weights(weights(distiller.student), weights(first.student))
    assert int(distiller.optimizer.iterations) == 1


def test_an_execution_of_several_steps_ends_at_a_non_finite_one():
    x, y = non_finite(1)
    distiller = make_distiller(optimizer="adam", steps_per_execution=3)
    with pytest.raises(NonFiniteLossError, match="at step 2"):
        fit(distiller, x, y)
    first = make_distiller(optimizer="adam")
    fit(first, {k: v[:4] for k, v in x.items()}, {"embedding": y["embedding"][:4]})
    assert_equal_weights(weights(distiller.student), weights(first.student))


def test_training_can_continue_after_a_non_finite_step(tmp_path):
    x, y = non_finite(1)
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    distiller = make_distiller()
    with pytest.raises(NonFiniteLossError):
        fit(distiller, x, y, callbacks=[logger])
    good, targets = pairs()
    assert np.isfinite(fit(distiller, good, targets)["loss"]).all()
