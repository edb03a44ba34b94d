"""From the shards of a distillation set to training batches, by tf.data alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from kdkeras.data.shards import parse_records
from kdkeras.errors import InputError

if TYPE_CHECKING:
    from kdkeras.data.distillation_set import DistillationSet
    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["PipelineConfig", "copies_by_language", "training_batches"]

RECORDS_AT_ONCE = 1024
# Batches that are sorted by length together: more pad less, but cost memory.
WINDOW = 32
SIDES = ("source", "translation")

Map = Callable[..., Any]


def _refuse(name: str, rule: str, value: object, advice: str) -> InputError:
    return InputError(f"`{name}` must be {rule}. Received: {name}={value!r}. {advice}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """How batches are drawn; see `DistillationSet.batches`.

    Raises:
        InputError: If a value is out of its range.
    """

    batch_size: int
    sequence_length: int = 64
    language_temperature: float = 0.5
    seed: int = 0
    shuffle: int = 65_536
    bucket_boundaries: tuple[int, ...] | None = None
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("sequence_length", 3), ("shuffle", 1)):
            if getattr(self, name) < least:
                raise _refuse(name, f"at least {least}", getattr(self, name), "Raise it.")
        if not 0 <= self.language_temperature <= 1:
            value = self.language_temperature
            raise _refuse("language_temperature", "from 0 to 1", value, "Use 0.5.")
        if not 0 <= self.worker < self.workers:
            raise _refuse("worker", f"from 0 to {self.workers - 1}", self.worker, "Count from 0.")
        given = self.bucket_boundaries
        if given is not None and (not given or list(given) != sorted(set(given)) or given[0] < 1):
            rule = "whole numbers above 0, ascending"
            raise _refuse("bucket_boundaries", rule, given, "Use e.g. (8, 16, 32, 64).")

    @property
    def buckets(self) -> tuple[int, ...]:
        """Allowed row lengths; the last one is `sequence_length`."""
        given = self.bucket_boundaries or tuple(8 << n for n in range(12))
        shorter = tuple(length for length in given if length < self.sequence_length)
        return (*shorter, self.sequence_length)


def copies_by_language(counts: dict[str, int], temperature: float) -> dict[str, float]:
    """Expected copies of each pair in one pass, by language.

    Formula: `copies[l] = c * n[l] ** (temperature - 1)`, with `c` such that a
    pass has as many draws as there are pairs. Language l then makes up
    `n[l] ** temperature / sum_k n[k] ** temperature` of a pass.
    """
    total = sum(counts.values())
    scale = total / sum(n**temperature for n in counts.values())
    return {language: scale * n ** (temperature - 1) for language, n in counts.items()}


def training_batches(
    dataset: DistillationSet, vocabulary: Vocabulary, config: PipelineConfig
) -> tf.data.Dataset:
    """Builds the dataset that `DistillationSet.batches` documents."""
    together = config.batch_size * config.workers
    steps = dataset.num_pairs // together
    if not steps:
        raise InputError(
            f"`batch_size` must be at most the number of pairs, {dataset.num_pairs}. Received: "
            f"batch_size={together}. Use a smaller one, or a larger distillation set."
        )
    if config.workers > len(dataset.shards):
        raise InputError(
            f"Each worker reads files of its own. Received: {config.workers} workers, "
            f"{len(dataset.shards)} shards. Write the set again with smaller shards."
        )
    # The draws of one pass may be a few short of num_pairs: then the next pass's follow. `take`
    # stands before anything that runs ahead: else the next epoch's seeds would depend on timing.
    pairs = _pairs(dataset, config).repeat().take(steps * config.batch_size)
    windows = tf.data.Dataset.zip(pairs.batch(WINDOW * config.batch_size), _seeds(config.seed + 1))
    batches = (
        windows.prefetch(1)
        .map(_windower(vocabulary, config, dataset.embedding_dim), 2, deterministic=True)
        .unbatch()
        .map(_finish(config))
    )
    return batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(8)


def _seeds(seed: int) -> tf.data.Dataset:
    """Pairs of numbers that differ by pass, and are the same for the same seed."""
    random = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    return random.batch(2, drop_remainder=True)


def _pairs(dataset: DistillationSet, config: PipelineConfig) -> tf.data.Dataset:
    """One pass over the pairs: drawn, shuffled, still strings."""
    names = [str(path) for path in dataset.shards]
    records = (
        tf.data.Dataset.from_tensor_slices(names)
        # All workers shuffle alike and deal the files out, others in every pass.
        .shuffle(len(names), seed=config.seed, reshuffle_each_iteration=True)
        .shard(config.workers, config.worker)
        .interleave(tf.data.TFRecordDataset, cycle_length=4, block_length=256)
        .batch(RECORDS_AT_ONCE)
    )
    drawn = tf.data.Dataset.zip(records, _seeds(config.seed + 2)).map(
        _drawer(dataset.counts, config.language_temperature),
        num_parallel_calls=2,
        deterministic=True,
    )
    buffer = min(config.shuffle, 2 * dataset.num_pairs)
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
        luck = tf.random.stateless_uniform(tf.shape(expected), seed, dtype=tf.float64)
        # 2.3 copies are 2 or, in three of ten passes, 3.
        times = tf.cast(tf.floor(expected + luck), tf.int32)
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
        """Tokenizes, sorts by length and cuts into batches."""
        ids = {side: vocabulary.tokenize(pairs[side], config.sequence_length) for side in SIDES}
        lengths = {side: tf.cast(ids[side].row_lengths(), tf.int32) for side in SIDES}
        longest = tf.maximum(lengths["source"], lengths["translation"])
        # Pairs come shuffled, so a stable sort leaves equal lengths in random order.
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
        """Cuts one batch to its bucket and adds the masks."""
        x = {"source_id": batch["source_id"]}
        for side in SIDES:
            ids = batch[f"{side}_token_ids"][:, : batch["length"]]
            mask = tf.sequence_mask(batch[f"{side}_length"], batch["length"], tf.int32)
            x[f"{side}_token_ids"] = tf.ensure_shape(ids, [config.batch_size, static])
            x[f"{side}_padding_mask"] = tf.ensure_shape(mask, [config.batch_size, static])
        return x, {"embedding": batch["embedding"]}

    return finish
