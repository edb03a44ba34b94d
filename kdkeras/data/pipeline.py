"""Training batches from the shards of a distillation set, with tf.data only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kdkeras.data.shards import parse_records
from kdkeras.data.vocabulary import Vocabulary
from kdkeras.errors import InputError

__all__ = ["PipelineConfig", "copies_by_language", "training_batches"]

RECORDS_AT_ONCE = 1024
# Batches that are sorted by length together. More need less padding, but more memory.
WINDOW = 32
SIDES = ("source", "translation")

Map = Callable[..., Any]


def _out_of_range(name: str, rule: str, value: object, advice: str) -> InputError:
    return InputError(f"`{name}` must be {rule}. Received: {name}={value!r}. {advice}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Options of training batches; see `DistillationSet.batches`.

    Raises:
        InputError: If a value is out of its range.
    """

    batch_size: int
    sequence_length: int = 64
    language_temperature: float = 0.5
    seed: int = 0
    shuffle_buffer_size: int = 65_536
    bucket_boundaries: tuple[int, ...] | None = None
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        minima = {"batch_size": 1, "sequence_length": 3, "shuffle_buffer_size": 1}
        for name, minimum in minima.items():
            if (value := getattr(self, name)) < minimum:
                raise _out_of_range(name, f"at least {minimum}", value, "Use a larger value.")
        if not 0 <= self.language_temperature <= 1:
            value = self.language_temperature
            raise _out_of_range("language_temperature", "from 0 to 1", value, "Use 0.5.")
        if not 0 <= self.worker < self.workers:
            rule = f"from 0 to {self.workers - 1}"
            raise _out_of_range("worker", rule, self.worker, "Workers are numbered from 0.")
        given = self.bucket_boundaries
        if given is not None and (not given or list(given) != sorted(set(given)) or given[0] < 1):
            rule = "positive integers in ascending order"
            raise _out_of_range("bucket_boundaries", rule, given, "Use e.g. (8, 16, 32, 64).")

    @property
    def buckets(self) -> tuple[int, ...]:
        """Permitted lengths of a batch in tokens; the last one is `sequence_length`."""
        given = self.bucket_boundaries or tuple(8 << n for n in range(12))
        shorter = tuple(length for length in given if length < self.sequence_length)
        return (*shorter, self.sequence_length)


def copies_by_language(counts: dict[str, int], temperature: float) -> dict[str, float]:
    """Computes how often each pair is drawn per epoch on average, by language.

    Formula: `copies[l] = c * n[l] ** (temperature - 1)`, with `c` such that an
    epoch has as many draws as there are pairs. The share of language l in an
    epoch is `n[l] ** temperature / sum_k n[k] ** temperature`.
    """
    total = sum(counts.values())
    scale = total / sum(n**temperature for n in counts.values())
    return {language: scale * n ** (temperature - 1) for language, n in counts.items()}


def training_batches(
    shards: Sequence[Path],
    counts: dict[str, int],
    embedding_dim: int,
    vocabulary: Vocabulary,
    config: PipelineConfig,
) -> tf.data.Dataset:
    """Builds the dataset that `DistillationSet.batches` documents.

    Args:
        shards: The shard files.
        counts: Number of pairs by language of the translation.
        embedding_dim: Width of the teacher's embeddings.
        vocabulary: Tokenizes both sides.
        config: The options.
    """
    num_pairs = sum(counts.values())
    global_batch_size = config.batch_size * config.workers
    steps = num_pairs // global_batch_size
    if not steps:
        raise InputError(
            f"`batch_size` must be at most the number of pairs, {num_pairs}. Received: "
            f"batch_size={global_batch_size}. Use a smaller one, or a larger distillation set."
        )
    if config.workers > len(shards):
        raise InputError(
            f"Each worker must have at least one shard. Received: {config.workers} workers, "
            f"{len(shards)} shards. Write the set again with smaller shards."
        )
    # An epoch may draw slightly fewer than num_pairs pairs; `repeat` fills it up. `take` comes
    # before all prefetching ops: otherwise the seeds of the next epoch would depend on timing.
    pairs = _pairs(shards, counts, config).repeat().take(steps * config.batch_size)
    windows = tf.data.Dataset.zip(pairs.batch(WINDOW * config.batch_size), _seeds(config.seed + 1))
    batches = (
        windows.prefetch(1)
        .map(_windower(vocabulary, config, embedding_dim), 2, deterministic=True)
        .unbatch()
        .map(_finish(config))
    )
    return batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(8)


