"""Training batches for all machines of a strategy."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdkeras import replicas
from kdkeras.data import DistillationSet, Vocabulary
from kdkeras.errors import InputError

__all__ = ["distribute_batches"]


def one_length(options: dict[str, Any]) -> dict[str, Any]:
    """Adds to the options of batches that all are of one length: a TPU knows no other.

    Args:
        options: Arguments of `DistillationSet.batches`; given
            `bucket_boundaries` stay.
    """
    return {"bucket_boundaries": [options.get("sequence_length", 64)], **options}


def distribute_batches(
    strategy: tf.distribute.Strategy,
    dataset: DistillationSet,
    batch_size: int,
    vocabulary: Vocabulary,
    **options: Any,
) -> Any:
    """Gives batches for `Distiller.fit`, of which every worker reads its own files only.

    The order of all workers' batches together follows from the seed and the
    number of workers.

    Args:
        strategy: From `choose_strategy`.
        dataset: The distillation set, on every machine.
        batch_size: Pairs in a step of all replicas together.
        vocabulary: Tokenizes both sides.
        **options: More of `DistillationSet.batches`' arguments.

    Returns:
        `dataset.batches(...)` with one worker, on a TPU with rows of one
        length. With several a distributed
        dataset without end: pass `steps_per_epoch=dataset.num_pairs //
        batch_size` to `fit`.

    Raises:
        InputError: If the replicas cannot share the batch equally, and as
            `DistillationSet.batches`.
    """
    if isinstance(strategy, tf.distribute.TPUStrategy):
        options = one_length(options)
    if replicas.num_workers(strategy) == 1:
        return dataset.batches(batch_size, vocabulary, **options)
    if batch_size % strategy.num_replicas_in_sync:
        raise InputError(
            "`batch_size` must be a multiple of the number of replicas of all workers. Received: "
            f"batch_size={batch_size}, {strategy.num_replicas_in_sync} replicas. Round it."
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
