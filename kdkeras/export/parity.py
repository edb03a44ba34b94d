"""Comparing every artifact with Keras, language by language."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdkeras.errors import InputError
from kdkeras.evaluation import EmbeddingSimilarityEvaluator
from kdkeras.evaluation.metrics import cosine_by_row, retrieval_accuracy
from kdkeras.export.extras import require_runtime
from kdkeras.export.formats import MANIFEST, PARITY, ExportFormat
from kdkeras.export.gates import LEAST_SIMILARITY_PAIRS, Gates, check_gates, failures
from kdkeras.export.manifest import read_manifest, write_json
from kdkeras.export.processes import WorkerResult, run_worker
from kdkeras.export.serving import float32_student
from kdkeras.files import atomic_write

if TYPE_CHECKING:
    from kdkeras.students import Student

__all__ = ["check_similarity", "verify"]

MEASURED = "measured"
"""Of an artifact in `export.json`: the figures of the last verification."""
_MEASURED = ("cosine_mean", "cosine_min", "languages", "similarity")

Pairs = Mapping[str, tuple[Sequence[str], Sequence[str]]]


def verify(
    folder: str | os.PathLike[str],
    student: Student,
    pairs: Pairs,
    gates: Gates | None = None,
    enforce: bool = True,
    similarity: Sequence[EmbeddingSimilarityEvaluator] = (),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Reloads every artifact in a fresh process and compares it with Keras.

    Each process embeds the held-out sentences of every language from their
    strings, so that tokenizer, truncation and padding are compared too.
    Writes the result to `parity.json` in the folder, and cosines and accuracy
    of each artifact to `export.json`, as `measured`.

    Args:
        folder: What `export` wrote.
        student: The student that was exported.
        pairs: Language to `(foreign sentences, English sentences)`, row by row
            translations.
        gates: Bounds; the defaults if None.
        enforce: Whether a failed gate raises (after `parity.json` is written).
        similarity: STS evaluators (`EmbeddingSimilarityEvaluator.from_tsv`), at least
            `LEAST_SIMILARITY_PAIRS` each, of which no artifact may lose what
            the gates forbid.
        progress: Called with one line at each step.

    Returns:
        ```
        {"gates": {...}, "num_sentences": int, "passed": bool, "failures": [str],
         "keras": {"languages": {lang: {"num_pairs", "accuracy"}}},
         "artifacts": {format: {"path", "bytes", "load_seconds", "latency_ms",
             "peak_memory_mb", "imported", "cosine_mean", "cosine_min", "languages":
             {lang: {"num_pairs", "cosine_mean", "cosine_min", "accuracy",
                     "accuracy_change_points"}},
             "similarity": {name: {"num_pairs", "cosine_mean", "cosine_min",
                     "spearman", "spearman_change_points"}}}}}
        ```
        `keras` has `similarity`, too, with `num_pairs` and `spearman`.
        An accuracy is the share of sentences, in [0, 1], whose translation is
        the nearest of all, mean of both directions; changes are in percentage
        points (of Spearman's correlation, times 100), artifact less Keras.

    Raises:
        InputError: If the folder is not an exported one, it holds another
            student's export, a language has no pairs, or there are too few
            STS pairs.
        MissingExtraError: If the runtime of an artifact is not installed.
        GateError: If an artifact does not run, or (with `enforce`) fails a
            gate: artifact, language and figure are named.
    """
    folder, gates, say = Path(folder), gates or Gates(), progress or (lambda line: None)
    manifest = read_manifest(folder)
    _check_input(manifest, student, pairs, folder)
    for name, record in manifest["artifacts"].items():
        require_runtime(ExportFormat(name), record["path"])
    check_similarity(similarity)
    sides_of_all = [*pairs.values(), *((s.sentences1, s.sentences2) for s in similarity)]
    texts = list(dict.fromkeys(t for sides in sides_of_all for side in sides for t in side))
    say(f"Embedding {len(texts)} sentences with Keras")
    rows = {text: row for row, text in enumerate(texts)}
    expected = float32_student(student).encode(texts)
    artifacts = {}
    for name, record in manifest["artifacts"].items():
        say(f"Embedding them with {record['path']} in a fresh process")
        result = run_worker(folder, ExportFormat(name), texts)
        record.pop(MEASURED, None)  # of an earlier verification
        artifacts[name] = {**record, **_compare(result, expected, rows, pairs, similarity)}
    parity: dict[str, Any] = {
        "name": manifest["name"],
        "gates": gates.to_dict(),
        "num_sentences": len(texts),
        "keras": {
            "languages": {
                language: {
                    "num_pairs": len(sides[0]),
                    "accuracy": _accuracy(expected, rows, sides),
                }
                for language, sides in pairs.items()
            },
            "similarity": {
                item.name: {
                    "num_pairs": len(item.scores),
                    "spearman": _spearman(expected, rows, item),
                }
                for item in similarity
            },
        },
        "artifacts": artifacts,
    }
    parity["failures"] = failures(parity, gates)
    parity["passed"] = not parity["failures"]
    with atomic_write(folder / PARITY) as temporary:
        write_json(temporary, parity)
    for name, figures in artifacts.items():
        manifest["artifacts"][name][MEASURED] = {part: figures[part] for part in _MEASURED}
    with atomic_write(folder / MANIFEST) as temporary:
        write_json(temporary, manifest)
    if enforce:
        check_gates(parity)
    return parity


