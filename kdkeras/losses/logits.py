"""Base classes of the losses on logits: one distribution per sentence, or one per token."""

from __future__ import annotations

from typing import Any

from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.base import DistillationLoss
from kdkeras.losses.checks import may_match
from kdkeras.losses.formulas import real_token_mean

__all__ = ["LogitLoss", "PerToken"]


class LogitLoss(DistillationLoss):
    """Base class: compares logits along the last axis, `(..., V)` and `(..., V)` to `(...)`.

    Args:
        target: Key of the teacher target. Defaults to `"logits"`.
    """

    axes: tuple[str, ...] = ("B", "V")
    """Axes of the logits that the loss takes."""

    def __init__(self, target: str = "logits", **kwargs: Any) -> None:
        super().__init__(target=target, **kwargs)

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses a wrong rank, and different tokens or classes.

        Raises:
            InputError: If the shapes cannot match.
        """
        self._check_logits(tuple(teacher.shape), tuple(student.shape))

    def _check_logits(self, teacher: tuple[Any, ...], student: tuple[Any, ...]) -> None:
        self._check_rank(teacher, student)
        if not may_match(teacher[1:], student[1:]):
            raise InputError(
                "Teacher and student must have logits of the same classes, for the same tokens. "
                f"Received: teacher {teacher}, student {student} in `{self.name}`. Give both the "
                "same vocabulary and inputs."
            )
        if student[-1] is None:
            raise InputError(
                f"`{self.name}` must know the number of classes. Received: student {student}. End "
                "the student with a layer of fixed width, e.g. keras.layers.Dense(classes)."
            )

    def _check_rank(self, teacher: tuple[Any, ...], student: tuple[Any, ...]) -> None:
        rank = len(self.axes)
        if len(teacher) != rank or len(student) != rank:
            one, other = ("sentence", "token") if rank == 2 else ("token", "sentence")
            raise InputError(
                f"`{self.name}` takes logits ({', '.join(self.axes)}), one distribution per {one}. "
                f"Received: teacher {teacher}, student {student}. For one per {other} use "
                f"{self._for_other_rank()}."
            )

    def _for_other_rank(self) -> str:
        name = type(self).__name__
        return name.removeprefix("Token") if len(self.axes) == 3 else f"Token{name}"


class PerToken(LogitLoss):
    """Turns a loss on `(B, V)` into its mean over the real tokens of `(B, T, V)`.

    Inherit from it before the loss: `class TokenSoftTargets(PerToken,
    SoftTargets)`. It is computed for the source side only, because the teacher
    did not read the tokens of the translation.

    Args:
        padding_mask: Name of the student's input that is 1 for a real token
            and 0 for padding, or None if no token is padding.
        **kwargs: Arguments of the loss.
    """

    axes = ("B", "T", "V")
    source_only = True

    def __init__(self, padding_mask: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding_mask = padding_mask
        if padding_mask is not None:
            self.takes = {**self.takes, "padding_mask": padding_mask}

    def loss(
        self, teacher: Any, student: Any, *_: Any, padding_mask: Any = None, **parts: Any
    ) -> Any:
        """Returns the mean over the real tokens, `(B,)`; 0 for an example without any."""
        values = super().loss(teacher, student, **parts)  # (B, T)
        if self.padding_mask is None:
            return ops.mean(values, axis=1)
        return real_token_mean(values, self._real(padding_mask, tuple(values.shape)))

    def _real(self, padding_mask: Any, tokens: tuple[Any, ...]) -> Any:
        # Not in `needs`, because parts that the batch lacks are requested from a live teacher.
        if padding_mask is None:
            raise InputError(
                f"`{self.name}` averages over real tokens. Received: a batch without the input "
                f"{self.padding_mask!r}. Name the mask with padding_mask=..., or set "
                "padding_mask=None if no token is padding."
            )
        real = ops.cast(padding_mask, "float32")
        if not may_match(real.shape, (None, tokens[1])):
            raise InputError(
                f"`{self.name}` needs one value of the mask per token. Received: "
                f"{self.padding_mask!r} {tuple(real.shape)}, tokens {tokens}. Name the mask of the "
                "tokens that have logits with padding_mask=...."
            )
        return real

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "padding_mask": self.padding_mask}
