"""Losses that remember the teacher's vectors of earlier batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.arguments import scheduled
from kdkeras.losses.base import DistillationLoss, may_match
from kdkeras.replicas import all_rows, own_rows
from kdkeras.schedules import serialized, value_at

__all__ = ["QueueContrast", "QueueDistillation"]

# Losses are computed in float32: far below any cosine divided by a temperature.
_MASKED = -1e9


class _TeacherQueue(DistillationLoss):
    """A queue of teacher vectors of unit length, the oldest first; a zero row is an empty slot.

    The weight `queue`, `(size, dim)`, is not trained, is saved, and is the same
    on every replica. The Distiller fills it after each training step.
    """

    has_memory = True
    takes = {"step": "step"}
    of_vectors = True

    def __init__(self, dim: int, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for key, value in (("dim", dim), ("size", size)):
            if value < 1:
                raise InputError(
                    f"`{key}` must be at least 1. Received: {key}={value}. Use the teacher's width "
                    "as dim, and some thousand vectors as size."
                )
        self.dim, self.size = int(dim), int(size)
        self.queue = self.add_weight(
            shape=(self.size, self.dim),
            initializer="zeros",
            trainable=False,
            # All replicas write the same rows, so that one may speak for all.
            aggregation="only_first_replica",
            name="queue",
        )

    def after_step(self, targets: Mapping[str, Any], kept: Any) -> None:
        """Adds the teacher's vectors of the step."""
        self.enqueue(targets[self.target], kept)

    def enqueue(self, teacher: Any, kept: Any = True) -> None:
        """Adds vectors at the end of the queue, those of all replicas; the oldest fall out.

        The Distiller does so after every training step.

        Args:
            teacher: Float tensor `(B, dim)`.
            kept: Scalar bool; false leaves the queue as it is.
        """
        every = all_rows(l2_normalize(ops.cast(teacher, "float32")))
        both = ops.concatenate([self.queue, every], axis=0)
        # Moved up instead of written at a pointer: replicas have any number of rows.
        moved = ops.slice(both, (ops.shape(every)[0], 0), (self.size, self.dim))
        self.queue.assign(ops.where(kept, moved, ops.convert_to_tensor(self.queue)))

    def check_student(self, student: Any) -> None:
        """Refuses other widths than the queue's."""
        if not may_match(student.shape[-1:], (self.dim,)):
            raise InputError(
                "A queue holds vectors of the student's width. Received: student "
                f"{tuple(student.shape)}, dim={self.dim} in `{self.name}`. Set "
                f"dim={student.shape[-1]}, the teacher's width."
            )

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses other widths than the queue's.

        Raises:
            InputError: If the shapes cannot match.
        """
        super().check_shapes(teacher, student)
        if teacher.shape[-1] != self.dim:
            raise InputError(
                "A queue holds vectors of the teacher's width. Received: teacher "
                f"{tuple(teacher.shape)}, dim={self.dim} in `{self.name}`. Set "
                f"dim={teacher.shape[-1]}."
            )

    def _keys(self, teacher: Any) -> tuple[Any, Any]:
        """The batch of all replicas and the queue, `(dim, N + size)`; 1.0 where a slot is empty."""
        every, queue = all_rows(teacher), ops.convert_to_tensor(self.queue)
        empty = ops.cast(ops.equal(ops.sum(ops.square(queue), axis=-1), 0.0), "float32")
        absent = ops.concatenate([ops.zeros_like(every[:, 0]), empty], axis=0)
        return ops.transpose(ops.concatenate([every, queue], axis=0)), absent

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "dim": self.dim, "size": self.size}


@keras.saving.register_keras_serializable(package="kdkeras")
class QueueDistillation(_TeacherQueue):
    """Computes the divergence between distributions of similarity to a queue (SEED).

    As `SimilarityDistillation`, with the teacher's vectors of earlier batches
    beside those of the batch: a neighbourhood of thousands for batches of any
    size. The vectors in the queue never grow old, since the teacher does not
    change. In `evaluate` the queue is read as training left it.

    Formula, with `keys` the teacher's vectors of the batch (of all replicas)
    and of the queue:

    ```
    p = softmax(cos(teacher, keys) / temperature)
    q = softmax(cos(student, keys) / student_temperature)
    loss = sum(p * log(p / q), over the keys)
    ```

    Cost: `4 * size * dim` bytes of memory, two `(B, N + size)` matrices a
    side, and one copy of the queue a step.

    Args:
        dim: Width of the teacher's vectors.
        size: Vectors kept. Defaults to 4096; the paper has 65536.
        temperature: Softening of the teacher's cosines, above 0; a float, or a
            schedule of the step. Defaults to 0.05.
        student_temperature: That of the student's; None (the default) is the
            teacher's. With another (the paper: 0.01 and 0.2) the student does
            best with other cosines than the teacher has.

    Call arguments:
        y_true: `(B, dim)` float, the teacher's embeddings.
        y_pred: `(B, dim)` float, the student's.

    Returns:
        `(B,)` float32, at least 0, in nats.

    Raises:
        InputError: If an argument is out of its range, or a width is not
            `dim`.

    References:
        Fang et al. (2021), SEED, arXiv:2101.04731, equation 4, with the whole
        batch in place of the row's own vector.
    """

    def __init__(
        self,
        dim: int,
        size: int = 4096,
        temperature: Any = 0.05,
        student_temperature: Any = None,
        target: str = "embedding",
        name: str = "queue_distillation",
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, size, target=target, name=name, **kwargs)
        self.temperature = scheduled("temperature", temperature)
        self.student_temperature = (
            None
            if student_temperature is None
            else scheduled("student_temperature", student_temperature)
        )

    def loss(self, teacher: Any, student: Any, step: Any = None) -> Any:
        """Returns the divergence of each example's distribution, `(B,)`."""
        teacher, student = l2_normalize(teacher), l2_normalize(student)
        keys, absent = self._keys(teacher)
        sharp = value_at(self.temperature, step)
        soft = sharp
        if self.student_temperature is not None:
            soft = value_at(self.student_temperature, step)
        expected, actual = ops.matmul(teacher, keys) / sharp, ops.matmul(student, keys) / soft
        log_p, log_q = (ops.log_softmax(z + _MASKED * absent, axis=-1) for z in (expected, actual))
        return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": serialized(self.temperature),
            "student_temperature": serialized(self.student_temperature),
        }


