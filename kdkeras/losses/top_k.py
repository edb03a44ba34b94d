"""Soft targets from a teacher whose `k` likeliest classes are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.checks import may_match, positive
from kdkeras.losses.formulas import MASKED, divergence
from kdkeras.losses.logits import LogitLoss, PerToken
from kdkeras.schedules import as_value, is_schedule

__all__ = ["TokenTopKSoftTargets", "TopKSoftTargets", "top_k_targets"]


def top_k_targets(
    logits: Any, k: int, temperatures: Sequence[float] = (1.0,), prefix: str = "top"
) -> dict[str, Any]:
    """Returns a teacher's `k` highest logits, and the total weight of all other classes.

    This stores `2 k + 1` numbers instead of `V`. The total weight of the other
    classes depends on the temperature, so it is stored for every temperature
    that a loss will use; at these temperatures the loss is exact.

    Formula:

    ```
    top_rest_<temperature> = temperature * log(sum(exp(logits[v] / temperature), v not in top))
    ```

    Args:
        logits: `(B, V)` or `(B, T, V)` float, the teacher's logits.
        k: Number of classes to store, from 1 to `V`.
        temperatures: Temperatures of the losses that will use the targets,
            each above 0. Defaults to `(1.0,)`.
        prefix: Prefix of every name, the same as in the loss. Defaults to
            `"top"`.

    Returns:
        Entries for a batch's `y`, each a tensor: `top_logits` `(..., k)` float32
        in descending order, `top_indices` `(..., k)` int32, and for every
        temperature the weight of the other classes `(...)` float32, such as
        `top_rest_1` for 1.0 and `top_rest_2.5` for 2.5.

    Raises:
        InputError: If `k` is out of its range, a temperature is not positive,
            or there is none.

    Example:
    >>> import numpy as np
    >>> kept = top_k_targets(np.log([[1.0, 6.0, 2.0, 1.0]]), k=2)
    >>> kept["top_indices"].numpy().tolist(), np.exp(kept["top_rest_1"]).round(3).tolist()
    ([[1, 2]], [2.0])
    """
    logits = ops.cast(logits, "float32")
    classes = logits.shape[-1]
    if not 1 <= k <= classes:
        raise InputError(
            f"`k` must be from 1 to the number of classes. Received: k={k}, logits "
            f"{tuple(logits.shape)}. Use {classes} or less."
        )
    if not temperatures:
        raise InputError(
            "`temperatures` must list the temperatures of the losses. Received: temperatures="
            f"{temperatures!r}. Use (1.0,) for unsoftened targets."
        )
    top, indices = ops.top_k(logits, k)
    indices = ops.cast(indices, "int32")
    is_top = _is_top(indices, logits)
    rests = {
        _rest_name(prefix, positive("temperatures", t)): t * _log_sum_of_rest(logits / t, is_top)
        for t in temperatures
    }
    return {f"{prefix}_logits": top, f"{prefix}_indices": indices, **rests}


@keras.saving.register_keras_serializable(package="kdkeras")
class TopKSoftTargets(LogitLoss):
    """Computes soft targets over the teacher's `k` likeliest classes and all others as one class.

    Use it if there are too many classes to store all logits of the teacher;
    `top_k_targets` creates the targets of the batch. If all logits can be
    stored, `SoftTargets` is stronger: this loss is at most that of
    `SoftTargets` (both sides merge the same classes), grows with `k`, and
    equals it for `k = V`.

    Cost: the student's softmax, and a gather and a scatter of `k` numbers per
    distribution.

    Formula, where `rest` stands for all classes that are not in the teacher's top:

    ```
    p = softmax(logits / temperature)
    loss = temperature ** 2 * (sum_top(p_teacher * log(p_teacher / p_student))
                               + p_teacher[rest] * log(p_teacher[rest] / p_student[rest]))
    ```

    Args:
        temperature: Softening of both distributions, a float above 0 (not a
            schedule): one of those given to `top_k_targets`. A batch without
            the targets of this temperature is refused. Defaults to 1.0.
        prefix: Prefix of the names of the batch's targets, the same as in
            `top_k_targets`. Defaults to `"top"`.
        student_output: The student's output with all `V` logits. Defaults to
            `"logits"`.

    Call arguments:
        y_true: `(B, K)` float, the teacher's highest logits, in any order.
        y_pred: `(B, V)` float, all logits of the student.
        top_indices: `(B, K)` int, the classes of `y_true`, all different, from
            0 to `V - 1`; the batch's `top_indices`.
        top_rest: `(B,)` float, the weight of the other classes as a logit; the
            batch's `top_rest_1`, `top_rest_2.5`, …, by the temperature.

    Returns:
        `(B,)` float32, at least 0, in nats.

    Raises:
        InputError: If `temperature` is not positive or is a schedule, the
            shapes do not match, `K` is above `V`, or the indices are not
            integers.

    References:
        Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 2; the bound is
        the log sum inequality.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        prefix: str = "top",
        student_output: str = "logits",
        name: str = "top_k_soft_targets",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=f"{prefix}_logits", name=name, **kwargs)
        if is_schedule(as_value(temperature)):
            raise InputError(
                "`temperature` must be fixed: the weight of the other classes is stored for fixed "
                f"temperatures. Received: temperature={type(as_value(temperature)).__name__} in "
                f"`{name}`. Use a float, one of those given to top_k_targets."
            )
        self.temperature = positive("temperature", temperature)
        self.prefix = prefix
        self._student_output = student_output

    @property
    def student_output(self) -> str:
        """The student's output with all logits."""
        return self._student_output

    @property
    def needs(self) -> dict[str, str]:  # type: ignore[override]
        """The stored classes, and the weight of the other classes at this temperature."""
        return {
            "top_indices": f"{self.prefix}_indices",
            "top_rest": _rest_name(self.prefix, self.temperature),
        }

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses a wrong rank, different tokens, and more stored classes than the student has.

        Raises:
            InputError: If the shapes cannot match.
        """
        top, every = tuple(teacher.shape), tuple(student.shape)
        self._check_logits((*top[:-1], None), every)
        if top[-1] is not None and every[-1] is not None and top[-1] > every[-1]:
            raise InputError(
                f"`k` must be from 1 to the number of classes. Received: teacher {top}, "
                f"student {every} in `{self.name}`. Give both the same vocabulary."
            )

    def loss(self, teacher: Any, student: Any, top_indices: Any, top_rest: Any) -> Any:
        """Returns the divergence of each distribution."""
        top_indices = ops.convert_to_tensor(top_indices)
        self._check_parts(tuple(teacher.shape), top_indices, tuple(top_rest.shape))
        student = student / self.temperature
        # In half precision, the stored weight of no other classes is minus infinity.
        rest = ops.maximum(ops.cast(top_rest, "float32") / self.temperature, MASKED)
        is_top = _is_top(top_indices, student)
        log_p = _with_rest(teacher / self.temperature, ops.stop_gradient(rest))
        log_q = _with_rest(
            ops.take_along_axis(student, top_indices, axis=-1), _log_sum_of_rest(student, is_top)
        )
        return self.temperature**2 * divergence(log_p, log_q)

    def _check_parts(self, top: tuple[Any, ...], indices: Any, rest: tuple[Any, ...]) -> None:
        dtype = keras.backend.standardize_dtype(indices.dtype)
        fits = all(
            may_match(part, wanted)
            for part, wanted in ((tuple(indices.shape), top), (rest, top[:-1]))
        )
        if not fits or "int" not in dtype:
            raise InputError(
                f"`{self.name}` needs an int index for each of the teacher's logits and one rest. "
                f"Received: logits {top}, indices {tuple(indices.shape)} {dtype}, rest {rest}. "
                "Use top_k_targets to create them."
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["target"]  # Follows from the prefix.
        return {
            **config,
            "temperature": self.temperature,
            "prefix": self.prefix,
            "student_output": self.student_output,
        }


@keras.saving.register_keras_serializable(package="kdkeras")
class TokenTopKSoftTargets(PerToken, TopKSoftTargets):
    """Computes top-k soft targets for every token, averaged over the real tokens of each example.

    This is word-level distillation from cached targets: of 128,000 logits per
    token, 64 logits and their indices are 0.1 %. It is computed for the source
    side only. If all logits can be stored, `TokenSoftTargets` is stronger.

    Cost: the softmax of the student's `B * T * V` logits, and `k` numbers per
    token of the teacher.

    Formula:

    ```
    loss = sum_t(real[t] * TopKSoftTargets(teacher[t], student[t])) / sum_t(real[t])
    ```

    Args:
        temperature: Softening, a float above 0, as in `TopKSoftTargets`.
            Defaults to 1.0.
        prefix: Prefix of the names of the batch's targets. Defaults to
            `"top"`.
        student_output: The student's output with all `V` logits. Defaults to
            `"logits"`.
        padding_mask: Name of the student's input that marks the real tokens,
            without its side, as in `TokenSoftTargets`. None if no token is
            padding. Defaults to `"padding_mask"`.

    Call arguments:
        y_true: `(B, T, K)` float, the teacher's highest logits.
        y_pred: `(B, T, V)` float, all logits of the student.
        top_indices: `(B, T, K)` int, the classes of `y_true`.
        top_rest: `(B, T)` float, the weight of the other classes as a logit.
        padding_mask: `(B, T)` int, float or bool, 1 = real token.

    Returns:
        `(B,)` float32, at least 0, in nats per token; 0 for an example without
        a real token.

    Raises:
        InputError: As `TopKSoftTargets`, or if the mask is missing or has
            another length.

    References:
        Kim, Rush (2016), arXiv:1606.07947, section 3.1.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        prefix: str = "top",
        student_output: str = "logits",
        padding_mask: str | None = "padding_mask",
        name: str = "token_top_k_soft_targets",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            padding_mask=padding_mask,
            temperature=temperature,
            prefix=prefix,
            student_output=student_output,
            name=name,
            **kwargs,
        )


