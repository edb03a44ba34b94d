"""Writing a distillation set: the teacher runs once, and a kill loses little."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdkeras.data.corpus import SentenceGroup, read_corpus, without_excluded
from kdkeras.data.corpus_files import CorpusPath
from kdkeras.data.distillation_set import FORMAT, MANIFEST, PARTIAL_MANIFEST, DistillationSet
from kdkeras.data.shards import count_records, file_sha256, shard_name, write_shard
from kdkeras.errors import InputError
from kdkeras.files import atomic_write

__all__ = ["SentenceTeacher", "write_distillation_set"]

Progress = Callable[[int, int], None]


class SentenceTeacher(Protocol):
    """What writing targets asks of a teacher."""

    name: str
    fingerprint: str
    embedding_dim: int
    normalized: bool

    def encode(
        self, texts: Sequence[str], batch_size: int = 64, progress: Progress | None = None
    ) -> np.ndarray:
        """Returns `(len(texts), embedding_dim)` float32."""


def _order(groups: Iterable[SentenceGroup]) -> list[SentenceGroup]:
    """A pseudo-random order that depends on the sentences alone."""
    return sorted(
        groups,
        key=lambda g: hashlib.blake2b(f"{g.source_language}\t{g.source}".encode()).digest(),
    )


def _describe_corpus(groups: list[SentenceGroup]) -> dict[str, Any]:
    digest = hashlib.sha256()
    counts: Counter[str] = Counter()
    for group in groups:
        row = [group.source_language, group.source, *group.languages, *group.translations]
        digest.update(json.dumps(row).encode())
        counts.update(group.languages)
    return {
        "fingerprint": digest.hexdigest(),
        "num_groups": len(groups),
        "num_pairs": sum(counts.values()),
        "counts": dict(sorted(counts.items())),
        "source_languages": sorted({group.source_language for group in groups}),
    }


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What will be written: recorded at the start, compared when resuming."""

    teacher: dict[str, Any]
    corpus: dict[str, Any]
    groups_per_shard: int

    def header(self) -> dict[str, Any]:
        return {"format": FORMAT, "dtype": "float16", **dataclasses.asdict(self)}

    def check_same(self, found: dict[str, Any], folder: Path) -> None:
        theirs, ours = found.get("teacher", {}), self.teacher
        if theirs.get("fingerprint") != ours["fingerprint"]:
            raise InputError(
                "All targets of a set must come from one teacher. "
                f"Received: {folder} with targets by {theirs.get('name')} "
                f"({str(theirs.get('fingerprint'))[:12]}…), and the teacher {ours['name']} "
                f"({ours['fingerprint'][:12]}…). Choose another folder, or pass overwrite=True "
                "(--overwrite)."
            )
        corpus, new = found.get("corpus", {}).get("fingerprint"), self.corpus["fingerprint"]
        if corpus != new:
            raise InputError(
                "A set is written from one corpus. "
                f"Received: {folder} of the corpus {str(corpus)[:12]}…, and the corpus "
                f"{new[:12]}…. Choose another folder, or pass overwrite=True (--overwrite)."
            )


def _read_json(path: Path) -> dict[str, Any] | None:
    """The manifest, or None if there is none that could be gone on from."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise InputError(
            f"The output folder must be readable. Received: {path} ({error.strerror}). "
            "Choose another folder."
        ) from error
    return content if isinstance(content, dict) else None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _clear(folder: Path) -> None:
    """Removes a set's own files; the manifest first, so no half set looks whole."""
    names = [folder / MANIFEST, folder / PARTIAL_MANIFEST]
    for path in [*names, *folder.glob("shard-*.tfrecord"), *folder.glob(".shard-*.partial")]:
        path.unlink(missing_ok=True)


def _prepare(folder: Path, plan: _Plan, overwrite: bool) -> bool:
    """Makes the folder ready; returns whether the set is already there."""
    finished = _read_json(folder / MANIFEST)
    begun = _read_json(folder / PARTIAL_MANIFEST)
    if overwrite:
        _clear(folder)
    elif finished is not None:
        plan.check_same(finished, folder)
        return True
    elif begun is not None:
        plan.check_same(begun, folder)
        if begun.get("groups_per_shard") != plan.groups_per_shard:
            raise InputError(
                "Going on needs the same `groups_per_shard`. Received: "
                f"groups_per_shard={plan.groups_per_shard}, begun with "
                f"{begun.get('groups_per_shard')}. Pass that, or overwrite=True (--overwrite)."
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            "A distillation set needs a folder of its own, new or empty. "
            f"Received: {folder}. Choose another folder, or pass overwrite=True (--overwrite)."
        )
    _write_json(folder / PARTIAL_MANIFEST, plan.header())
    return False


