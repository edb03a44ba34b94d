"""Writing a distillation set, resumable after an interruption."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdkeras.data.corpus import SentenceGroup, read_corpus, without_excluded
from kdkeras.data.corpus_files import CorpusPath
from kdkeras.data.distillation_set import FORMAT, MANIFEST, PARTIAL_MANIFEST, DistillationSet
from kdkeras.data.shards import count_records, file_sha256, shard_name, write_shard
from kdkeras.errors import InputError
from kdkeras.files import atomic_write
from kdkeras.progress import Progress, no_progress

__all__ = ["SentenceTeacher", "write_distillation_set"]

TASK = "Embedding sentences with the teacher"


class SentenceTeacher(Protocol):
    """The interface of a teacher that `write_distillation_set` needs."""

    name: str
    fingerprint: str
    embedding_dim: int
    normalized: bool

    def encode(
        self, texts: Sequence[str], batch_size: int = 64, progress: Progress = no_progress
    ) -> np.ndarray:
        """Returns `(len(texts), embedding_dim)` float32."""


def _order(groups: Iterable[SentenceGroup]) -> list[SentenceGroup]:
    """Returns the groups in a pseudo-random order that depends only on the sentences."""
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
    """The contents of a set: recorded at the start, compared when resuming."""

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
                f"Received: {folder} with targets of {theirs.get('name')} "
                f"({str(theirs.get('fingerprint'))[:12]}…), and the teacher {ours['name']} "
                f"({ours['fingerprint'][:12]}…). Choose another folder, or pass overwrite=True."
            )
        corpus, new = found.get("corpus", {}).get("fingerprint"), self.corpus["fingerprint"]
        if corpus != new:
            raise InputError(
                "All sentences of a set must come from one corpus. "
                f"Received: {folder} with the corpus {str(corpus)[:12]}…, and the corpus "
                f"{new[:12]}…. Choose another folder, or pass overwrite=True."
            )


def _read_json(path: Path) -> dict[str, Any] | None:
    """Returns the manifest, or None if there is no usable one."""
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
    """Removes the files of a set; the manifest first, so that no rest looks complete."""
    names = [folder / MANIFEST, folder / PARTIAL_MANIFEST]
    for path in [*names, *folder.glob("shard-*.tfrecord"), *folder.glob(".shard-*.partial")]:
        path.unlink(missing_ok=True)


def _prepare(folder: Path, plan: _Plan, overwrite: bool) -> bool:
    """Prepares the folder; returns whether the set is already complete."""
    complete = _read_json(folder / MANIFEST)
    partial = _read_json(folder / PARTIAL_MANIFEST)
    if overwrite:
        _clear(folder)
    elif complete is not None:
        plan.check_same(complete, folder)
        return True
    elif partial is not None:
        plan.check_same(partial, folder)
        if partial.get("groups_per_shard") != plan.groups_per_shard:
            raise InputError(
                "`groups_per_shard` must not change when a set is resumed. Received: "
                f"groups_per_shard={plan.groups_per_shard}, started with "
                f"{partial.get('groups_per_shard')}. Pass the latter, or overwrite=True."
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            "The folder of a distillation set must be new or empty. "
            f"Received: {folder}. Choose another folder, or pass overwrite=True."
        )
    _write_json(folder / PARTIAL_MANIFEST, plan.header())
    return False


def _is_complete(path: Path, records: int) -> bool:
    try:
        return path.is_file() and count_records(path) == records
    except InputError:
        # A damaged shard of an interrupted run is written again.
        return False


def _encode(
    teacher: SentenceTeacher, groups: list[SentenceGroup], batch_size: int, progress: Progress
) -> np.ndarray:
    texts = [group.source for group in groups]
    vectors = np.asarray(teacher.encode(texts, batch_size=batch_size, progress=progress))
    expected = (len(groups), teacher.embedding_dim)
    with np.errstate(over="ignore"):  # overflow is rejected below
        stored = vectors.astype(np.float16)
    if vectors.shape != expected or not np.isfinite(stored).all():
        bad = "" if vectors.shape != expected else ", not all finite in float16"
        raise InputError(
            f"The teacher must return finite embeddings of shape {expected}. "
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
    progress: Progress = no_progress,
) -> DistillationSet:
    """Embeds each source sentence with a teacher and caches the embeddings.

    An interrupted call, even by `kill -9`, resumes when repeated with the same
    arguments: complete shards are kept. The resulting files are identical,
    byte for byte, to those of an uninterrupted call.

    Args:
        files_or_groups: Corpus files, as for `read_corpus`, or a list of
            `SentenceGroup`.
        teacher: A teacher of `kdkeras.teachers.load`, or a `CachedTeacher`.
        folder: Folder of the set: new, empty, or of an interrupted call.
        groups_per_shard: Number of source sentences per file, default 4,096.
        batch_size: Number of sentences that the teacher embeds at once,
            default 64.
        exclude: Test sets whose sentences are removed; see `read_corpus`.
        max_characters: Maximum length of a sentence in characters, default
            1000. For files only.
        min_pairs: Minimum number of pairs per language, default 10. For files
            only.
        overwrite: Whether to replace an existing set.
        progress: Called as `progress(task, done, total)`, in source sentences.

    Returns:
        The complete set.

    Raises:
        InputError: If the corpus cannot be used, the folder contains other
            files, or targets of another teacher or corpus, or the disk is
            full (complete shards are kept).
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
    progress: Progress,
) -> list[dict[str, Any]]:
    shards = []
    progress(TASK, 0, len(groups))
    for number, start in enumerate(range(0, len(groups), groups_per_shard)):
        part = groups[start : start + groups_per_shard]
        path = folder / shard_name(number)

        def report(task: str, done: int, total: int, start: int = start) -> None:
            progress(TASK, start + done, len(groups))

        if not _is_complete(path, len(part)):
            write_shard(path, part, _encode(teacher, part, batch_size, report))
        progress(TASK, start + len(part), len(groups))
        shards.append(
            {
                "name": path.name,
                "records": len(part),
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
        )
    return shards
