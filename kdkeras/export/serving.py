"""A student as a `tf.Module`: what SavedModel and TFLite are traced from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from kdkeras.students import Student

__all__ = ["ServingModule", "float32_student"]


def float32_student(student: Student) -> Student:
    """Returns the student itself, or its copy that computes in float32.

    Half precision and fake quantisation are for training: phones and
    SavedModels get the float32 weights as they are, and float32 arithmetic.
    """
    if student.compute_dtype == "float32" and student.fake_quantization is None:
        return student
    return student.clone(dtype="float32")


class ServingModule(tf.Module):
    """Holds a student's variables, each once, and traces its functions.

    `keras.Model.export` stores every variable twice, and a TFLite converter
    given a Keras model silently drops the weights; a plain module does
    neither.
    """

    def __init__(self, student: Student) -> None:
        super().__init__(name="student")
        self.weights = [variable.value for variable in student.variables]
        # A tuple hides the Keras model, whose own tracking would store it again.
        self._call: tuple[Callable[[dict[str, tf.Tensor]], tf.Tensor]] = (
            lambda inputs: student(inputs, training=False),
        )

    def embed(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the embeddings of token ids."""
        embedding = self._call[0]({"token_ids": token_ids, "padding_mask": padding_mask})
        return {"embedding": tf.cast(embedding, tf.float32)}

    def trace(self, batch: int | None, length: int | None) -> Any:
        """Returns the concrete function for ids of one shape."""

        def ids(name: str) -> tf.TensorSpec:
            return tf.TensorSpec((batch, length), tf.int32, name=name)

        function = tf.function(self.embed, autograph=False)
        return function.get_concrete_function(ids("token_ids"), ids("padding_mask"))
