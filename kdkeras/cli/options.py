"""Types of arguments, and options of several commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from kdkeras.recipe import Recipe

__all__ = [
    "add_losses",
    "add_overwrite",
    "add_seed",
    "byte_size",
    "comma_separated",
    "fraction",
    "loss_weights",
    "non_negative_int",
    "percentage",
    "positive_float",
    "positive_int",
    "scheme_and_start",
    "weight",
]


def _number(
    kind: Callable[[str], float], rule: str, holds: Callable[[float], bool]
) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not holds(value):
            raise argparse.ArgumentTypeError(f"must be {rule}, received {text!r}")
        return value

    return read


positive_int = _number(int, "a whole number of at least 1", lambda value: value >= 1)
non_negative_int = _number(int, "a whole number of at least 0", lambda value: value >= 0)
positive_float = _number(float, "a number above 0", lambda value: 0 < value < float("inf"))
fraction = _number(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
percentage = _number(float, "a number from 0 to 100", lambda value: 0 <= value <= 100)


_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def byte_size(text: str) -> int:
    """Parses a size such as `8MB` (10^6), `800kB`, `4MiB` (2^20) or a number of bytes."""
    form = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text.strip())
    unit = _UNITS.get((form[2] or "b").lower()) if form else None
    size = int(float(form[1]) * unit) if form and unit else 0
    if size < 1:
        raise argparse.ArgumentTypeError(
            f"must be a size above 0 such as 8MB, 800kB or 4MiB, received {text!r}"
        )
    return size


def comma_separated(text: str) -> list[str]:
    """Parses a list such as `de,fr,ja`."""
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise argparse.ArgumentTypeError(f"must be names separated by commas, received {text!r}")
    return list(dict.fromkeys(items))


def weight(text: str) -> tuple[str, float]:
    """Parses `NAME=WEIGHT`."""
    name, _, value = text.partition("=")
    number = _number(float, "a number of at least 0", lambda v: 0 <= v < float("inf"))(value)
    return name, number


def scheme_and_start(text: str) -> tuple[str, float]:
    """Parses `SCHEME[:FRACTION]`; the default fraction is 0.7."""
    scheme, colon, start = text.partition(":")
    if scheme not in ("int4", "int8"):
        raise argparse.ArgumentTypeError(f"must be int4 or int8, received {text!r}")
    return scheme, fraction(start) if colon else 0.7


def add_losses(parser: argparse._ActionsContainer) -> None:
    """Adds `--losses`; `loss_weights` reads its value."""
    parser.add_argument(
        "--losses",
        nargs="+",
        type=weight,
        default=[f"{name}={value:g}" for name, value in Recipe().loss_weights.items()],
        metavar="NAME=WEIGHT",
        help="losses with their weights; names: embedding, similarity, ranking",
    )


def loss_weights(items: list[str | tuple[str, float]]) -> dict[str, float]:
    """Returns weights by name, from the value of `--losses` or its default."""
    return dict(weight(item) if isinstance(item, str) else item for item in items)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Adds `--overwrite`."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the output if it already exists"
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Adds `--seed`."""
    parser.add_argument(
        "--seed",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="seed of all random numbers; equal seeds give equal results",
    )
