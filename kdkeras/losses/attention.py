"""How the tokens of a sentence attend to each other, from teacher to student."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.base import DistillationLoss, real_token_mean
from kdkeras.losses.token_layers import Layer, pick, require_equal_tokens

__all__ = ["MiniLMv2"]

PARTS = ("query", "key", "value")
# Scores are float32, and those of real tokens may be large: far below all of them.
_MASKED = -1e30


@keras.saving.register_keras_serializable(package="kdkeras")
class MiniLMv2(DistillationLoss):
    """Computes the divergence of the tokens' relations in one attention layer.

    Queries are compared with queries, keys with keys and values with values,
    after they are split into as many relation heads on both sides. So the
    student may have another width and other heads than the teacher, without a
    projection. Both sides must read the same tokens: the student needs the
    teacher's vocabulary, and only the source is compared. Needs a live teacher.
    Cost: three `L x L` matrices a relation head and side.

    Formula, with `X` one relation head's queries, keys or values `(L, d_r)`:

    ```
    R(X) = softmax(X @ X.T / sqrt(d_r))          # over the real tokens
    loss = sum over query, key, value of
           mean over relation heads and real tokens of KL(R(X_teacher) || R(X_student))
    ```

    Args:
        num_relation_heads: Heads that both sides are split into; must divide
            both widths. Often more than attention heads, e.g. 48 for 768.
        student_layer: Layer of the student, from 1, or -1 (the default) for
            the last; a name where the model gives a dict.
        teacher_layer: The same of the teacher; of a large teacher one of its
            upper middle layers teaches better than the last.
        target: Key of the teacher target. Defaults to `"attention"`.

    Call arguments:
        y_true: The teacher's layers: a list (layer 1 first, or a dict by name)
            of `{"query", "key", "value"}`, each `(B, L, d)` float.
        y_pred: The student's: the same of `(B, L, d')`.
        padding_mask: `(B, L)` int, 1 = real token.

    Returns:
        `(B,)` float32, at least 0, in nats; 0 for a row without a token.

    Raises:
        InputError: If there is no such layer, the lengths differ, or a width
            cannot be split into the relation heads.

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
        name: str = "attention_relations",
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
        """The student's queries, keys and values, whatever the target is called."""
        return "attention"

    def check_student(self, student: Any) -> None:
        """Refuses a layer that is not there, and widths that cannot be split."""
        chosen = self._layer(student, self.student_layer, "student")
        if any((chosen[part].shape[-1] or 0) % self.num_relation_heads for part in PARTS):
            raise InputError(
                "`num_relation_heads` must divide the widths of teacher and student. Received: "
                f"num_relation_heads={self.num_relation_heads}, student "
                f"{tuple(chosen['query'].shape)} in `{self.name}`. Use a divisor of both."
            )

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses layers that are not there, other lengths, and widths that cannot be split."""
        sides = self._chosen(teacher, student)
        for part in PARTS:
            require_equal_tokens(sides[0][part], sides[1][part], self.name)
        for side, layer in zip(("teacher", "student"), sides, strict=True):
            widths = {layer[part].shape[-1] for part in PARTS}
            if any(width % self.num_relation_heads for width in widths):
                shapes = [tuple(chosen["query"].shape) for chosen in sides]
                raise InputError(
                    "`num_relation_heads` must divide the widths of teacher and student. "
                    f"Received: num_relation_heads={self.num_relation_heads}, teacher "
                    f"{shapes[0]}, student {shapes[1]} in `{self.name}`: the {side}'s does not "
                    "divide. Use a divisor of both."
                )

    def loss(self, teacher: Any, student: Any, padding_mask: Any) -> Any:
        """Returns the mean over relation heads and tokens, `(B,)`."""
        theirs, ours = self._chosen(teacher, student)
        total: Any = 0.0
        for part in PARTS:
            log_p = self._log_relations(theirs[part], padding_mask)
            log_q = self._log_relations(ours[part], padding_mask)
            total = total + ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)  # (B, heads, L)
        return real_token_mean(ops.mean(total, axis=1), padding_mask)

    def _log_relations(self, vectors: Any, padding_mask: Any) -> Any:
        """`(B, heads, L, L)`: to whom each token is related, padding to nobody."""
        batch, length = ops.shape(vectors)[0], ops.shape(vectors)[1]
        width = vectors.shape[-1] // self.num_relation_heads
        heads = ops.reshape(vectors, (batch, length, self.num_relation_heads, width))
        heads = ops.transpose(heads, (0, 2, 1, 3))
        scores = ops.matmul(heads, ops.transpose(heads, (0, 1, 3, 2))) * width**-0.5
        real = ops.expand_dims(ops.expand_dims(ops.cast(padding_mask, "bool"), 1), 1)
        return ops.log_softmax(ops.where(real, scores, _MASKED), axis=-1)

    def _chosen(self, teacher: Any, student: Any) -> tuple[dict[str, Any], dict[str, Any]]:
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
                f"in `{self.name}`. Give each as (B, L, d)."
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
