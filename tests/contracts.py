"""Checks that several tests share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Arguments of Keras, and one that is not part of the configuration.
_OTHERS = {"kwargs", "name", "vocabulary"}


def assert_config_round_trip(make: type, arguments: dict[str, Any]) -> Any:
    """Every argument, with a non-default value, survives serialization."""
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
    """A comparable value: the configuration of a layer, any other value unchanged."""
    return keras.saving.serialize_keras_object(value) if isinstance(value, keras.Layer) else value


def value_and_gradient(
    loss: Callable[..., Any], teacher: Any, student: Any
) -> tuple[np.ndarray, Any]:
    """Loss of each example, and the gradient of their sum with respect to the student.

    The student can be a structure of arrays. The gradient has the same structure, with 0 for
    arrays that are not read.
    """
    student = tf.nest.map_structure(tf.convert_to_tensor, student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = loss(teacher, student)
    slope = tape.gradient(values, student, unconnected_gradients="zero")
    return values.numpy(), tf.nest.map_structure(lambda x: tf.cast(x, tf.float32).numpy(), slope)


def assert_one_line(text: str, *parts: str) -> None:
    """An error's text is one line with `Received: ` and the given parts."""
    assert "\n" not in text and "Received: " in text
    for part in parts:
        assert part in text
