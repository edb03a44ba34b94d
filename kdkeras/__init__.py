"""kdkeras: distill any text encoder into a small multilingual embedding model.

Names are imported on first use, so that `import kdkeras` is fast.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdkeras import (
        compression,
        data,
        distillation,
        distribution,
        evaluation,
        export,
        growth,
        layers,
        losses,
        optimizers,
        schedules,
        students,
        teachers,
        training,
    )
    from kdkeras.distillation import Distiller
    from kdkeras.errors import (
        GateError,
        InputError,
        MissingExtraError,
        NonFiniteLossError,
        WorkerLostError,
    )
    from kdkeras.loading import from_preset, load
    from kdkeras.recipe import Recipe
    from kdkeras.training import train

__version__ = "0.1.0"

__all__ = [
    "Distiller",
    "GateError",
    "InputError",
    "MissingExtraError",
    "NonFiniteLossError",
    "Recipe",
    "WorkerLostError",
    "compression",
    "data",
    "distillation",
    "distribution",
    "evaluation",
    "export",
    "from_preset",
    "growth",
    "layers",
    "load",
    "losses",
    "optimizers",
    "schedules",
    "students",
    "teachers",
    "train",
    "training",
]

_HOMES = {
    "Distiller": "kdkeras.distillation",
    "GateError": "kdkeras.errors",
    "InputError": "kdkeras.errors",
    "MissingExtraError": "kdkeras.errors",
    "NonFiniteLossError": "kdkeras.errors",
    "Recipe": "kdkeras.recipe",
    "WorkerLostError": "kdkeras.errors",
    "from_preset": "kdkeras.loading",
    "load": "kdkeras.loading",
    "train": "kdkeras.training",
}

_backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# The command line reports this error itself, in one line. While Python searches for the module
# of `-m kdkeras`, `sys.argv[0]` is still "-m".
_is_command = os.path.basename(sys.argv[0] if sys.argv else "") in ("kdkeras", "-m")
if _backend != "tensorflow" and not _is_command:
    raise ImportError(
        "kdkeras runs on Keras with the TensorFlow backend. "
        f"Received: KERAS_BACKEND={_backend}. Set KERAS_BACKEND=tensorflow before Python starts."
    )


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"kdkeras.{name}")
    raise AttributeError(f"module 'kdkeras' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
