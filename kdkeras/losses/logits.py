"""What the losses on logits share: one distribution a sentence, or one a token."""

from __future__ import annotations

from typing import Any

from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.base import DistillationLoss, may_match, real_token_mean

__all__ = ["LogitLoss", "OfTokens", "standardized"]


class LogitLoss(DistillationLoss):
    """Base class: compares logits along the last axis, `(..., V)` and `(..., V)` to `(...)`.

    Args:
        target: Key of the teacher target. Defaults to `"logits"`.
    """

    axes: tuple[str, ...] = ("B", "V")
    """The axes of the logits that the loss takes."""

    def __init__(self, target: str = "logits", **kwargs: Any) -> None:
        super().__init__(target=target, **kwargs)

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses another rank, other tokens and other classes.

        Raises:
            InputError: If the shapes cannot match.
        """
        self._check_logits(tuple(teacher.shape), tuple(student.shape))

    def _check_logits(self, teacher: tuple[Any, ...], student: tuple[Any, ...]) -> None:
        self._check_rank(teacher, student)
        if not may_match(teacher[1:], student[1:]):
            raise InputError(
                "Teacher and student must choose among the same classes, for the same tokens. "
                f"Received: teacher {teacher}, student {student} in `{self.name}`. Give both the "
                "same vocabulary and inputs."
            )
        if student[-1] is None:
            raise InputError(
                f"`{self.name}` must know the number of classes. Received: student {student}. End "
                "the student in a layer of fixed width, e.g. keras.layers.Dense(classes)."
            )

    def _check_rank(self, teacher: tuple[Any, ...], student: tuple[Any, ...]) -> None:
        rank = len(self.axes)
        if len(teacher) != rank or len(student) != rank:
            one, other = ("a sentence", "a token") if rank == 2 else ("a token", "a sentence")
            raise InputError(
                f"`{self.name}` takes logits ({', '.join(self.axes)}), one distribution {one}. "
                f"Received: teacher {teacher}, student {student}. For one {other} use "
                f"{self._for_other_rank()}."
            )

    def _for_other_rank(self) -> str:
        name = type(self).__name__
        return name.removeprefix("Token") if len(self.axes) == 3 else f"Token{name}"


class OfTokens(LogitLoss):
    """Mixed in before a loss on `(B, V)`: the mean of it over the real tokens of `(B, T, V)`.

    Reads the source side only, since a translation's tokens are not those that
    the teacher read.

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
        """Returns the mean over the real tokens of each example, `(B,)`; 0 without one."""
        values = super().loss(teacher, student, **parts)  # (B, T)
        if self.padding_mask is None:
            return ops.mean(values, axis=1)
        return real_token_mean(values, self._real(padding_mask, tuple(values.shape)))

    def _real(self, padding_mask: Any, tokens: tuple[Any, ...]) -> Any:
        # Not one of `needs`: what is needed and not in the batch is asked of a live teacher.
        if padding_mask is None:
            raise InputError(
                f"`{self.name}` averages over real tokens. Received: a batch without the input "
                f"{self.padding_mask!r}. Name the mask with padding_mask=..., or give "
                "padding_mask=None if no token is padding."
            )
        real = ops.cast(padding_mask, "float32")
        if not may_match(real.shape, (None, tokens[1])):
            raise InputError(
                f"`{self.name}` needs one value of the mask for each token. Received: "
                f"{self.padding_mask!r} {tuple(real.shape)}, tokens {tokens}. Name the mask of the "
                "tokens that have logits with padding_mask=...."
            )
        return real

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "padding_mask": self.padding_mask}


def standardized(logits: Any) -> Any:
    """Mean 0 and standard deviation 1 over the classes; equal logits become 0."""
    logits = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(logits), axis=-1, keepdims=True)
    return logits * ops.rsqrt(ops.maximum(variance, 1e-12))
