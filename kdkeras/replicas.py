"""Cross-replica reduction and gathering.

Every function works with one replica (as in a plain Keras script) and inside
`tf.distribute.Strategy.run`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import tensorflow as tf

__all__ = [
    "all_rows",
    "any_worker",
    "is_chief",
    "num_replicas",
    "num_workers",
    "own_rows",
    "replica_id",
    "total",
]


def _context() -> tf.distribute.ReplicaContext | None:
    """The replica's context, or None if there is only one replica."""
    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def num_replicas() -> int:
    """Returns the number of replicas; 1 without a strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes; 1 unless training runs on several machines."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    cluster = strategy.cluster_resolver.cluster_spec()
    return sum(cluster.num_tasks(job) for job in cluster.jobs if job in ("chief", "worker")) or 1


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes files: the only process, or the first worker."""
    if num_workers(strategy) == 1:
        return True
    resolver = strategy.cluster_resolver
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_type == "worker" and resolver.task_id == 0


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Returns whether the flag is set on any worker.

    Every worker must call this at the same step.

    Args:
        strategy: The training's strategy.
        flag: The flag of this process.
    """
    if num_workers(strategy) == 1:
        return flag
    return bool(_summed(strategy)(tf.constant(float(flag))) > 0)


@cache
def _summed(strategy: tf.distribute.Strategy) -> Any:
    @tf.function
    def across(value: tf.Tensor) -> tf.Tensor:
        values = strategy.run(total, args=(value,))
        return strategy.experimental_local_results(values)[0]

    return across


def replica_id() -> Any:
    """Returns the index of this replica, from 0: an int, or on a TPU an int32 scalar."""
    context = _context()
    return 0 if context is None else context.replica_id_in_sync_group


def total(value: Any) -> Any:
    """Returns the sum of a value over all replicas.

    Args:
        value: Tensor of the same shape on every replica.

    Returns:
        The sum, the same on every replica. No gradient flows through it.
    """
    context = _context()
    if context is None:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(value))


def all_rows(rows: Any) -> Any:
    """Concatenates the rows of all replicas, in the order of the replicas.

    The gradient of a row is the sum of its gradients on all replicas. Each
    replica can therefore compute the loss of its own rows against all rows, and
    the sum of the replicas' gradients equals that of one device with all rows.

    Args:
        rows: Tensor `(n, ...)`; `n` may differ between replicas.

    Returns:
        Tensor `(N, ...)`, the same on every replica.
    """
    context = _context()
    if context is None:
        return rows
    start = _start(rows)

    # TensorFlow's own gradient slices a range whose size XLA cannot determine.
    @tf.custom_gradient
    def gather(values: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            summed = context.all_reduce(tf.distribute.ReduceOp.SUM, upstream)
            begin = [start, *[0] * (len(values.shape) - 1)]
            return tf.slice(summed, begin, tf.shape(values))

        # A copy, because the gather of one worker needs the device, which a step's argument lacks.
        return context.all_gather(tf.identity(values), axis=0), gradient

    return gather(tf.convert_to_tensor(rows))


def own_rows(rows: Any, every_row: Any) -> Any:
    """Marks the positions of a replica's own rows among all rows.

    Args:
        rows: Tensor `(n, ...)`, the replica's rows.
        every_row: `all_rows(rows)`, `(N, ...)`.

    Returns:
        `(n, N)` float32, 1.0 where column `j` is row `i` itself; with one
        replica the identity matrix.
    """
    own = tf.range(tf.shape(rows)[0]) + _start(rows)
    return tf.one_hot(own, tf.shape(every_row)[0], dtype=tf.float32)


def _start(rows: Any) -> Any:
    """Number of rows on the replicas before this one.

    Always gathered, because the other replicas may have other numbers of rows.
    """
    context = _context()
    if context is None:
        return 0
    sizes = context.all_gather(tf.shape(rows)[:1], axis=0)  # (replicas,)
    before = tf.range(tf.size(sizes)) < context.replica_id_in_sync_group
    return tf.reduce_sum(tf.where(before, sizes, 0))