def check_similarity(similarity: Sequence[EmbeddingSimilarityEvaluator]) -> None:
    """Refuses STS pairs that are too few to decide, and names used twice.

    Raises:
        InputError: Naming the file's evaluator.
    """
    names = [item.name for item in similarity]
    for item in similarity:
        if len(item.scores) < LEAST_SIMILARITY_PAIRS:
            raise InputError(
                f"A gate needs at least {LEAST_SIMILARITY_PAIRS} STS pairs. Received: "
                f"{len(item.scores)} in {item.name}. Add pairs, or leave the file to "
                "`kdkeras evaluate`."
            )
        if names.count(item.name) > 1:
            raise InputError(
                f"STS files must have different names. Received: {item.name} twice. Rename one."
            )


def _check_input(manifest: Mapping[str, Any], student: Student, pairs: Pairs, folder: Path) -> None:
    fingerprint = student.vocabulary.fingerprint if student.vocabulary else None
    if fingerprint != manifest["vocabulary"]["fingerprint"]:
        raise InputError(
            "The folder must hold this student's export. "
            f"Received: another vocabulary in {folder}. Export the student again."
        )
    wrong = [
        language
        for language, (foreign, english) in pairs.items()
        if not foreign or len(foreign) != len(english)
    ]
    if wrong or not pairs:
        raise InputError(
            "`pairs` must give at least one language, each with as many foreign as English "
            f"sentences and at least one. Received: {wrong or 'no language'}."
        )


def _compare(
    result: WorkerResult,
    expected: np.ndarray,
    rows: Mapping[str, int],
    pairs: Pairs,
    similarity: Sequence[EmbeddingSimilarityEvaluator],
) -> dict[str, Any]:
    cosines = _cosines(expected, result.embeddings)
    languages = {}
    for language, sides in pairs.items():
        accuracy = _accuracy(result.embeddings, rows, sides)
        languages[language] = {
            "num_pairs": len(sides[0]),
            **_cosine_figures(cosines, rows, sides),
            "accuracy": accuracy,
            "accuracy_change_points": (accuracy - _accuracy(expected, rows, sides)) * 100.0,
        }
    correlations = {}
    for item in similarity:
        value = _spearman(result.embeddings, rows, item)
        correlations[item.name] = {
            "num_pairs": len(item.scores),
            **_cosine_figures(cosines, rows, (item.sentences1, item.sentences2)),
            "spearman": value,
            "spearman_change_points": (value - _spearman(expected, rows, item)) * 100.0,
        }
    return {
        "load_seconds": result.load_seconds,
        "latency_ms": result.latency_ms,
        "peak_memory_mb": result.peak_memory_mb,
        "imported": result.imported,
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "languages": languages,
        "similarity": correlations,
    }


def _cosine_figures(
    cosines: np.ndarray, rows: Mapping[str, int], sides: tuple[Sequence[str], Sequence[str]]
) -> dict[str, float]:
    mine = cosines[[rows[text] for side in sides for text in side]]
    return {"cosine_mean": float(mine.mean()), "cosine_min": float(mine.min())}


def _spearman(
    embeddings: np.ndarray, rows: Mapping[str, int], item: EmbeddingSimilarityEvaluator
) -> float:
    """Spearman's correlation of cosines and scores; NaN for a broken artifact."""
    sides = (item.sentences1, item.sentences2)
    try:
        return item.correlation(*(embeddings[[rows[text] for text in side]] for side in sides))
    except InputError:
        return float("nan")


def _accuracy(
    embeddings: np.ndarray, rows: Mapping[str, int], sides: tuple[Sequence[str], Sequence[str]]
) -> float:
    """Retrieval accuracy of one language, mean of both directions."""
    foreign, english = (embeddings[[rows[text] for text in side]] for side in sides)
    return retrieval_accuracy(foreign, english, *sides).mean


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row in float64; 1 for two zero vectors, 0 for one."""
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero, 1.0, cosine_by_row(a.astype(np.float64), b.astype(np.float64)))
