"""Losses with a queue of the teacher's embeddings of earlier batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.base import DistillationLoss
from kdkeras.losses.checks import may_match, scheduled
from kdkeras.losses.formulas import MASKED, cosine_matrix, divergence
from kdkeras.replicas import all_rows, own_rows
from kdkeras.schedules import serialized, value_at

__all__ = ["QueueContrast", "QueueDistillation"]


class _TeacherQueue(DistillationLoss):
    """Base class: a queue of unit-length teacher embeddings, the oldest first.

    The weight `queue`, `(size, dim)`, is saved but not trained, and is the same
    on every replica. A row of zeros is an empty slot. The Distiller fills the
    queue after each training step.
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
                    "as dim, and several thousand embeddings as size."
                )
        self.dim, self.size = int(dim), int(size)
        self.queue = self.add_weight(
            shape=(self.size, self.dim),
            initializer="zeros",
            trainable=False,
            # All replicas write the same rows.
            aggregation="only_first_replica",
            name="queue",
        )

    def after_step(self, targets: Mapping[str, Any], kept: Any) -> None:
        """Adds the teacher's embeddings of the step to the queue."""
        self.enqueue(targets[self.target], kept)

    def enqueue(self, teacher: Any, kept: Any = True) -> None:
        """Appends the embeddings of all replicas to the queue, and drops the oldest.

        The Distiller calls this after every training step.

        Args:
            teacher: Float tensor `(B, dim)`.
            kept: Scalar bool; False leaves the queue unchanged. Defaults to
                True.
        """
        every = all_rows(l2_normalize(ops.cast(teacher, "float32")))
        both = ops.concatenate([self.queue, every], axis=0)
        # Shifted instead of written at a pointer, because the number of rows varies.
        moved = ops.slice(both, (ops.shape(every)[0], 0), (self.size, self.dim))
        self.queue.assign(ops.where(kept, moved, ops.convert_to_tensor(self.queue)))

    def check_student(self, student: Any) -> None:
        """Refuses a student whose width differs from the queue's."""
        if not may_match(student.shape[-1:], (self.dim,)):
            raise InputError(
                "`dim` must be the width of teacher and student. Received: student "
                f"{tuple(student.shape)}, dim={self.dim} in `{self.name}`. Set "
                f"dim={student.shape[-1]} if the teacher has that width."
            )

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses a width that differs from the queue's.

        Raises:
            InputError: If the shapes cannot match.
        """
        super().check_shapes(teacher, student)
        if teacher.shape[-1] != self.dim:
            raise InputError(
                "`dim` must be the teacher's width. Received: teacher "
                f"{tuple(teacher.shape)}, dim={self.dim} in `{self.name}`. Set "
                f"dim={teacher.shape[-1]}."
            )

    def _keys(self, teacher: Any) -> tuple[Any, Any]:
        """The batch of all replicas and the queue, `(N + size, dim)`; 1.0 for each empty slot."""
        every, queue = all_rows(teacher), ops.convert_to_tensor(self.queue)
        empty = ops.cast(ops.equal(ops.sum(ops.square(queue), axis=-1), 0.0), "float32")
        absent = ops.concatenate([ops.zeros_like(every[:, 0]), empty], axis=0)
        return ops.concatenate([every, queue], axis=0), absent

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "dim": self.dim, "size": self.size}


@keras.saving.register_keras_serializable(package="kdkeras")
class QueueDistillation(_TeacherQueue):
    """Computes the divergence between two distributions of similarity to a queue (SEED).

    This is `SimilarityDistillation`, with the teacher's embeddings of earlier
    batches besides those of the batch. Use it instead if batches are small: it
    compares with thousands of sentences at any batch size. The stored
    embeddings stay valid, because the teacher does not change. `evaluate` reads
    the queue and does not change it.

    Cost: `4 * size * dim` bytes of memory, two `(B, N + size)` matrices per
    side, where `N` is the batch of all replicas, and one copy of the queue per
    step.

    Formula, where `keys` are the teacher's embeddings of the batch (of all
    replicas) and of the queue:

    ```
    p = softmax(cos(teacher, keys) / temperature)
    q = softmax(cos(student, keys) / student_temperature)
    loss = sum(p * log(p / q))      # over the keys
    ```

    Args:
        dim: Width of the teacher's embeddings, at least 1.
        size: Number of stored embeddings, at least 1. Defaults to 4096; the
            paper uses 65536.
        temperature: Softening of the teacher's cosines, above 0; a float, or a
            schedule of the step. Defaults to 0.05.
        student_temperature: Softening of the student's cosines, above 0; a
            float, or a schedule. Defaults to None: the same as `temperature`.
            With another value (the paper uses 0.01 and 0.2) the minimum is not
            at the teacher's cosines.
        target: Key of the teacher target. Defaults to `"embedding"`.

    Call arguments:
        y_true: `(B, dim)` float, the teacher's embeddings.
        y_pred: `(B, dim)` float, the student's embeddings.
        step: Number of completed updates, an int scalar. Required if a
            temperature is a schedule.

    Returns:
        `(B,)` float32, at least 0, in nats.

    Raises:
        InputError: If an argument is out of its range, or a width is not
            `dim`.

    References:
        Fang et al. (2021), SEED, arXiv:2101.04731, equation 4, with the whole
        batch in place of the example's own embedding.
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
        """Returns the divergence of each example, `(B,)`."""
        teacher, student = l2_normalize(teacher), l2_normalize(student)
        keys, absent = self._keys(teacher)
        temperature = value_at(self.temperature, step)
        student_temperature = temperature
        if self.student_temperature is not None:
            student_temperature = value_at(self.student_temperature, step)
        log_p, log_q = (
            ops.log_softmax(cosine_matrix(rows, keys) / softening + MASKED * absent, axis=-1)
            for rows, softening in ((teacher, temperature), (student, student_temperature))
        )
        return divergence(log_p, log_q)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": serialized(self.temperature),
            "student_temperature": serialized(self.student_temperature),
        }


