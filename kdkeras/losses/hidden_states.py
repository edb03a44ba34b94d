"""Squared distance between the layers of student and teacher, token by token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.base import DistillationLoss
from kdkeras.losses.checks import may_match, projection_widths
from kdkeras.losses.formulas import real_token_mean
from kdkeras.losses.token_layers import Layer, pick, require_equal_tokens

__all__ = ["HiddenStateDistillation", "evenly_spaced"]


@keras.saving.register_keras_serializable(package="kdkeras")
class HiddenStateDistillation(DistillationLoss):
    """Computes the mean squared difference of hidden states of student and teacher.

    Use it for a deep student that has the teacher's vocabulary: both sides must
    read the same tokens, so only the source sentence is compared. It usually
    needs a live teacher, because the states of all tokens are too large to
    cache. `MiniLMv2` compares the relations between the tokens instead, and
    needs neither equal widths nor a projection.

    Cost: `B * L * d` per pair of layers; with a projection `B * L * d' * d`.

    Formula, over the pairs `(s, t)` of layers, the real tokens and the
    teacher's `d` dimensions:

    ```
    loss = mean((student[s] @ W - teacher[t]) ** 2)
    ```

    With `projection` the map `W`, the same for all layers, is trained and saved
    with the loss; it is not part of the student. The pairs are averaged (the
    paper sums them), so that the loss weight does not depend on their number.

    Args:
        layers: Pairs of layers to compare: a mapping from the student's layers
            to the teacher's, or pairs `(student's, teacher's)`. Layer 0 is the
            input of the first layer, -1 the last layer; use names if the models
            return dicts. Defaults to None: evenly spaced layers up to the last
            of both, such as 1-2, 2-4, 3-6 for 3 and 6 layers.
        projection: Widths of student and teacher, `(d', d)`. Defaults to None:
            the states are compared unchanged.
        embedding_layer: Whether to add the pair of layers 0. Defaults to False.
        target: Key of the teacher target. Defaults to `"hidden_states"`.

    Call arguments:
        y_true: The teacher's layers: a list (or dict by name) of `(B, L, d)`
            float, layer 0 first.
        y_pred: The student's layers: a list (or dict) of `(B, L, d')` float.
        padding_mask: `(B, L)` int, 1 = real token.

    Returns:
        `(B,)` float32, at least 0; 0 for an example without a real token.

    Raises:
        InputError: If a side has no such layer, widths or lengths differ, or
            `layers` are not pairs.

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
        self.projection = projection_widths(projection)
        self.kernel = None
        if self.projection is not None:
            self.kernel = self.add_weight(
                shape=self.projection, initializer="orthogonal", name="projection"
            )

    @property
    def student_output(self) -> str:
        """Always the student's hidden states, whatever the name of the target."""
        return "hidden_states"

    def check_student(self, student: Any) -> None:
        """Refuses missing layers, and a width that differs from the projection's."""
        for layer in [0] if self.layers is None else [pair[0] for pair in self.layers]:
            states = pick(student, layer, "student", self.name)
            if self.projection and not may_match(states.shape[-1:], self.projection[:1]):
                raise InputError(
                    "`projection` must begin with the student's width. Received: projection="
                    f"{self.projection}, student {tuple(states.shape)} in `{self.name}`. Use "
                    f"projection=({states.shape[-1]}, {self.projection[1]})."
                )

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses missing layers, and different widths or lengths."""
        for target, states in self._pairs_of_states(teacher, student):
            require_equal_tokens(target, states, self.name)
            widths = [states.shape[-1], target.shape[-1]]
            fits = widths[0] == widths[1] if self.projection is None else widths == self.projection
            if not fits:
                raise InputError(
                    "Layers of different widths need a projection from one to the other. "
                    f"Received: teacher {tuple(target.shape)}, student {tuple(states.shape)}, "
                    f"projection={self.projection} in `{self.name}`. Use projection="
                    f"{tuple(widths)}."
                )

    def loss(self, teacher: Any, student: Any, padding_mask: Any) -> Any:
        """Returns the mean over layers, tokens and dimensions, `(B,)`."""
        pairs = self._pairs_of_states(teacher, student)
        total: Any = 0.0
        for target, states in pairs:
            if self.kernel is not None:
                states = ops.matmul(states, self.kernel)
            total = total + ops.mean(ops.square(states - target), axis=-1)  # (B, L)
        return real_token_mean(total / len(pairs), padding_mask)

    def _pairs_of_states(self, teacher: Any, student: Any) -> list[tuple[Any, Any]]:
        """The compared layers: the teacher's states, and the student's."""
        return [
            (
                pick(teacher, teacher_layer, "teacher", self.name),
                pick(student, student_layer, "student", self.name),
            )
            for student_layer, teacher_layer in self._pairs_of_layers(teacher, student)
        ]

    def _pairs_of_layers(self, teacher: Any, student: Any) -> list[tuple[Layer, Layer]]:
        if self.layers is not None:
            pairs = [(student_layer, teacher_layer) for student_layer, teacher_layer in self.layers]
        elif isinstance(teacher, Mapping) or isinstance(student, Mapping):
            raise InputError(
                "Named layers have no order by which to pair them. Received: layers=None in "
                f"`{self.name}`. Name the pairs with layers={{student's: teacher's}}."
            )
        else:
            # `pick` refuses anything else than a list.
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


def evenly_spaced(num_student: int, num_teacher: int) -> list[tuple[Layer, Layer]]:
    """Pairs the layers of two encoders evenly, numbered from 1, up to the last of both.

    There are as many pairs as the shallower encoder has layers:
    `evenly_spaced(3, 6)` is `[(1, 2), (2, 4), (3, 6)]`.
    """
    if num_student <= num_teacher:
        return [(k, k * num_teacher // num_student) for k in range(1, num_student + 1)]
    return [(k * num_student // num_teacher, k) for k in range(1, num_teacher + 1)]


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