def _rest_name(prefix: str, temperature: float) -> str:
    """Name of the rest in a batch. It contains the temperature, at which alone it is right."""
    return f"{prefix}_rest_{temperature:g}"


def _is_top(indices: Any, logits: Any) -> Any:
    """Whether each class is among the indices, `(..., V)` bool."""
    rows = ops.reshape(indices, (-1, ops.shape(indices)[-1]))  # (distributions, k)
    shape = ops.shape(rows)
    numbers = ops.expand_dims(ops.arange(shape[0], dtype=rows.dtype), 1)
    places = ops.stack([ops.broadcast_to(numbers, shape), rows], axis=-1)
    found = ops.scatter(places, ops.ones(shape), (shape[0], logits.shape[-1]))
    return ops.reshape(found, ops.shape(logits)) > 0


def _log_sum_of_rest(logits: Any, is_top: Any) -> Any:
    """Log of the summed weight of the other classes, `(...)`.

    One minus the probability of the top would round to 0 where that is nearly 1.
    """
    return ops.logsumexp(ops.where(is_top, MASKED, logits), axis=-1)


def _with_rest(top: Any, rest: Any) -> Any:
    """Log-probabilities of the top classes and of the rest, `(..., k + 1)`."""
    return ops.log_softmax(ops.concatenate([top, ops.expand_dims(rest, -1)], axis=-1), axis=-1)
