"""`fit`, `evaluate` and `predict` have the arguments of `keras.Model`."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
from small_models import make_distiller, pairs

from kdkeras import Distiller


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_arguments_and_defaults_are_those_of_keras(method):
    ours, keras_own = (
        {name: (p.kind, p.default) for name, p in inspect.signature(function).parameters.items()}
        for function in (getattr(Distiller, method), getattr(keras.Model, method))
    )
    assert list(ours.items()) == list(keras_own.items())


def test_arguments_may_be_positional():
    x, y = pairs(rows=8)
    distiller = make_distiller()
    history = distiller.fit(x, y, 4, 2, 0).history
    assert len(history["loss"]) == 2 and int(distiller.step) == 4
    named = {"batch_size": 4, "verbose": 0}
    assert distiller.evaluate(x, y, 4, 0) == distiller.evaluate(x, y, **named)
    np.testing.assert_array_equal(distiller.predict(x, 4, 0), distiller.predict(x, **named))
