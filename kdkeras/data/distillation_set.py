"""Reading a distillation set: sentences, translations and teacher embeddings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kdkeras.data.corpus import SentenceGroup
from kdkeras.data.pipeline import PipelineConfig, training_batches
from kdkeras.data.shards import file_sha256, read_shard
from kdkeras.data.vocabulary import Vocabulary
from kdkeras.errors import InputError
from kdkeras.recipe import Recipe

__all__ = ["FORMAT", "MANIFEST", "PARTIAL_MANIFEST", "DistillationSet"]

FORMAT = 1
MANIFEST = "manifest.json"
PARTIAL_MANIFEST = "manifest.partial.json"


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file() and (folder / PARTIAL_MANIFEST).is_file():
        raise InputError(
            f"A distillation set must be complete. Received: {folder}, whose writing was "
            "interrupted. Run `kdkeras targets` or write_distillation_set() again with the same "
            "arguments: it resumes."
        )
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise KeyError(f"format {manifest['format']}")
        for key in ("teacher", "corpus", "shards"):
            manifest[key]
    except OSError as error:
        raise InputError(
            f"A distillation set must be a folder with `{MANIFEST}`. Received: {folder} "
            f"({error.strerror}). Write one with `kdkeras targets` or write_distillation_set()."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"`{MANIFEST}` must be the manifest of a distillation set of format {FORMAT}. "
            f"Received: {path} ({error}). Write the set again."
        ) from error
    return manifest


class DistillationSet:
    """Sentences, their translations and the cached embeddings of a teacher.

    Only the manifest is kept in memory. The constructor checks that every
    shard exists and has the right size; `verify` compares the hashes.

    Args:
        folder: A folder that `write_distillation_set` wrote.

    Attributes:
        folder: The folder.
        teacher: `name` and `fingerprint` of the teacher.
        embedding_dim: Width of the teacher's embeddings.
        normalized: Whether they have unit norm.
        num_groups: Number of source sentences.
        num_pairs: Number of pairs of a source sentence and a translation.
        counts: Number of pairs by language of the translation.
        languages: Languages of the translations, sorted.
        source_languages: Languages of the source sentences, sorted.
        manifest: The manifest as a dictionary.

    Raises:
        InputError: If the set is incomplete, or a shard is missing or has
            the wrong size; the message names the shard.

    Example:
        >>> dataset = DistillationSet("sets/demo")  # doctest: +SKIP
        >>> for x, y in dataset.batches(256, vocabulary): ...  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)
        teacher, corpus = self.manifest["teacher"], self.manifest["corpus"]
        self.teacher: dict[str, str] = {k: teacher[k] for k in ("name", "fingerprint")}
        self.embedding_dim: int = teacher["embedding_dim"]
        self.normalized: bool = teacher["normalized"]
        self.num_groups: int = corpus["num_groups"]
        self.num_pairs: int = corpus["num_pairs"]
        self.counts: dict[str, int] = corpus["counts"]
        self.languages: list[str] = sorted(self.counts)
        self.source_languages: list[str] = corpus["source_languages"]
        self._verified = False
        self._check_sizes()

    @property
    def shards(self) -> list[Path]:
        """The shard files, in order."""
        return [self.folder / Path(shard["name"]).name for shard in self.manifest["shards"]]

    def _check_sizes(self) -> None:
        for path, shard in zip(self.shards, self.manifest["shards"], strict=True):
            found = path.stat().st_size if path.is_file() else None
            if found != shard["bytes"]:
                state = "missing" if found is None else f"{found} bytes"
                raise InputError(
                    f"A shard must be complete. Received: {path} ({state}, expected "
                    f"{shard['bytes']} bytes). Copy the shard again, or delete the folder and "
                    "write the set again."
                )

    def verify(self) -> None:
        """Compares every shard with the hash in the manifest.

        Raises:
            InputError: If a shard differs; the message names it.
        """
        for path, shard in zip(self.shards, self.manifest["shards"], strict=True):
            found = file_sha256(path)
            if found != shard["sha256"]:
                raise InputError(
                    f"A shard must be unchanged. Received: {path} with SHA-256 "
                    f"{found[:12]}…, expected {shard['sha256'][:12]}…. Copy the shard again, or "
                    "delete the folder and write the set again."
                )
        self._verified = True

    def records(self) -> Iterator[tuple[SentenceGroup, np.ndarray]]:
        """Yields each sentence group with its `(embedding_dim,)` float32 embedding.

        Raises:
            InputError: If a shard is damaged; the message names it.
        """
        for path in self.shards:
            for batch in read_shard(path):
                yield from _rows(batch)

    def sentences(
        self, language_temperature: float = 1.0, languages: Iterable[str] | None = None
    ) -> Iterator[str]:
        """Yields the sentences of both sides, each source before its translations.

        Args:
            language_temperature: From 0.0 to 1.0. The default, 1.0, yields
                each sentence once. Lower values repeat the translations of
                language l, on average
                `(n_max / n_l) ** (1 - language_temperature)` times, to give
                small languages more weight.
            languages: Languages of the translations to yield; None (the
                default) for all. Source sentences are always yielded.

        Raises:
            InputError: If the set does not contain a language.
        """
        wanted = self._checked_languages(languages)
        largest = max((n for name, n in self.counts.items() if name in wanted), default=1)
        copies = {
            language: (largest / count) ** (1 - language_temperature)
            for language, count in self.counts.items()
            if language in wanted
        }
        owed = dict.fromkeys(copies, 0.0)
        for group, _ in self.records():
            yield group.source
            for language, translation in zip(group.languages, group.translations, strict=True):
                if language not in wanted:
                    continue
                owed[language] += copies[language]
                # The fraction is carried over: 1.5 copies are 1, 2, 1, 2, ...
                for _ in range(int(owed[language])):
                    yield translation
                owed[language] %= 1.0

    def _checked_languages(self, languages: Iterable[str] | None) -> set[str]:
        wanted = set(self.languages if languages is None else languages)
        known = {*self.languages, *self.source_languages}
        if not wanted or not wanted <= known:
            raise InputError(
                f"`languages` must be languages of the set: {sorted(known)}. "
                f"Received: {sorted(wanted - known) or 'none'}. Omit it for all languages."
            )
        return wanted

    def batches(
        self,
        batch_size: int,
        vocabulary: Vocabulary,
        *,
        sequence_length: int = 64,
        language_temperature: float = Recipe.language_temperature,
        seed: int = 0,
        shuffle_buffer_size: int = 65_536,
        bucket_boundaries: Sequence[int] | None = None,
        worker: int = 0,
        workers: int = 1,
    ) -> tf.data.Dataset:
        """Returns shuffled training batches for `Distiller.fit`.

        An epoch has `num_pairs // (batch_size * workers)` batches. Pairs of
        language l are drawn in proportion to
        `counts[l] ** language_temperature`: 1.0 draws each pair once, 0.0
        draws all languages equally often. Each iteration over the dataset is
        a new epoch; equal seeds give equal epochs.

        Args:
            batch_size: Number of pairs per batch, on this worker. All batches
                are full.
            vocabulary: Tokenizes both sides, in the graph.
            sequence_length: Maximum number of tokens per sentence, default
                64; longer sentences are truncated.
            language_temperature: From 0.0 to 1.0, default 0.5.
            seed: Seed of the order and of the draws.
            shuffle_buffer_size: Number of pairs in the shuffle buffer,
                default 65,536.
            bucket_boundaries: Permitted batch lengths in tokens, ascending.
                Default 8, 16, 32, … up to `sequence_length`.
            worker: Index of this worker, from 0.
            workers: Number of workers (machines) that train together, default
                1. They read disjoint files, which are reassigned every
                epoch.

        Returns:
            Dataset of `(x, y)`. `x` contains `source_token_ids`,
            `source_padding_mask`, `translation_token_ids` and
            `translation_padding_mask`, each `(batch_size, length)` int32,
            where `length` is that of the bucket, and `source_id`,
            `(batch_size,)` int64, equal for equal source sentences. `y`
            contains `embedding`, `(batch_size, embedding_dim)` float32.

        Raises:
            InputError: If an argument is out of range, the set has fewer
                pairs than a global batch or fewer shards than workers, or a
                shard is damaged.
        """
        config = PipelineConfig(
            batch_size=batch_size,
            sequence_length=sequence_length,
            language_temperature=language_temperature,
            seed=seed,
            shuffle_buffer_size=shuffle_buffer_size,
            bucket_boundaries=None if bucket_boundaries is None else tuple(bucket_boundaries),
            worker=worker,
            workers=workers,
        )
        # Otherwise a damaged shard would end the training within an epoch.
        if not self._verified:
            self.verify()
        return training_batches(self.shards, self.counts, self.embedding_dim, vocabulary, config)

    def __repr__(self) -> str:
        return (
            f"DistillationSet({str(self.folder)!r}, num_groups={self.num_groups}, "
            f"num_pairs={self.num_pairs}, languages={len(self.languages)})"
        )


def _rows(batch: dict[str, Any]) -> Iterator[tuple[SentenceGroup, np.ndarray]]:
    sources, languages = batch["source"].numpy(), batch["source_language"].numpy()
    translations = batch["translations"].to_list()
    translation_languages = batch["languages"].to_list()
    for row, data in enumerate(batch["embedding"].numpy()):
        group = SentenceGroup(
            sources[row].decode(),
            languages[row].decode(),
            tuple(text.decode() for text in translations[row]),
            tuple(language.decode() for language in translation_languages[row]),
        )
        yield group, np.frombuffer(data, "<f2").astype(np.float32)