def _is_whole(path: Path, records: int) -> bool:
    try:
        return path.is_file() and count_records(path) == records
    except InputError:
        # A damaged shard of an interrupted run is simply written again.
        return False


def _encode(
    teacher: SentenceTeacher, groups: list[SentenceGroup], batch_size: int, progress: Progress
) -> np.ndarray:
    texts = [group.source for group in groups]
    vectors = np.asarray(teacher.encode(texts, batch_size=batch_size, progress=progress))
    expected = (len(groups), teacher.embedding_dim)
    with np.errstate(over="ignore"):  # what overflows is refused below
        stored = vectors.astype(np.float16)
    if vectors.shape != expected or not np.isfinite(stored).all():
        bad = "" if vectors.shape != expected else ", not all finite in float16"
        raise InputError(
            f"The teacher must give finite embeddings of shape {expected}. "
            f"Received: shape {vectors.shape}{bad} from {teacher.name}. Use another teacher."
        )
    return stored


def _groups(
    files_or_groups: Any, exclude: Iterable[Any], max_characters: int, min_pairs: int
) -> tuple[list[SentenceGroup], dict[str, Any] | None]:
    given = files_or_groups
    if isinstance(given, Sequence) and given and isinstance(given[0], SentenceGroup):
        return _order(without_excluded(given, exclude)), None
    groups, report = read_corpus(
        given, exclude=exclude, max_characters=max_characters, min_pairs=min_pairs
    )
    return _order(groups), report.to_dict()


def write_distillation_set(
    files_or_groups: CorpusPath | Sequence[CorpusPath] | Sequence[SentenceGroup],
    teacher: SentenceTeacher,
    folder: str | os.PathLike[str],
    *,
    groups_per_shard: int = 4096,
    batch_size: int = 64,
    exclude: Iterable[str | os.PathLike[str]] = (),
    max_characters: int = 1000,
    min_pairs: int = 10,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DistillationSet:
    """Lets a teacher read each source sentence once and keeps what it says.

    A run that was interrupted, even by `kill -9`, goes on when called again
    with the same arguments: finished shards are kept. The files written are
    the same, byte for byte, however often it was interrupted.

    Args:
        files_or_groups: Corpus files as `read_corpus` takes them, or groups.
        teacher: From `kdkeras.teachers.load`, or a `CachedTeacher`.
        folder: Where the set goes; new or empty, or begun before.
        groups_per_shard: Source sentences in a file, default 4,096.
        batch_size: Sentences the teacher reads at once, default 64.
        exclude: Test sets whose sentences must not occur; see `read_corpus`.
        max_characters: Longest sentence kept, in characters (files only).
        min_pairs: Fewest pairs a language may have (files only).
        overwrite: Whether to replace a set that is there.
        progress: Called as `progress(done, total)`, in source sentences.

    Returns:
        The set, opened.

    Raises:
        InputError: If the corpus is unusable, the folder holds something
            else, targets of another teacher or of another corpus, or the
            disk is full (finished shards stay and a second run goes on).
    """
    if groups_per_shard < 1:
        raise InputError(
            "`groups_per_shard` must be positive. "
            f"Received: groups_per_shard={groups_per_shard}. Use 4096."
        )
    folder = Path(folder)
    groups, report = _groups(files_or_groups, exclude, max_characters, min_pairs)
    keys = ("name", "fingerprint", "embedding_dim", "normalized")
    described = {key: getattr(teacher, key) for key in keys}
    plan = _Plan(described, _describe_corpus(groups), groups_per_shard)
    if _prepare(folder, plan, overwrite):
        return DistillationSet(folder)
    shards = _write_shards(groups, teacher, folder, groups_per_shard, batch_size, progress)
    _write_json(folder / MANIFEST, {**plan.header(), "report": report, "shards": shards})
    (folder / PARTIAL_MANIFEST).unlink()
    return DistillationSet(folder)


def _write_shards(
    groups: list[SentenceGroup],
    teacher: SentenceTeacher,
    folder: Path,
    groups_per_shard: int,
    batch_size: int,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    shards = []
    for number, start in enumerate(range(0, len(groups), groups_per_shard)):
        part = groups[start : start + groups_per_shard]
        path = folder / shard_name(number)

        def report(done: int, _: int, start: int = start) -> None:
            if progress is not None:
                progress(start + done, len(groups))

        if not _is_whole(path, len(part)):
            write_shard(path, part, _encode(teacher, part, batch_size, report))
        report(len(part), len(part))
        shards.append(
            {
                "name": path.name,
                "records": len(part),
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
        )
    return shards
