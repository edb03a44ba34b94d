"""Relations between the tokens of a sentence in one attention layer (MiniLMv2)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.base import DistillationLoss
from kdkeras.losses.formulas import MASKED, divergence, real_token_mean
from kdkeras.losses.token_layers import Layer, pick, require_equal_tokens

__all__ = ["MiniLMv2"]

PARTS = ("query", "key", "value")


@keras.saving.register_keras_serializable(package="kdkeras")
class MiniLMv2(DistillationLoss):
    """Computes the divergence of token relations in one attention layer (MiniLMv2).

    Queries are compared with queries, keys with keys and values with values,
    after both sides are split into the same number of relation heads. The
    student may therefore have another width and another number of heads than
    the teacher, without a projection. Use it for a deep student that has the
    teacher's vocabulary: both sides must read the same tokens, so only the
    source sentence is compared. It needs a live teacher. If the widths are
    equal, `HiddenStateDistillation` trains every layer instead of one.

    Cost: three `L x L` matrices per relation head and side.

    Formula, where `X` holds the queries, keys or values `(L, d_r)` of one
    relation head:

    ```
    R(X) = softmax(X @ X.T / sqrt(d_r))          # over the real tokens
    loss = sum over query, key, value of
           mean over relation heads and real tokens of KL(R(X_teacher) || R(X_student))
    ```

    Args:
        num_relation_heads: Number of relation heads, at least 1; must divide
            the widths of both sides. Often larger than the number of attention
            heads, e.g. 48 for a width of 768.
        student_layer: Layer of the student, from 1, or -1 (default) for the
            last; a name if the model returns a dict.
        teacher_layer: Layer of the teacher, in the same form. Defaults to -1.
            For a large teacher an upper middle layer is better than the last.
        target: Key of the teacher target. Defaults to `"attention"`.

    Call arguments:
        y_true: The teacher's layers: a list (layer 1 first) or a dict by name
            of `{"query", "key", "value"}`, each `(B, L, d)` float.
        y_pred: The student's layers, in the same form, each `(B, L, d')`.
        padding_mask: `(B, L)` int, 1 = real token.

    Returns:
        `(B,)` float32, at least 0, in nats; 0 for an example without a real
        token.

    Raises:
        InputError: If there is no such layer, the lengths differ, or a width
            is not divisible by the number of relation heads.

    References:
        Wang et al. (2021), MiniLMv2, arXiv:2012.15828, equations 4 to 6.
    """

    needs = {"padding_mask": "padding_mask"}
    source_only = True

    def __init__(
        self,
        num_relation_heads: int,
        student_layer: Layer = -1,
        teacher_layer: Layer = -1,
        target: str = "attention",
        name: str = "minilm_v2",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)
        if num_relation_heads < 1:
            raise InputError(
                "`num_relation_heads` must be 1 or more. Received: num_relation_heads="
                f"{num_relation_heads}. Use a divisor of both widths, e.g. 12."
            )
        self.num_relation_heads = int(num_relation_heads)
        self.student_layer = student_layer
        self.teacher_layer = teacher_layer

    @property
    def student_output(self) -> str:
        """Always the student's queries, keys and values, whatever the name of the target."""
        return "attention"

    def check_student(self, student: Any) -> None:
        """Refuses a missing layer, and widths that the relation heads do not divide."""
        layer = self._layer(student, self.student_layer, "student")
        if any((layer[part].shape[-1] or 0) % self.num_relation_heads for part in PARTS):
            raise InputError(
                "`num_relation_heads` must divide the widths of teacher and student. Received: "
                f"num_relation_heads={self.num_relation_heads}, student "
                f"{tuple(layer['query'].shape)} in `{self.name}`. Use a divisor of both."
            )

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses missing layers, different lengths, and widths that the heads do not divide."""
        sides = self._both_layers(teacher, student)
        for part in PARTS:
            require_equal_tokens(sides[0][part], sides[1][part], self.name)
        for side, layer in zip(("teacher", "student"), sides, strict=True):
            widths = {layer[part].shape[-1] for part in PARTS}
            if any(width % self.num_relation_heads for width in widths):
                shapes = [tuple(parts["query"].shape) for parts in sides]
                raise InputError(
                    "`num_relation_heads` must divide the widths of teacher and student. "
                    f"Received: num_relation_heads={self.num_relation_heads}, teacher "
                    f"{shapes[0]}, student {shapes[1]} in `{self.name}`: the {side}'s is not "
                    "divisible. Use a divisor of both."
                )

    def loss(self, teacher: Any, student: Any, padding_mask: Any) -> Any:
        """Returns the mean over relation heads and tokens, `(B,)`."""
        teacher, student = self._both_layers(teacher, student)
        total: Any = 0.0
        for part in PARTS:
            relations = [self._log_relations(x[part], padding_mask) for x in (teacher, student)]
            total = total + divergence(*relations)  # (B, heads, L)
        return real_token_mean(ops.mean(total, axis=1), padding_mask)

    def _log_relations(self, vectors: Any, padding_mask: Any) -> Any:
        """Log-relations of each token to the real tokens, `(B, heads, L, L)`."""
        batch, length = ops.shape(vectors)[0], ops.shape(vectors)[1]
        width = vectors.shape[-1] // self.num_relation_heads
        heads = ops.reshape(vectors, (batch, length, self.num_relation_heads, width))
        heads = ops.transpose(heads, (0, 2, 1, 3))
        scores = ops.matmul(heads, ops.transpose(heads, (0, 1, 3, 2))) * width**-0.5
        real = ops.expand_dims(ops.expand_dims(ops.cast(padding_mask, "bool"), 1), 1)
        return ops.log_softmax(ops.where(real, scores, MASKED), axis=-1)

    def _both_layers(self, teacher: Any, student: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The compared layer of each side."""
        return (
            self._layer(teacher, self.teacher_layer, "teacher"),
            self._layer(student, self.student_layer, "student"),
        )

    def _layer(self, layers: Any, layer: Layer, side: str) -> dict[str, Any]:
        found = pick(layers, layer, side, self.name, first=1)
        if not isinstance(found, dict) or not set(PARTS) <= set(found):
            raise InputError(
                f"A layer's attention must be a dict of {list(PARTS)}. Received: "
                f"{sorted(found) if isinstance(found, dict) else 'a tensor'} from the {side} "
                f"in `{self.name}`. Return each as (B, L, d)."
            )
        return found

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_relation_heads": self.num_relation_heads,
            "student_layer": self.student_layer,
            "teacher_layer": self.teacher_layer,
        }
