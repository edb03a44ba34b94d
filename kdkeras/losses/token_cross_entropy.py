"""Cross-entropy of token labels: ground truth, or the teacher's beam search output."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.checks import may_match
from kdkeras.losses.formulas import real_token_mean

__all__ = ["TokenCrossEntropy"]


@keras.saving.register_keras_serializable(package="kdkeras")
class TokenCrossEntropy(keras.losses.Loss):
    """Computes the cross-entropy of token labels, averaged over the real tokens of each example.

    This is a Keras loss for `compile(loss=...)`; its labels are `y["label"]`.
    Use it as the task loss of taggers and sequence-to-sequence students. With
    the teacher's beam search output as labels it is sequence-level knowledge
    distillation; `TokenSoftTargets` can be added. Keras' own
    `SparseCategoricalCrossentropy(ignore_class=...)` averages over the tokens
    of each replica, so that training on several replicas differs from training
    on one. Here every example has the same weight, and both are equal.

    Formula:

    ```
    loss = -sum_t(real[t] * log softmax(logits[t])[label[t]]) / sum_t(real[t])
    ```

    Args:
        ignore_class: Label of padding. Defaults to -1.

    Call arguments:
        y_true: `(B, T)` int, from 0 to `V - 1`, or `ignore_class`.
        y_pred: `(B, T, V)` float, the student's logits.

    Returns:
        Float32 scalar, the mean over the examples, in nats per token; an
        example without a real token counts as 0.

    Raises:
        InputError: If the shapes are not `(B, T)` and `(B, T, V)`.

    Example:
    >>> import numpy as np
    >>> loss = TokenCrossEntropy()(np.array([[1, -1]]), np.zeros((1, 2, 4)))
    >>> round(float(loss), 4)  # log(4)
    1.3863

    References:
        Kim, Rush (2016), arXiv:1606.07947, section 3.2 (there summed over the
        tokens).
    """

    def __init__(
        self, ignore_class: int = -1, name: str = "token_cross_entropy", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **{"dtype": "float32", **kwargs})
        self.ignore_class = int(ignore_class)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns the mean over the examples, each multiplied by its weight."""
        # The copy drops Keras' mask of the tokens, which would be applied to the examples.
        return super().__call__(y_true, ops.copy(y_pred), sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each example, `(B,)`."""
        labels, logits = tuple(y_true.shape), tuple(y_pred.shape)
        if len(logits) != 3 or not may_match(labels, logits[:2]):
            raise InputError(
                f"`{self.name}` takes one label per token, (B, T), and logits (B, T, V). Received: "
                f"labels {labels}, logits {logits}. Pad labels with {self.ignore_class}."
            )
        label = ops.cast(y_true, "int32")
        is_real = ops.not_equal(label, self.ignore_class)
        place = ops.expand_dims(ops.where(is_real, label, 0), -1)
        log_p = ops.take_along_axis(ops.log_softmax(y_pred, axis=-1), place, axis=-1)
        return real_token_mean(-ops.squeeze(log_p, -1), is_real)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "ignore_class": self.ignore_class}