def _seeds(seed: int) -> tf.data.Dataset:
    """Yields pairs of random numbers: new ones per epoch, reproducible by `seed`."""
    random = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return random.batch(2, drop_remainder=True)


def _pairs(
    shards: Sequence[Path], counts: dict[str, int], config: PipelineConfig
) -> tf.data.Dataset:
    """Draws and shuffles the pairs of one epoch, as strings."""
    names = [str(path) for path in shards]
    records = (
        tf.data.Dataset.from_tensor_slices(names)
        # All workers use the same order, of which each takes its own files, new per epoch.
        .shuffle(len(names), seed=config.seed, reshuffle_each_iteration=True)
        .shard(config.workers, config.worker)
        .interleave(tf.data.TFRecordDataset, cycle_length=4, block_length=256)
        .batch(RECORDS_AT_ONCE)
    )
    drawn = tf.data.Dataset.zip(records, _seeds(config.seed + 2)).map(
        _drawer(counts, config.language_temperature),
        num_parallel_calls=2,
        deterministic=True,
    )
    buffer = min(config.shuffle_buffer_size, 2 * sum(counts.values()))
    return drawn.unbatch().shuffle(buffer, seed=config.seed, reshuffle_each_iteration=True)


def _drawer(counts: dict[str, int], temperature: float) -> Map:
    copies = copies_by_language(counts, temperature)
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(list(copies)), tf.constant(list(copies.values()), tf.float64)
        ),
        default_value=0.0,
    )

    def draw(serialized: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        records = parse_records(serialized)
        translations = records["translations"]
        expected = table.lookup(records["languages"].flat_values)
        uniform = tf.random.stateless_uniform(tf.shape(expected), seed, dtype=tf.float64)
        # 2.3 copies are 3 with probability 0.3, otherwise 2.
        times = tf.cast(tf.floor(expected + uniform), tf.int32)
        pair = tf.repeat(tf.range(tf.size(times)), times)
        record = tf.gather(translations.value_rowids(), pair)
        return {
            "source": tf.gather(records["source"], record),
            "translation": tf.gather(translations.flat_values, pair),
            "embedding": tf.gather(records["embedding"], record),
        }

    return draw


def _windower(vocabulary: Vocabulary, config: PipelineConfig, embedding_dim: int) -> Map:
    boundaries = np.array(config.buckets, np.int32)

    def window(pairs: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Tokenizes, sorts by length and splits into batches."""
        ids = {side: vocabulary.tokenize(pairs[side], config.sequence_length) for side in SIDES}
        lengths = {side: tf.cast(ids[side].row_lengths(), tf.int32) for side in SIDES}
        longest = tf.maximum(lengths["source"], lengths["translation"])
        # The pairs are shuffled, so a stable sort keeps equal lengths in random order.
        order = tf.argsort(longest, stable=True)
        order = tf.reshape(order, [-1, config.batch_size])  # (batches, batch_size)
        order = tf.gather(order, _permutation(tf.shape(order)[0], seed))
        limit = tf.reduce_max(tf.gather(longest, order), axis=1)
        place = tf.searchsorted(boundaries, limit)  # (batches,)
        result = {"length": tf.gather(boundaries, place)}
        for side in SIDES:
            padded = ids[side].to_tensor(vocabulary.pad_id, shape=[None, boundaries[-1]])
            result[f"{side}_token_ids"] = tf.gather(padded, order)
            result[f"{side}_length"] = tf.gather(lengths[side], order)
        vectors = tf.io.decode_raw(pairs["embedding"], tf.float16)
        vectors = tf.ensure_shape(vectors, [None, embedding_dim])
        result["embedding"] = tf.gather(tf.cast(vectors, tf.float32), order)
        identity = tf.strings.to_hash_bucket_fast(pairs["source"], 2**63 - 1)
        result["source_id"] = tf.gather(identity, order)
        return result

    return window


def _permutation(size: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return tf.argsort(tf.random.stateless_uniform([size], seed))


def _finish(config: PipelineConfig) -> Map:
    static = config.buckets[0] if len(config.buckets) == 1 else None

    def finish(batch: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Truncates one batch to its bucket and adds the masks."""
        x = {"source_id": batch["source_id"]}
        for side in SIDES:
            ids = batch[f"{side}_token_ids"][:, : batch["length"]]
            mask = tf.sequence_mask(batch[f"{side}_length"], batch["length"], tf.int32)
            x[f"{side}_token_ids"] = tf.ensure_shape(ids, [config.batch_size, static])
            x[f"{side}_padding_mask"] = tf.ensure_shape(mask, [config.batch_size, static])
        return x, {"embedding": batch["embedding"]}

    return finish
