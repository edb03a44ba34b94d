"""What a model grows to, and by which operators, as data."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdkeras.data.vocabulary import Vocabulary
from kdkeras.errors import InputError
from kdkeras.growth.depth import IdentityBlocks
from kdkeras.growth.operators import DepthOperator, Operator, WidthOperator
from kdkeras.growth.tokens import ComposeTokens, TokenOperator

__all__ = ["GrowthPlan"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GrowthPlan:
    """The sizes that a model grows to, and the operators.

    Growth is deterministic: the same plan and model give the same weights.

    Args:
        sizes: New sizes by name, integers of at least 1. For a `TransformerStudent`:
            `hidden_dim`, `num_heads`, `head_size`, `intermediate_dim`, `num_layers`. For
            a `StaticStudent`: `embedding_dim`; with `num_layers` it becomes a
            `TransformerStudent`, and the names above are allowed too. Default: no size
            changes.
        vocabulary: A larger vocabulary that contains the old tokens. Optional.
        operators: One width operator for all axes, or a dict of operators by axis name.
            An axis without an operator uses the one that preserves the function, if
            there is one.
        depth: How layers are added. Default `IdentityBlocks()`.
        tokens: How the rows of new tokens are made. Default `ComposeTokens()`.
        keeps_function: Whether the grown model must give the same embeddings as the old
            one; `grow` then raises an error if it does not. Default True.
        tolerance: Largest error that counts as unchanged, relative to the largest
            component of the embeddings, or to 1 if that is larger. Default 1e-5.
        seed: Seed of random selections and noise. Default 0.

    Raises:
        InputError: If a size is not a positive integer, or an operator is of the wrong
            kind.

    Example:
    >>> plan = GrowthPlan(sizes={"hidden_dim": 512, "num_layers": 4})
    >>> GrowthPlan.from_dict(plan.to_dict()).sizes
    {'hidden_dim': 512, 'num_layers': 4}
    """

    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    operators: WidthOperator | Mapping[str, WidthOperator] = dataclasses.field(default_factory=dict)
    depth: DepthOperator = IdentityBlocks()
    tokens: TokenOperator = ComposeTokens()
    keeps_function: bool = True
    tolerance: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, size in self.sizes.items():
            if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
                raise InputError(
                    f"A size must be a positive integer. Received: {name}={size!r}. "
                    "Use an integer that is larger than the model's size."
                )
        object.__setattr__(self, "sizes", {n: int(size) for n, size in self.sizes.items()})
        given = self.operators if isinstance(self.operators, Mapping) else {"": self.operators}
        for operator in given.values():
            _check_kind("operators", operator, WidthOperator)
        _check_kind("depth", self.depth, DepthOperator)
        _check_kind("tokens", self.tokens, TokenOperator)

    def operator(self, axis: str) -> WidthOperator | None:
        """Returns the operator given for an axis, or None if there is none."""
        if isinstance(self.operators, WidthOperator):
            return self.operators
        return self.operators.get(axis)

    def random(self, axis: str) -> np.random.Generator:
        """Returns the random generator of an axis, seeded by the plan."""
        return np.random.default_rng([self.seed, zlib.crc32(axis.encode())])

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as a JSON-serializable dict, with the vocabulary's fingerprint."""
        one = isinstance(self.operators, WidthOperator)
        operators = (
            self.operators.to_dict()
            if isinstance(self.operators, WidthOperator)
            else {axis: operator.to_dict() for axis, operator in self.operators.items()}
        )
        return {
            "sizes": dict(self.sizes),
            "vocabulary": None if self.vocabulary is None else self.vocabulary.fingerprint,
            "operator" if one else "operators": operators,
            "depth": self.depth.to_dict(),
            "tokens": self.tokens.to_dict(),
            "keeps_function": self.keeps_function,
            "tolerance": self.tolerance,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], vocabulary: Vocabulary | None = None) -> GrowthPlan:
        """Creates the plan that `to_dict` described.

        Args:
            data: The return value of `to_dict`.
            vocabulary: The vocabulary of the plan, if it has one.

        Raises:
            InputError: If the vocabulary is missing or is not the plan's.
        """
        fingerprint = None if vocabulary is None else vocabulary.fingerprint
        if data["vocabulary"] != fingerprint:
            raise InputError(
                "`vocabulary` must be the one that the plan was created with. Received: "
                f"{str(fingerprint)[:12]}, but the plan has {str(data['vocabulary'])[:12]}. "
                "Pass it as vocabulary=...."
            )
        one = data.get("operator")
        return cls(
            sizes=data["sizes"],
            vocabulary=vocabulary,
            operators=(
                WidthOperator.from_dict(one)
                if one
                else {a: WidthOperator.from_dict(o) for a, o in data["operators"].items()}
            ),
            depth=DepthOperator.from_dict(data["depth"]),
            tokens=TokenOperator.from_dict(data["tokens"]),
            keeps_function=data["keeps_function"],
            tolerance=data["tolerance"],
            seed=data["seed"],
        )


def _check_kind(name: str, operator: Any, kind: type[Operator]) -> None:
    if isinstance(operator, kind):
        return
    known = kind.known()
    raise InputError(
        f"`{name}` must be one of {known}. Received: {operator!r}. Use {known[0]}(...)."
    )
