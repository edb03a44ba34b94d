"""One check per kind of object; the objects themselves are a table in each test."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Not arguments of the object's own: Keras' names, and what is no configuration.
_OTHERS = {"kwargs", "name", "vocabulary"}


def assert_config_round_trip(make: type, arguments: dict[str, Any]) -> Any:
    """Every argument, given a non-default value, survives serialisation."""
    parameters = inspect.signature(make).parameters
    assert set(arguments) == set(parameters) - _OTHERS, "give every argument"
    instance = make(**arguments, name="renamed")
    data = keras.saving.serialize_keras_object(instance)
    assert data["registered_name"] == f"kdkeras>{make.__name__}"
    copy = keras.saving.deserialize_keras_object(data)
    assert type(copy) is make and copy.name == "renamed"
    for key, value in arguments.items():
        assert value != parameters[key].default, f"{key} is the default"
        assert _plain(getattr(instance, key)) == _plain(getattr(copy, key)) == _plain(value)
    return copy


def _plain(value: Any) -> Any:
    """A value that can be compared: of a layer, what it is made from."""
    return keras.saving.serialize_keras_object(value) if isinstance(value, keras.Layer) else value


def value_and_gradient(
    loss: Callable[..., Any], teacher: Any, student: Any
) -> tuple[np.ndarray, Any]:
    """Loss of each example, and the gradient of their sum by the student.

    The student may be a structure of arrays: then so is the gradient, 0 where none is read.
    """
    student = tf.nest.map_structure(tf.convert_to_tensor, student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = loss(teacher, student)
    slope = tape.gradient(values, student, unconnected_gradients="zero")
    return values.numpy(), tf.nest.map_structure(lambda x: tf.cast(x, tf.float32).numpy(), slope)


def assert_one_line(text: str, *parts: str) -> None:
    """An error's text is one line that holds the rule, the value and what to do."""
    assert "\n" not in text and "Received: " in text
    for part in parts:
        assert part in text
