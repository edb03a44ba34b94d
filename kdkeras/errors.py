"""The errors a user can cause, and what each one means to the command line."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = [
    "GateError",
    "InputError",
    "MissingExtraError",
    "NonFiniteLossError",
    "WorkerLostError",
    "require_extra",
]


class InputError(ValueError):
    """Input that cannot be used: the rule, what was received, what to do.

    The command line prints its one line and exits with status 2.
    """

    # Keras appends a dump of the arguments to what a layer's `call` raises,
    # unless this says that an inner layer has already done so.
    _keras_call_info_injected = True


class GateError(RuntimeError):
    """An artifact that does not pass its quality gate (exit status 1)."""


class NonFiniteLossError(RuntimeError):
    """A loss term that became NaN or infinite (exit status 2)."""


class WorkerLostError(RuntimeError):
    """A training on several machines of which one has gone (exit status 1)."""


class MissingExtraError(ImportError):
    """An optional package that the call needs (exit status 2)."""


def require_extra(module: str, extra: str) -> ModuleType:
    """Imports an optional module.

    Args:
        module: Name of the module, e.g. `"huggingface_hub"`.
        extra: Name of the kdkeras extra that installs it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: If the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"This needs the package `{module}`, which is not installed. "
            f'Received: {error}. Install it with: pip install "kdkeras[{extra}]".'
        ) from error