@keras.saving.register_keras_serializable(package="kdkeras")
class QueueContrast(_TeacherQueue):
    """Computes the cross-entropy of finding an example's teacher embedding in a queue (InfoNCE).

    Use it for retrieval, with `EmbeddingDistillation`: it also pushes away
    near neighbors, so that its minimum is not at the teacher's embeddings.
    `QueueDistillation` keeps the similarities to the neighbors instead.

    Cost: `4 * size * dim` bytes of memory, two `(B, N + size)` matrices per
    side, where `N` is the batch of all replicas, and one copy of the queue per
    step.

    Formula, where `keys` are the teacher's embeddings of the batch (of all
    replicas) and of the queue:

    ```
    negatives[i] = keys with cos(teacher_i, key) <= 1 - guide_margin
    z = cos(student_i, .) / temperature
    loss[i] = -log(exp(z(teacher_i)) / (exp(z(teacher_i)) + sum(exp(z(negatives[i])))))
    ```

    A source sentence that is repeated (with another translation, or in the next
    epoch) is thus not one of its own negatives.

    Args:
        dim: Width of the teacher's embeddings, at least 1.
        size: Number of stored embeddings, at least 1. Defaults to 4096.
        temperature: Softening, above 0; a float, or a schedule of the step.
            Defaults to 0.07.
        guide_margin: A key is not a negative if its cosine with the teacher's
            own embedding is above `1 - guide_margin`; above 0. Defaults to
            0.01.
        target: Key of the teacher target. Defaults to `"embedding"`.

    Call arguments:
        y_true: `(B, dim)` float, the teacher's embeddings.
        y_pred: `(B, dim)` float, the student's embeddings.
        step: Number of completed updates, an int scalar. Required if
            `temperature` is a schedule.

    Returns:
        `(B,)` float32, at least 0, in nats.

    Raises:
        InputError: If an argument is out of its range, or a width is not
            `dim`.

    References:
        He et al. (2020), MoCo, arXiv:1911.05722, equation 1; Tian et al.
        (2020), CRD, arXiv:1910.10699, for teacher embeddings as keys; Solatorio
        (2024), GISTEmbed, arXiv:2402.16829, for the guide.
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
                "`guide_margin` must be above 0, because an example's own embedding has a cosine "
                f"of about 1. Received: guide_margin={guide_margin}. Use 0.01 if in doubt."
            )
        self.guide_margin = float(guide_margin)

    def loss(self, teacher: Any, student: Any, step: Any = None) -> Any:
        """Returns the loss of each example, `(B,)`."""
        teacher, student = l2_normalize(teacher), l2_normalize(student)
        keys, absent = self._keys(teacher)
        own = own_rows(teacher, all_rows(teacher))  # (own batch, batch of all replicas)
        own = ops.pad(own, ((0, 0), (0, self.size)))
        near = ops.cast(cosine_matrix(teacher, keys) > 1.0 - self.guide_margin, "float32")
        masked = (1.0 - own) * ops.maximum(near, absent)
        temperature = value_at(self.temperature, step)
        scores = cosine_matrix(student, keys) / temperature + MASKED * masked
        return -ops.sum(ops.log_softmax(scores, axis=-1) * own, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": serialized(self.temperature),
            "guide_margin": self.guide_margin,
        }
