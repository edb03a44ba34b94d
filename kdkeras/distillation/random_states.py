"""Random states of a model (its dropout's), which Keras leaves out of its files."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["load_random_states", "random_states", "save_random_states"]


def save_random_states(model: keras.Model, store: Any) -> None:
    """Writes them to what Keras gives to `save_own_variables`."""
    for i, state in enumerate(random_states(model)):
        store[f"random_state_{i}"] = keras.ops.convert_to_numpy(state)


def load_random_states(model: keras.Model, store: Any) -> None:
    """Reads them, so that training goes on with the next dropout mask."""
    for i, state in enumerate(random_states(model)):
        state.assign(store[f"random_state_{i}"])


def random_states(model: keras.Model) -> list[Any]:
    """Returns the variables that a model's random numbers follow from."""
    weights = {id(weight) for weight in model.weights}
    return [
        variable
        for variable in model.variables
        if id(variable) not in weights and variable.name == "seed_generator_state"
    ]
