"""The default training job, as data: everything except its data and its devices."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdkeras.errors import InputError
from kdkeras.files import atomic_write

__all__ = ["Recipe"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what `kdkeras.train` does with a distillation set.

    The defaults are the default training of kdkeras, which the command line, the
    demo and the benchmarks share. A recipe is immutable and JSON-serializable:
    `train` saves it next to the student, and it can be used again.

    Args:
        student: Size of the student (see `kdkeras.students.SIZES`), or None if a
            student is given to `train`.
        sequence_length: Maximum number of tokens per sentence; the rest is
            truncated.
        table_rank: Columns of the stored token table, below the width of the
            size; None (the default) for the full width.
        start: Weights at the start: `"targets"`, the least squares fit to the
            cached embeddings (static students); `"teacher"`, the teacher's
            token vectors (`initialize_from_teacher`); or `"random"`. None (the
            default) is `"targets"` for a static student and `"random"` for a
            transformer. Not used for a trained student, and neither is `table_rank`.
        vocabulary_kind: `"mixed"`, `"sentencepiece"` or `"wordpiece"`; this and the
            next two are used only if no vocabulary is given.
        vocabulary_size: Number of tokens.
        vocabulary_temperature: Languages count in proportion to their number of
            sentences to this power, from 0 to 1.
        loss_weights: Weights by name, 0 or more: `"embedding"`
            (`EmbeddingDistillation`), `"similarity"` (`SimilarityDistillation`) and
            `"ranking"` (`TranslationRanking`). Other losses are not computed.
        decay: By name, the fraction of the training, above 0 and at most 1, after
            which a weight that falls linearly is 0.
        dims: Narrower widths of the embedding that are trained too
            (`Matryoshka`, in the teacher's principal axes). None (the default)
            uses those of 256, 128, 64 and 32 that are below the embedding's width;
            an empty tuple uses none.
        keep_axes: Whether the trained student is rotated to the teacher's
            principal axes, so that its embeddings can be truncated to their first
            components. Otherwise it stays in the teacher's space.
        batch_size: Pairs per step, on all devices together.
        epochs: Passes over all pairs.
        steps: Number of steps; overrides `epochs`. None by default.
        language_temperature: Languages are drawn in proportion to their number of
            pairs to this power, from 0 (all equally often) to 1.
        optimizer: `"adam"` (`FusedAdam`) or `"lazy_adam"` (`LazyAdam`).
        learning_rate: Maximum learning rate, which then decays to 0 along a
            cosine. None (the default) is 4e-3 for a static student and 5e-4 for a
            transformer.
        warmup: Steps of linear warm-up; at most a tenth of all steps is used.
        mixed_precision: `"bfloat16"`, `"float16"` or None (the default). Weights
            and the saved student stay float32.
        jit_compile: Whether XLA compiles the training step.
        quantization: `"int8"`, `"int4"` or None (the default): the export format
            whose rounding is simulated in the last part of the training
            (`QuantizationAwareTraining`).
        quantization_start: Fraction of all steps after which it starts.
        seed: Seed of weights, data order and sampling.

    Raises:
        InputError: If a value is of the wrong type or out of its range.

    Example:
        >>> Recipe(epochs=1, loss_weights={"embedding": 1.0}).epochs
        1
    """

    student: str | None = "static_256"
    sequence_length: int = 64
    table_rank: int | None = None
    start: str | None = None
    vocabulary_kind: str = "mixed"
    vocabulary_size: int = 32_000
    vocabulary_temperature: float = 0.7
    loss_weights: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"embedding": 2.0, "similarity": 1.0, "ranking": 0.5}
    )
    decay: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dims: tuple[int, ...] | None = None
    keep_axes: bool = False
    batch_size: int = 256
    epochs: int = 3
    steps: int | None = None
    language_temperature: float = 0.5
    optimizer: str = "adam"
    learning_rate: float | None = None
    warmup: int = 200
    mixed_precision: str | None = None
    jit_compile: bool = False
    quantization: str | None = None
    quantization_start: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("loss_weights", "decay"):
            if isinstance(getattr(self, name), Mapping):
                object.__setattr__(self, name, dict(getattr(self, name)))
        if isinstance(self.dims, (list, tuple)):
            object.__setattr__(self, "dims", tuple(self.dims))
        for field in dataclasses.fields(self):
            _RULES[field.name].check(field.name, getattr(self, field.name))
        for name in self.decay:
            if name not in self.loss_weights:
                raise InputError(
                    f"`decay` must name a loss that has a weight. Received: {name!r}. The losses "
                    f"with a weight are {sorted(self.loss_weights)}."
                )

    def to_dict(self) -> dict[str, Any]:
        """Returns the values by name, JSON-serializable."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("loss_weights", "decay"):
            values[name] = dict(values[name])
        values["dims"] = None if self.dims is None else list(self.dims)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Creates a recipe from `to_dict()`; missing values are the defaults.

        Raises:
            InputError: For an unknown name, or as the constructor.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise InputError(
                f"A recipe has the values {known}. Received: {unknown[0]!r}. Remove it."
            )
        return cls(**values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the recipe as JSON.

        Raises:
            InputError: If the file cannot be written.
        """
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Reads a recipe that `save` wrote.

        Raises:
            InputError: If the file cannot be read, or is not a recipe.
        """
        try:
            values = json.loads(Path(path).read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(
                f"A recipe must be a readable JSON file. Received: {path} ({error}). "
                "Write one with Recipe().save(path)."
            ) from error
        if not isinstance(values, dict):
            raise InputError(
                f"A recipe must be a JSON object. Received: {path}, a {type(values).__name__}. "
                "Write one with Recipe().save(path)."
            )
        return cls.from_dict(values)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What a value must be."""

    text: str
    holds: Callable[[Any], bool]

    def check(self, name: str, value: Any) -> None:
        if not self.holds(value):
            default = getattr(Recipe(), name)
            raise InputError(
                f"`{name}` must be {self.text}. Received: {name}={value!r}. "
                f"Omit it for the default, {default!r}."
            )


