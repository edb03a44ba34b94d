"""The student's layers pulled to the teacher's, token by token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.base import DistillationLoss, may_match, real_token_mean
from kdkeras.losses.token_layers import (
    Layer,
    evenly_spaced,
    pick,
    require_equal_tokens,
)

__all__ = ["HiddenStateDistillation"]


@keras.saving.register_keras_serializable(package="kdkeras")
class HiddenStateDistillation(DistillationLoss):
    """Computes the squared distance between layers of student and teacher.

    Teaches what each token becomes on the way, layer by layer. Both sides must
    read the same tokens, so the student needs the teacher's vocabulary; a
    translation's tokens are others, so only the source is compared. Usually
    with a live teacher: the states of all tokens are too large to cache.

    Cost: `B * L * d` a pair of layers, `B * L * d' * d` with a projection.

    Formula, over the pairs `(s, t)` of layers, the real tokens and the
    teacher's `d` dimensions:

    ```
    loss = mean((student[s] @ W - teacher[t]) ** 2)
    ```

    With `projection` the map `W`, the same for all layers, is trained and saved
    with the loss; it is no part of the student. The mean over the pairs (the
    paper adds them up) keeps one loss weight right for any number of them.

    Args:
        layers: Which layer of the student learns from which of the teacher: a
            mapping, or pairs `(student's, teacher's)`. Layer 0 is what enters
            the first layer, -1 the last; names where the models give dicts.
            None (the default) takes evenly spaced layers, ending at the last
            of both: 1-2, 2-4, 3-6 for 3 and 6 layers.
        projection: Widths of student and teacher, `(d', d)`; None (the
            default) compares the states as they are.
        embedding_layer: Whether the pair of layers 0 is added. Defaults to
            False.
        target: Key of the teacher target. Defaults to `"hidden_states"`.

    Call arguments:
        y_true: The teacher's layers: a list (or dict by name) of `(B, L, d)`
            float, layer 0 first.
        y_pred: The student's: the same of `(B, L, d')`.
        padding_mask: `(B, L)` int, 1 = real token.

    Returns:
        `(B,)` float32, at least 0; 0 for a row without a token.

    Raises:
        InputError: For a layer that a side has not got, widths or lengths that
            differ, or layers that are no pairs.

    References:
        Jiao et al. (2020), TinyBERT, arXiv:1909.10351, equations 8 and 9.
    """

    needs = {"padding_mask": "padding_mask"}
    source_only = True

    def __init__(
        self,
        layers: Mapping[Layer, Layer] | Iterable[Sequence[Layer]] | None = None,
        projection: Sequence[int] | None = None,
        embedding_layer: bool = False,
        target: str = "hidden_states",
        name: str = "hidden_state_distillation",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)
        self.layers = None if layers is None else _pairs(layers)
        self.embedding_layer = bool(embedding_layer)
        self.projection = None if projection is None else [int(width) for width in projection]
        self.kernel = None
        if self.projection is not None:
            if len(self.projection) != 2 or min(self.projection) < 1:
                raise InputError(
                    "`projection` must be the widths of student and teacher. Received: "
                    f"projection={self.projection}. Use e.g. (256, 384)."
                )
            self.kernel = self.add_weight(
                shape=self.projection, initializer="orthogonal", name="projection"
            )

    @property
    def student_output(self) -> str:
        """The student's layers, whatever the target is called."""
        return "hidden_states"

    def check_student(self, student: Any) -> None:
        """Refuses layers that are not there, and another width than the projection's."""
        for ours in [0] if self.layers is None else [pair[0] for pair in self.layers]:
            chosen = pick(student, ours, "student", self.name)
            if self.projection and not may_match(chosen.shape[-1:], self.projection[:1]):
                raise InputError(
                    "`projection` must begin with the student's width. Received: projection="
                    f"{self.projection}, student {tuple(chosen.shape)} in `{self.name}`. Use "
                    f"projection=({chosen.shape[-1]}, {self.projection[1]})."
                )

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses layers that are not there, and widths and lengths that differ."""
        for theirs, ours in self._compared(teacher, student):
            require_equal_tokens(theirs, ours, self.name)
            widths = [ours.shape[-1], theirs.shape[-1]]
            fits = widths[0] == widths[1] if self.projection is None else widths == self.projection
            if not fits:
                raise InputError(
                    "Layers of different widths need a projection from one to the other. "
                    f"Received: teacher {tuple(theirs.shape)}, student {tuple(ours.shape)}, "
                    f"projection={self.projection} in `{self.name}`. Use projection="
                    f"{tuple(widths)}."
                )

    def loss(self, teacher: Any, student: Any, padding_mask: Any) -> Any:
        """Returns the mean over layers, tokens and dimensions, `(B,)`."""
        pairs = self._compared(teacher, student)
        total: Any = 0.0
        for theirs, ours in pairs:
            if self.kernel is not None:
                ours = ops.matmul(ours, self.kernel)
            total = total + ops.mean(ops.square(ours - theirs), axis=-1)  # (B, L)
        return real_token_mean(total / len(pairs), padding_mask)

    def _compared(self, teacher: Any, student: Any) -> list[tuple[Any, Any]]:
        """The chosen layers: each the teacher's, and the student's."""
        return [
            (
                pick(teacher, theirs, "teacher", self.name),
                pick(student, ours, "student", self.name),
            )
            for ours, theirs in self._map(teacher, student)
        ]

    def _map(self, teacher: Any, student: Any) -> list[tuple[Layer, Layer]]:
        if self.layers is not None:
            pairs = [(ours, theirs) for ours, theirs in self.layers]
        elif isinstance(teacher, Mapping) or isinstance(student, Mapping):
            raise InputError(
                "Layers with names have no order to pair them by. Received: layers=None in "
                f"`{self.name}`. Name the pairs with layers={{student's: teacher's}}."
            )
        else:
            # What is no list either is refused by `pick`.
            counts = [
                len(side) - 1 if isinstance(side, list | tuple) else 1
                for side in (student, teacher)
            ]
            pairs = evenly_spaced(*counts)
        if self.embedding_layer and (0, 0) not in pairs:
            pairs = [(0, 0), *pairs]
        return pairs

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "layers": None if self.layers is None else [list(pair) for pair in self.layers],
            "projection": None if self.projection is None else list(self.projection),
            "embedding_layer": self.embedding_layer,
        }


def _pairs(layers: Mapping[Layer, Layer] | Iterable[Sequence[Layer]]) -> list[list[Layer]]:
    given = list(layers.items()) if isinstance(layers, Mapping) else list(layers)
    for pair in given:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(
                "`layers` must be a mapping or pairs of the student's and the teacher's layers. "
                f"Received: {pair!r} among layers={given!r}. Use e.g. {{1: 2, 2: 4}}."
            )
    if not given:
        raise InputError(
            "`layers` must name at least one pair. Received: layers=[]. Use None for evenly "
            "spaced layers."
        )
    return [list(pair) for pair in given]
