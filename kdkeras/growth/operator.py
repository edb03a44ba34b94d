"""Growth operators as data: frozen, checked, JSON in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from kdkeras.errors import InputError

__all__ = ["Operator"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operator:
    """Base class: a named way to grow one thing, with its settings.

    Subclasses are found by their class name.
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
        """The names of the operators of this kind."""
        names = sorted(n for n, c in Operator.registry.items() if issubclass(c, cls))
        return [n for n in names if not n.startswith("_") and not n.endswith("Operator")]

    def to_dict(self) -> dict[str, Any]:
        """Returns name and settings, ready for JSON."""
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            "operator": self.name,
            **{k: v.to_dict() if isinstance(v, Operator) else v for k, v in settings.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Returns the operator that `to_dict` described.

        Raises:
            InputError: If the name is unknown, of another kind of operator,
                or a setting does not exist.
        """
        settings = dict(data)
        name = settings.pop("operator", None)
        make = Operator.registry.get(name or "")
        if make is None or not issubclass(make, cls):
            known = cls.known()
            raise InputError(
                f"`operator` must be one of {known}. Received: operator={name!r}. "
                "Use a plan that `to_dict` wrote."
            )
        fields = {f.name for f in dataclasses.fields(make)}
        for key in settings:
            if key not in fields:
                raise InputError(
                    f"{name} has the settings {sorted(fields)}. Received: {key!r}. Leave it out."
                )
        nested = {
            k: Operator.from_dict(v) if isinstance(v, Mapping) else v for k, v in settings.items()
        }
        return make(**nested)
