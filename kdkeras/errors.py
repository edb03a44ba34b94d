"""Errors caused by a user's input or environment, and their exit status on the command line."""

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
    """Unusable input. The message has the rule, the received value and the next step.

    The command line prints the message and exits with status 2.
    """

    # Keras appends all arguments to an error raised in a layer's `call`, unless
    # this attribute is set.
    _keras_call_info_injected = True


class GateError(RuntimeError):
    """An artifact that does not pass its quality gate (exit status 1)."""


class NonFiniteLossError(RuntimeError):
    """A loss term became NaN or infinite (exit status 2)."""


class WorkerLostError(RuntimeError):
    """A worker of a training on several machines stopped responding (exit status 1)."""


class MissingExtraError(ImportError):
    """An optional package is not installed (exit status 2)."""


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
