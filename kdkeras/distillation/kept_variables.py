"""All variables of a model in training, in one file."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kdkeras.errors import InputError
from kdkeras.files import atomic_write

__all__ = ["read_variables", "write_variables"]


def write_variables(path: Path, model: keras.Model) -> None:
    """Writes weights, random states and the optimizer's variables, bit for bit.

    Keras' `save_weights` writes HDF5 in place, which ends the process with a
    segmentation fault where the disk is full; here the bytes are made first.

    Raises:
        InputError: If the file system refuses; `path` is untouched.
    """
    arrays = {
        # As bytes: safetensors has no NumPy type for bfloat16.
        str(number): np.frombuffer(np.asarray(variable.numpy()).tobytes(), np.uint8)
        for number, variable in enumerate(_variables(model))
    }
    content = save(arrays)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def read_variables(path: Path, model: keras.Model) -> None:
    """Sets the variables of a model that is built as the one that was written.

    Raises:
        InputError: If the file is missing, damaged, or of another model.
    """
    try:
        arrays = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"A backup must be whole. Received: {path}, which cannot be read ({error}). "
            "Begin anew with --overwrite instead of --resume, or delete its folder."
        ) from error
    variables = _variables(model)
    sizes = [variable.numpy().nbytes for variable in variables]
    if sizes != [arrays[str(n)].nbytes for n in range(len(arrays)) if str(n) in arrays]:
        raise InputError(
            f"A backup must be of the same model. Received: {path} with {len(arrays)} variables; "
            f"this training has {len(variables)}, or of other sizes. Build the model and the "
            "optimizer as before, or delete the backup's folder."
        )
    for number, variable in enumerate(variables):
        kept = np.frombuffer(arrays[str(number)].tobytes(), variable.numpy().dtype)
        variable.assign(kept.reshape(variable.shape))


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
