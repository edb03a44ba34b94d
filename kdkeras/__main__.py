"""The command `kdkeras`: parses the arguments, runs a command and prints its result."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from kdkeras.cli.native_logs import quiet_native_logs
from kdkeras.cli.parser import COMMANDS, build_parser
from kdkeras.errors import (
    GateError,
    InputError,
    MissingExtraError,
    NonFiniteLossError,
    WorkerLostError,
)

__all__ = ["main"]

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_UNLIMITED = 10_000


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments without the program's name. None (the default) is
            `sys.argv[1:]`.

    Returns:
        Exit status: 0 for success, 1 for a failed check or a lost worker, 2 for
        invalid input or a loss that is not finite, 130 if interrupted.
    """
    try:
        arguments = build_parser().parse_args(argv)
        _prepare_environment()
        with quiet_native_logs():
            importlib.import_module("tensorflow_text")  # imports TensorFlow
        command = COMMANDS[arguments.command]
        # Stdout contains the result only, whatever libraries print.
        with contextlib.redirect_stdout(sys.stderr):
            result = command.run(arguments)
        _print_result(command, result, as_json=arguments.json)
    except (InputError, MissingExtraError, NonFiniteLossError) as error:
        return _fail(str(error), BAD_INPUT)
    except (GateError, WorkerLostError) as error:
        return _fail(str(error), FAILED)
    except BrokenPipeError:
        # The reader of stdout has ended (`| head`): there is nothing to report or to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(_explain(error), BAD_INPUT)
    except KeyboardInterrupt as interrupt:
        finished = _with_options(str(interrupt)) or "Nothing new was written."
        sys.stderr.write(f"\nkdkeras: interrupted. {finished}\n")
        return INTERRUPTED
    return 0


def _prepare_environment() -> None:
    # Hides TensorFlow's C++ logs, which report a missing GPU as an error. Real errors are raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise InputError(
            "kdkeras runs on Keras with the TensorFlow backend. "
            f"Received: KERAS_BACKEND={backend}. Set KERAS_BACKEND=tensorflow, or unset it."
        )


def _print_result(command: ModuleType, result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
        return
    from rich.console import Console

    # Tables fit the terminal; piped output is not folded.
    console = Console() if sys.stdout.isatty() else Console(width=_UNLIMITED)
    for part in command.show(result):
        if isinstance(part, str):
            sys.stdout.write(f"{part}\n")
        else:
            console.print(part)


_OPTIONS = {
    "overwrite=True and resume=False": "--overwrite without --resume",
    "overwrite=True": "--overwrite",
    "resume=True": "--resume",
    "lower min_pairs": "lower --min-pairs",
}
"""Advice in errors of the library, and the command-line options to the same effect."""


def _with_options(message: str) -> str:
    for advice, option in _OPTIONS.items():
        message = message.replace(advice, option)
    return message


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"kdkeras: error: {' '.join(_with_options(message).split())}\n")
    return status


def _explain(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    return (
        f"A file or folder cannot be used. Received{where} "
        f"({error.strerror or error}). Check the path, its permissions and the free disk space."
    )


if __name__ == "__main__":
    sys.exit(main())
