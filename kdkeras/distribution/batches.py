"""Training batches for all machines of a strategy."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdkeras import replicas
from kdkeras.data import DistillationSet, Vocabulary
from kdkeras.errors import InputError

__all__ = ["distribute_batches"]


def one_length(options: dict[str, Any]) -> dict[str, Any]:
    """Returns options that give all batches the same length, which a TPU needs.

    Args:
        options: Arguments of `DistillationSet.batches`; `bucket_boundaries` is
            not changed if it is given.
    """
    return {"bucket_boundaries": [options.get("sequence_length", 64)], **options}


def distribute_batches(
    strategy: tf.distribute.Strategy,
    dataset: DistillationSet,
    batch_size: int,
    vocabulary: Vocabulary,
    **options: Any,
) -> Any:
    """Returns training batches for `Distiller.fit`; each worker reads its own files.

    The order of the batches is determined by the seed and the number of workers.

    Args:
        strategy: A strategy from `choose_strategy`.
        dataset: The distillation set, which every machine must be able to read.
        batch_size: Number of pairs per step, on all replicas together.
        vocabulary: The student's vocabulary, which tokenizes both sides.
        **options: Further arguments of `DistillationSet.batches`, such as
            `sequence_length` or `seed`.

    Returns:
        With one worker `dataset.batches(...)`; on a TPU all batches have the same
        length. With several workers an infinite distributed dataset: pass
        `steps_per_epoch=dataset.num_pairs // batch_size` to `fit`.

    Raises:
        InputError: If `batch_size` is not a multiple of the number of replicas of
            several workers, or for arguments that `DistillationSet.batches` refuses.

    Example:
        >>> strategy = choose_strategy()  # doctest: +SKIP
        >>> batches = distribute_batches(  # doctest: +SKIP
        ...     strategy, dataset, 512, vocabulary
        ... )
        >>> distiller.fit(  # doctest: +SKIP
        ...     batches, steps_per_epoch=dataset.num_pairs // 512, epochs=3
        ... )
    """
    if isinstance(strategy, tf.distribute.TPUStrategy):
        options = one_length(options)
    if replicas.num_workers(strategy) == 1:
        return dataset.batches(batch_size, vocabulary, **options)
    count = strategy.num_replicas_in_sync
    if batch_size % count:
        raise InputError(
            "`batch_size` must be a multiple of the number of replicas of all workers. Received: "
            f"batch_size={batch_size}, {count} replicas. Use {-(-batch_size // count) * count}."
        )

    def own(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return dataset.batches(
            context.get_per_replica_batch_size(batch_size),
            vocabulary,
            worker=context.input_pipeline_id,
            workers=context.num_input_pipelines,
            **options,
        ).repeat()

    return strategy.distribute_datasets_from_function(own)
