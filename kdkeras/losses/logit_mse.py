"""Mean squared difference of logits, per sentence and per token."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.losses.formulas import standardized
from kdkeras.losses.logits import LogitLoss, PerToken

__all__ = ["LogitMSE", "TokenLogitMSE"]


@keras.saving.register_keras_serializable(package="kdkeras")
class LogitMSE(LogitLoss):
    """Computes the mean squared difference of logits.

    Use it if all classes are equally important, whatever their probability. It
    is the limit of `SoftTargets` at a high temperature, except that it also
    compares the mean of the logits. The paper finds it stronger than
    `SoftTargets`; with noisy labels `SoftTargets` at a low temperature is
    stronger.

    Cost: `B * V`.

    Formula:

    ```
    loss = mean((teacher - student) ** 2)      # over the classes
    ```

    With `standardize`, the logits of each side are first scaled to mean 0 and
    standard deviation 1 over the classes. The loss is then
    `2 * (1 - correlation(teacher, student))`, between 0 and 4, and does not
    depend on the scale of the logits.

    Args:
        standardize: Whether to standardize the logits first. Defaults to False.
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, V)` float, the teacher's logits.
        y_pred: `(B, V)` float, the student's logits.

    Returns:
        `(B,)` float32, at least 0.

    Raises:
        InputError: If the shapes differ or are not `(B, V)`.

    Example:
    >>> import numpy as np
    >>> float(LogitMSE()(np.array([[2.0, 0.0]]), np.array([[0.0, 0.0]]))[0])
    2.0

    References:
        Kim et al. (2021), arXiv:2105.08919; for `standardize`, Sun et al.
        (2024), arXiv:2403.01427, algorithm 1.
    """

    def __init__(
        self,
        standardize: bool = False,
        target: str = "logits",
        name: str = "logit_mse",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)
        self.standardize = bool(standardize)

    def loss(self, teacher: Any, student: Any) -> Any:
        """Returns the mean over the classes."""
        if self.standardize:
            teacher, student = standardized(teacher), standardized(student)
        return ops.mean(ops.square(teacher - student), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "standardize": self.standardize}


@keras.saving.register_keras_serializable(package="kdkeras")
class TokenLogitMSE(PerToken, LogitMSE):
    """Computes the mean squared difference of logits for every token, averaged over real tokens.

    Use it for taggers, as `LogitMSE` for classifiers. It is computed for the
    source side only.

    Cost: `B * T * V`.

    Formula:

    ```
    loss = sum_t(real[t] * LogitMSE(teacher[t], student[t])) / sum_t(real[t])
    ```

    Args:
        standardize: Whether to standardize the logits first, as in `LogitMSE`.
            Defaults to False.
        padding_mask: Name of the student's input that marks the real tokens,
            without its side, as in `TokenSoftTargets`. None if no token is
            padding. Defaults to `"padding_mask"`.
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, T, V)` float, the teacher's logits.
        y_pred: `(B, T, V)` float, the student's logits.
        padding_mask: `(B, T)` int, float or bool, 1 = real token.

    Returns:
        `(B,)` float32, at least 0; 0 for an example without a real token.

    Raises:
        InputError: If the shapes differ or are not `(B, T, V)`, or the mask is
            missing or has another length.

    References:
        Kim et al. (2021), arXiv:2105.08919.
    """

    def __init__(
        self,
        standardize: bool = False,
        padding_mask: str | None = "padding_mask",
        target: str = "logits",
        name: str = "token_logit_mse",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            padding_mask=padding_mask, standardize=standardize, target=target, name=name, **kwargs
        )