def _is_int(value: Any, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _count(minimum: int = 1) -> _Rule:
    return _Rule(f"an integer of at least {minimum}", lambda value: _is_int(value, minimum))


def _choice(*names: str) -> _Rule:
    return _Rule(f"one of {list(names)}", lambda value: value in names)


def _or_none(rule: _Rule) -> _Rule:
    return _Rule(f"{rule.text}, or None", lambda value: value is None or rule.holds(value))


def _by_name(text: str, holds: Callable[[float], bool], any_of: bool = False) -> _Rule:
    losses = ("embedding", "similarity", "ranking")

    def holds_for_all(value: Any) -> bool:
        if not isinstance(value, Mapping) or (any_of and not any(value.values())):
            return False
        return all(name in losses and _is_number(x) and holds(x) for name, x in value.items())

    return _Rule(f"{text} by name of a loss, of {list(losses)}", holds_for_all)


_FRACTION = _Rule("a number from 0 to 1", lambda x: _is_number(x) and 0 <= x <= 1)
_POSITIVE = _Rule("a finite number above 0", lambda x: _is_number(x) and 0 < x < float("inf"))
_BOOLEAN = _Rule("True or False", lambda x: isinstance(x, bool))

_RULES = {
    "student": _or_none(_Rule("the name of a size", lambda x: isinstance(x, str) and bool(x))),
    "sequence_length": _count(),
    "table_rank": _or_none(_count()),
    "start": _or_none(_choice("targets", "teacher", "random")),
    "vocabulary_kind": _choice("mixed", "sentencepiece", "wordpiece"),
    "vocabulary_size": _count(),
    "vocabulary_temperature": _FRACTION,
    "loss_weights": _by_name(
        "finite weights of 0 or more, not all 0,", lambda x: 0 <= x < float("inf"), any_of=True
    ),
    "decay": _by_name("fractions above 0 and at most 1", lambda x: 0 < x <= 1),
    "dims": _or_none(
        _Rule(
            "different widths of at least 1",
            lambda x: (
                isinstance(x, tuple) and all(_is_int(d, 1) for d in x) and len(set(x)) == len(x)
            ),
        )
    ),
    "keep_axes": _BOOLEAN,
    "batch_size": _count(),
    "epochs": _count(),
    "steps": _or_none(_count()),
    "language_temperature": _FRACTION,
    "optimizer": _choice("adam", "lazy_adam"),
    "learning_rate": _or_none(_POSITIVE),
    "warmup": _count(0),
    "mixed_precision": _or_none(_choice("bfloat16", "float16")),
    "jit_compile": _BOOLEAN,
    "quantization": _or_none(_choice("int8", "int4")),
    "quantization_start": _FRACTION,
    "seed": _count(0),
}
