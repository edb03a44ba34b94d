"""The argument parser of `kdkeras`, without slow imports."""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import NoReturn

from kdkeras.cli import (
    check_tpu,
    demo,
    distill,
    embed,
    evaluate,
    export,
    grow,
    targets,
    vocabulary,
)
from kdkeras.errors import InputError

__all__ = ["COMMANDS", "build_parser"]

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "targets": targets,
    "vocabulary": vocabulary,
    "distill": distill,
    "grow": grow,
    "evaluate": evaluate,
    "export": export,
    "embed": embed,
    "check-tpu": check_tpu,
}
"""Commands by name, in the order in which a project uses them."""


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except those that are None, False or empty."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []) or not action.option_strings:
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Reports invalid usage like other invalid input: one line, status 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. See: {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser with all commands."""
    from kdkeras import __version__

    parser = _Parser(
        prog="kdkeras",
        description="Distill a text encoder into a small multilingual embedding model.",
        epilog="Exit status: 0 success; 1 failed check or lost worker; 2 invalid input or a "
        "loss that is not finite; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"kdkeras {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, help=module.HELP, description=module.__doc__, formatter_class=_Formatter
        )
        module.add_arguments(command)
        command.add_argument(
            "--json",
            action="store_true",
            help="print the result as one JSON object on stdout; everything else is on stderr",
        )
    return parser