@keras.saving.register_keras_serializable(package="kdkeras")
class QueueContrast(_TeacherQueue):
    """Picks a sentence's own teacher vector out of a queue of others (InfoNCE).

    Teaches which sentence it is, where `QueueDistillation` teaches to whom it
    is similar. It also pushes away from near neighbours, so that its minimum
    is not the teacher's own vectors: use it beside `EmbeddingDistillation`.

    Formula, with `keys` the teacher's vectors of the batch (of all replicas)
    and of the queue:

    ```
    negatives[i] = keys with cos(teacher_i, key) <= 1 - guide_margin
    z = cos(student_i, .) / temperature
    loss[i] = -log(exp(z(teacher_i)) / (exp(z(teacher_i)) + sum(exp(z(negatives[i])))))
    ```

    So a source sentence that comes again (with another translation, in the
    next epoch) does not find itself among its negatives.

    Cost: `4 * size * dim` bytes of memory, two `(B, N + size)` matrices a
    side, and one copy of the queue a step.

    Args:
        dim: Width of the teacher's vectors.
        size: Vectors kept. Defaults to 4096.
        temperature: Softening, above 0; a float, or a schedule of the step.
            Defaults to 0.07.
        guide_margin: How near to its own a key must be, by the teacher's
            cosine, to be no negative; above 0. Defaults to 0.01.

    Call arguments:
        y_true: `(B, dim)` float, the teacher's embeddings.
        y_pred: `(B, dim)` float, the student's.

    Returns:
        `(B,)` float32, at least 0, in nats.

    Raises:
        InputError: If an argument is out of its range, or a width is not
            `dim`.

    References:
        He et al. (2020), MoCo, arXiv:1911.05722, equation 1; Tian et al.
        (2020), CRD, arXiv:1910.10699, for a teacher's vectors as the keys;
        Solatorio (2024), GISTEmbed, arXiv:2402.16829, for the guide.
    """

    def __init__(
        self,
        dim: int,
        size: int = 4096,
        temperature: Any = 0.07,
        guide_margin: float = 0.01,
        target: str = "embedding",
        name: str = "queue_contrast",
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, size, target=target, name=name, **kwargs)
        self.temperature = scheduled("temperature", temperature)
        if not guide_margin > 0:
            raise InputError(
                "`guide_margin` must be above 0: a row's own vector has a cosine of about 1. "
                f"Received: guide_margin={guide_margin}. Use 0.01 if in doubt."
            )
        self.guide_margin = float(guide_margin)

    def loss(self, teacher: Any, student: Any, step: Any = None) -> Any:
        """Returns the loss of each example, `(B,)`."""
        teacher, student = l2_normalize(teacher), l2_normalize(student)
        keys, absent = self._keys(teacher)
        own = own_rows(teacher, all_rows(teacher))  # (own batch, batch of all replicas)
        own = ops.pad(own, ((0, 0), (0, self.size)))
        near = ops.cast(ops.matmul(teacher, keys) > 1.0 - self.guide_margin, "float32")
        masked = (1.0 - own) * ops.maximum(near, absent)
        temperature = value_at(self.temperature, step)
        scores = ops.matmul(student, keys) / temperature + _MASKED * masked
        return -ops.sum(ops.log_softmax(scores, axis=-1) * own, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": serialized(self.temperature),
            "guide_margin": self.guide_margin,
        }
