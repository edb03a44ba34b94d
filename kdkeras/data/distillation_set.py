"""A distillation set on disk: sentences, translations, teacher embeddings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdkeras.config import LANGUAGE_TEMPERATURE
from kdkeras.data.corpus import SentenceGroup
from kdkeras.data.shards import file_sha256, read_shard
from kdkeras.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["FORMAT", "MANIFEST", "PARTIAL_MANIFEST", "DistillationSet"]

FORMAT = 1
MANIFEST = "manifest.json"
PARTIAL_MANIFEST = "manifest.partial.json"


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file() and (folder / PARTIAL_MANIFEST).is_file():
        raise InputError(
            f"A distillation set must be complete. Received: {folder}, whose writing was "
            "interrupted. Run the same command (kdkeras targets) again: it goes on where it was."
        )
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise KeyError(f"format {manifest['format']}")
        for key in ("teacher", "corpus", "shards"):
            manifest[key]
    except OSError as error:
        raise InputError(
            f"A distillation set is a folder with `{MANIFEST}`. Received: {folder} "
            f"({error.strerror}). Write one with kdkeras targets or write_distillation_set()."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"`{MANIFEST}` must be the manifest of a distillation set of format {FORMAT}. "
            f"Received: {path} ({error}). Write the set again."
        ) from error
    return manifest


class DistillationSet:
    """Sentences with their translations and what a teacher said of them.

    Nothing but the manifest is held in memory. Opening checks that each shard
    is there with its size; `verify` compares the hashes.

    Args:
        folder: A folder that `write_distillation_set` wrote.

    Attributes:
        folder: Where it is.
        teacher: `name` and `fingerprint` of the teacher.
        embedding_dim: Width of the teacher's embeddings.
        normalized: Whether they have unit norm.
        num_groups: Number of source sentences.
        num_pairs: Number of pairs of source sentence and translation.
        counts: Pairs by language of the translation.
        languages: Those languages, sorted.
        source_languages: Languages of the source sentences, sorted.
        manifest: The whole manifest.

    Raises:
        InputError: If the set is incomplete, or a shard is missing or
            truncated (named).

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
        """The shard files in order."""
        return [self.folder / Path(shard["name"]).name for shard in self.manifest["shards"]]

    def _check_sizes(self) -> None:
        for path, shard in zip(self.shards, self.manifest["shards"], strict=True):
            found = path.stat().st_size if path.is_file() else None
            if found != shard["bytes"]:
                state = "missing" if found is None else f"{found} bytes"
                raise InputError(
                    f"A shard must be whole. Received: {path} ({state}, expected "
                    f"{shard['bytes']} bytes). Copy the shard again, or delete the folder and "
                    "write the set again."
                )

    def verify(self) -> None:
        """Compares every shard with the hash in the manifest.

        Raises:
            InputError: If one differs, with its name.
        """
        for path, shard in zip(self.shards, self.manifest["shards"], strict=True):
            found = file_sha256(path)
            if found != shard["sha256"]:
                raise InputError(
                    f"A shard must be the one that was written. Received: {path} with SHA-256 "
                    f"{found[:12]}…, expected {shard['sha256'][:12]}…. Copy the shard again, or "
                    "delete the folder and write the set again."
                )
        self._verified = True

    def records(self) -> Iterator[tuple[SentenceGroup, np.ndarray]]:
        """Yields each group with its teacher embedding, `(embedding_dim,)` float32.

        Raises:
            InputError: If a shard is damaged, with its name.
        """
        for path in self.shards:
            for batch in read_shard(path):
                yield from _rows(batch)

    def sentences(
        self, language_temperature: float = 1.0, languages: Iterable[str] | None = None
    ) -> Iterator[str]:
        """Yields the sentences of both sides, a source before its translations.

        Args:
            language_temperature: 1.0 yields each sentence once. Below it, the
                sentences of language l are repeated, on average
                `(n_max / n_l) ** (1 - language_temperature)` times, so that
                what is learned from them does not forget small languages.
            languages: Languages of the translations; None (the default) for all.
                Sources come in any case.

        Raises:
            InputError: If the set does not have a language.
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
                # Fractions are carried over: 1.5 copies are 1, 2, 1, 2, ...
                for _ in range(int(owed[language])):
                    yield translation
                owed[language] %= 1.0

    def _checked_languages(self, languages: Iterable[str] | None) -> set[str]:
        wanted = set(self.languages if languages is None else languages)
        known = {*self.languages, *self.source_languages}
        if not wanted or not wanted <= known:
            raise InputError(
                f"`languages` must be of {sorted(known)}, which the set has. "
                f"Received: {sorted(wanted - known) or 'none'}. Leave it out for all."
            )
        return wanted

    def batches(
        self,
        batch_size: int,
        vocabulary: Vocabulary,
        *,
        sequence_length: int = 64,
        language_temperature: float = LANGUAGE_TEMPERATURE,
        seed: int = 0,
        shuffle: int = 65_536,
        bucket_boundaries: Sequence[int] | None = None,
        worker: int = 0,
        workers: int = 1,
    ) -> tf.data.Dataset:
        """Gives shuffled training batches, for `model.fit`.

        A pass draws `num_pairs // batch_size` batches. Language l is drawn in
        proportion to `counts[l] ** language_temperature`: 1.0 takes every
        pair once, 0.0 all languages equally often. Iterating again gives the
        next pass; the same seed gives the same passes.

        Args:
            batch_size: Pairs in a batch; each batch has exactly as many.
            vocabulary: Tokenizes both sides, in the graph.
            sequence_length: Longest row in tokens, default 64; longer texts
                are cut.
            language_temperature: From 0.0 to 1.0, default 0.5.
            seed: Seed of order and draws.
            shuffle: Pairs in the shuffle buffer, default 65,536.
            bucket_boundaries: Row lengths allowed, in tokens. Default 8, 16,
                32, … up to `sequence_length`.
            worker: This worker's number, from 0; `batch_size` is its own.
            workers: Machines that train together, each on files of its own:
                every pass deals them out anew, so that two workers never read
                the same file in the same pass.

        Returns:
            Dataset of `(x, y)`. x holds `source_token_ids`,
            `source_padding_mask`, `translation_token_ids`,
            `translation_padding_mask`, each `(batch_size, length)` int32 with
            one bucket's length, and `source_id` `(batch_size,)` int64, equal
            for equal source sentences; y holds `embedding`
            `(batch_size, embedding_dim)` float32.

        Raises:
            InputError: If an argument is out of its range, the set has fewer
                pairs than `batch_size` or fewer shards than workers, or a
                shard is damaged.
        """
        from kdkeras.data.pipeline import PipelineConfig, training_batches

        config = PipelineConfig(
            batch_size=batch_size,
            sequence_length=sequence_length,
            language_temperature=language_temperature,
            seed=seed,
            shuffle=shuffle,
            bucket_boundaries=None if bucket_boundaries is None else tuple(bucket_boundaries),
            worker=worker,
            workers=workers,
        )
        # A damaged shard would otherwise end the training somewhere inside it.
        if not self._verified:
            self.verify()
        return training_batches(self, vocabulary, config)

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
