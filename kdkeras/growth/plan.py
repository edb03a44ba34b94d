"""What a model shall become, as data."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdkeras.data.vocabulary import Vocabulary
from kdkeras.errors import InputError
from kdkeras.growth.depth import DepthOperator, IdentityBlocks
from kdkeras.growth.operator import Operator
from kdkeras.growth.tokens import ComposeTokens, TokenOperator
from kdkeras.growth.width import WidthOperator

__all__ = ["GrowthPlan"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GrowthPlan:
    """Sizes that a model grows to, and by which operators.

    The plan and the model decide every number of the grown model: the same
    plan gives the same weights.

    Args:
        sizes: New sizes by name. Of a `TransformerStudent`: `hidden_dim`,
            `num_heads`, `head_size`, `intermediate_dim`, `num_layers`. Of a
            `StaticStudent`: `embedding_dim`; with `num_layers` it becomes a
            `TransformerStudent` and takes the names above, too.
        vocabulary: A larger vocabulary, which holds the old tokens.
        operators: One width operator for all axes, or one by axis name; axes
            that are not named choose for themselves.
        depth: How layers are added.
        tokens: How new tokens start.
        keeps_function: Whether the grown model must embed as the old one. A
            plan that says so and does not is refused.
        tolerance: Largest error that counts as kept, relative to the largest
            number in the embeddings, or to 1 if that is more.
        seed: Seed of selections and noise.

    Raises:
        InputError: If a size is no whole number from 1, or an operator is of
            the wrong kind.

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
                    f"A size must be a whole number from 1. Received: {name}={size!r}. "
                    "Use a number that is larger than the model's."
                )
        object.__setattr__(self, "sizes", {n: int(size) for n, size in self.sizes.items()})
        given = self.operators if isinstance(self.operators, Mapping) else {"": self.operators}
        for operator in given.values():
            _check_kind("operators", operator, WidthOperator)
        _check_kind("depth", self.depth, DepthOperator)
        _check_kind("tokens", self.tokens, TokenOperator)

    def operator(self, axis: str) -> WidthOperator | None:
        """Returns the operator named for an axis, or None for the axis' own."""
        if isinstance(self.operators, WidthOperator):
            return self.operators
        return self.operators.get(axis)

    def random(self, axis: str) -> np.random.Generator:
        """Returns the source of an axis' selections and noise."""
        return np.random.default_rng([self.seed, zlib.crc32(axis.encode())])

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan, ready for JSON; of the vocabulary its fingerprint."""
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
        """Returns the plan that `to_dict` described.

        Args:
            data: What `to_dict` returned.
            vocabulary: The vocabulary, if the plan has one.

        Raises:
            InputError: If the vocabulary is missing or another one.
        """
        fingerprint = None if vocabulary is None else vocabulary.fingerprint
        if data["vocabulary"] != fingerprint:
            raise InputError(
                "A plan needs the vocabulary that it was made with. Received: "
                f"{str(fingerprint)[:12]}, the plan has {str(data['vocabulary'])[:12]}. "
                "Give it as vocabulary=...."
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
    raise InputError(f"`{name}` must be of {known}. Received: {operator!r}. Use {known[0]}(...).")
