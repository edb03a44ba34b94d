"""Logits matched as they are, of sentences and of tokens."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.losses.logits import LogitLoss, OfTokens, standardized

__all__ = ["LogitMSE", "TokenLogitMSE"]


@keras.saving.register_keras_serializable(package="kdkeras")
class LogitMSE(LogitLoss):
    """Computes the mean squared difference of logits.

    What `SoftTargets` tends to at a high temperature, but for the logits' mean,
    which is matched too: all classes count alike, likely or not.

    Cost: `B * V`.

    Formula:

    ```
    loss = mean((teacher - student) ** 2)      # over the classes
    ```

    With `standardize`, each side's logits first lose their mean and are divided
    by their standard deviation over the classes; the loss is then
    `2 * (1 - correlation(teacher, student))`, between 0 and 4, and does not
    see how large a side's logits are.

    Args:
        standardize: Whether logits are standardised first.
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, V)` float, the teacher's logits.
        y_pred: The same shape, the student's logits.

    Returns:
        `(B,)` float32, at least 0.

    Raises:
        InputError: If the shapes differ or are not `(B, V)`.

    Example:
    >>> import numpy as np
    >>> float(LogitMSE()(np.array([[2.0, 0.0]]), np.array([[0.0, 0.0]]))[0])
    2.0

    References:
        Kim et al. (2021), arXiv:2105.08919; standardised: the preprocessing of
        Sun et al. (2024), arXiv:2403.01427, algorithm 1.
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
class TokenLogitMSE(OfTokens, LogitMSE):
    """Computes `LogitMSE` for every token, averaged over the real ones.

    For the source side only; an example without a real token gives 0.

    Cost: `B * T * V`.

    Formula:

    ```
    loss = sum_t(real[t] * LogitMSE(teacher[t], student[t])) / sum_t(real[t])
    ```

    Args:
        standardize: As in `LogitMSE`.
        padding_mask: Name of the student's input that says which tokens are
            real, without its side, as in `TokenSoftTargets`. None if no token
            is padding.
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, T, V)` float, the teacher's logits.
        y_pred: The same shape, the student's logits.
        padding_mask: `(B, T)` int, float or bool, 1 for a real token.

    Returns:
        `(B,)` float32, at least 0.

    Raises:
        InputError: If the shapes differ or are not `(B, T, V)`, or the mask is
            missing or of another length.

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
