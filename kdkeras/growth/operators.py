"""The base classes of the growth operators: frozen, checked, JSON-serializable."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from kdkeras.errors import InputError
from kdkeras.growth.axis_map import AxisMap

__all__ = ["DepthOperator", "NewLayer", "Operator", "WidthOperator"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operator:
    """Base class of a named way to grow one thing, with its settings.

    Subclasses are registered under their class name.
    """

    registry: ClassVar[dict[str, type[Operator]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Operator.registry[cls.__name__] = cls

    @property
    def name(self) -> str:
        """The class name."""
        return type(self).__name__

    @classmethod
    def known(cls) -> list[str]:
        """Returns the names of the operators of this kind."""
        names = sorted(n for n, c in Operator.registry.items() if issubclass(c, cls))
        return [n for n in names if not n.startswith("_") and not n.endswith("Operator")]

    def to_dict(self) -> dict[str, Any]:
        """Returns name and settings as a JSON-serializable dict."""
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            "operator": self.name,
            **{k: v.to_dict() if isinstance(v, Operator) else v for k, v in settings.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Creates the operator that `to_dict` described.

        Raises:
            InputError: If the name is unknown or belongs to another kind of operator,
                or if a setting is unknown.
        """
        settings = dict(data)
        name = settings.pop("operator", None)
        make = Operator.registry.get(name or "")
        if make is None or not issubclass(make, cls):
            known = cls.known()
            raise InputError(
                f"`operator` must be one of {known}. Received: operator={name!r}. "
                "Use a plan that `to_dict` returned."
            )
        fields = {f.name for f in dataclasses.fields(make)}
        for key in settings:
            if key not in fields:
                raise InputError(
                    f"{name} has the settings {sorted(fields)}. Received: {key!r}. Remove it."
                )
        nested = {
            k: Operator.from_dict(v) if isinstance(v, Mapping) else v for k, v in settings.items()
        }
        return make(**nested)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WidthOperator(Operator):
    """Base class of the operators that widen one axis.

    A subclass is a frozen dataclass that implements `pair`.
    """

    from_above: ClassVar[bool] = False
    """Whether new units are taken from the layer above."""
    masked: ClassVar[bool] = False
    """Whether new units are masked at first."""

    def pair(self, kind: str, size: int, new_size: int, random: np.random.Generator) -> AxisMap:
        """Returns the map of an axis.

        Args:
            kind: The function on the axis, see `kdkeras.growth.axis_map`.
            size: Number of units before growth.
            new_size: Number of units after growth, larger than `size`.
            random: Source of random selections and noise.

        Raises:
            InputError: If the operator does not support the size.
        """
        raise NotImplementedError(f"{self.name} must implement `pair`.")

    def pairs(
        self, kind: str, size: int, new_size: int, random: np.random.Generator
    ) -> tuple[AxisMap, AxisMap]:
        """Returns the map of an axis, and the map for queries and keys on an axis of heads."""
        pair = self.pair(kind, size, new_size, random)
        return pair, pair


@dataclasses.dataclass(frozen=True)
class NewLayer:
    """Origin of a layer of the grown model.

    Attributes:
        source: Number of the old layer whose weights it copies, from 0. None for random
            weights.
        identity: Whether the layer returns its input at first.
        masked: Whether the layer is masked, and therefore has no effect at first.
    """

    source: int | None
    identity: bool = False
    masked: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthOperator(Operator):
    """Base class of the operators that add layers.

    A subclass is a frozen dataclass that implements `layers`.
    """

    keeps_function: ClassVar[bool] = False

    def layers(self, num_layers: int, new_num_layers: int) -> list[NewLayer]:
        """Returns the origin of each layer of the grown model, from the first layer."""
        raise NotImplementedError(f"{self.name} must implement `layers`.")
