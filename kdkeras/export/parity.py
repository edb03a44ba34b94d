"""Compares every artifact with Keras in every language."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdkeras.errors import InputError
from kdkeras.evaluation import EmbeddingSimilarityEvaluator
from kdkeras.evaluation.metrics import retrieval_accuracy
from kdkeras.export.formats import MANIFEST, PARITY, ExportFormat
from kdkeras.export.gates import MIN_SIMILARITY_PAIRS, Gates, check_gates, failures
from kdkeras.export.manifest import read_manifest, write_json
from kdkeras.export.processes import WorkerResult, require_runtime, run_worker
from kdkeras.export.saved_model import float32_student
from kdkeras.files import atomic_write
from kdkeras.progress import Progress, no_progress
from kdkeras.vectors import cosine_by_row

if TYPE_CHECKING:
    from kdkeras.students import Student

__all__ = ["check_similarity", "verify"]

MEASURED = "measured"
"""Key in `export.json`, per artifact: the figures of the last verification."""
_MEASURED = ("cosine_mean", "cosine_min", "languages", "similarity")

Pairs = Mapping[str, tuple[Sequence[str], Sequence[str]]]


def verify(
    folder: str | os.PathLike[str],
    student: Student,
    pairs: Pairs,
    gates: Gates | None = None,
    enforce: bool = True,
    similarity: Sequence[EmbeddingSimilarityEvaluator] = (),
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Loads every artifact in a fresh process and compares it with Keras.

    Each process embeds the held-out sentences of all languages from their
    strings, so that the comparison includes tokenizer, truncation and padding.
    The result is written to `parity.json` in the folder, and the cosines and
    accuracies of each artifact to `export.json`, under `measured`.

    Args:
        folder: A folder that `export_student` wrote.
        student: The student that was exported.
        pairs: Language to `(foreign sentences, English sentences)`. Both lists
            have the same length; sentences at the same position are translations.
        gates: Quality gates. Defaults to `Gates()`.
        enforce: Whether to raise an error if a gate fails; `parity.json` is
            written before. Defaults to True.
        similarity: STS evaluators (`EmbeddingSimilarityEvaluator.from_tsv`) with at
            least 100 pairs each. The gates bound how much correlation an artifact
            may lose. Optional.
        progress: A function that is called as `progress(task, done, total)`,
            counting models: Keras and every artifact. Defaults to no reporting.

    Returns:
        A dictionary:

        ```
        {"name": str, "gates": {...}, "num_sentences": int,
         "passed": bool, "failures": [str],
         "keras": {"languages": {language: {"num_pairs", "accuracy"}},
                   "similarity": {name: {"num_pairs", "spearman"}}},
         "artifacts": {format: {"path", "bytes", "load_seconds", "latency_ms",
             "peak_memory_mb", "imported", "cosine_mean", "cosine_min", "languages":
             {language: {"num_pairs", "cosine_mean", "cosine_min", "accuracy",
                         "accuracy_change_points"}},
             "similarity": {name: {"num_pairs", "cosine_mean", "cosine_min",
                         "spearman", "spearman_change_points"}}}}}
        ```

        `accuracy` is the fraction of sentences, in [0, 1], whose translation is
        the nearest candidate, averaged over both directions. Changes are the
        artifact's figure minus that of Keras, in percentage points (for
        Spearman's correlation: times 100).

    Raises:
        InputError: If the folder is not an exported one or contains the export
            of another student, a language has no pairs, or there are too few
            STS pairs.
        MissingExtraError: If the runtime of an artifact is not installed.
        GateError: If an artifact cannot be run or, with `enforce`, fails a gate.
            The message names artifact, language and figure.

    Example:
        >>> parity = verify("out", student, {"de": (german, english)})  # doctest: +SKIP
        >>> parity["artifacts"]["tflite_int8"]["cosine_mean"]  # doctest: +SKIP
        0.9998
    """
    folder, gates = Path(folder), gates or Gates()
    manifest = read_manifest(folder)
    _check_input(manifest, student, pairs, folder)
    for name, record in manifest["artifacts"].items():
        require_runtime(ExportFormat(name), record["path"])
    check_similarity(similarity)
    sides_of_all = [*pairs.values(), *((s.sentences1, s.sentences2) for s in similarity)]
    texts = list(dict.fromkeys(t for sides in sides_of_all for side in sides for t in side))
    total = 1 + len(manifest["artifacts"])
    progress("Verifying, Keras", 0, total)
    rows = {text: row for row, text in enumerate(texts)}
    expected = float32_student(student).encode(texts)
    artifacts = {}
    for done, (name, record) in enumerate(manifest["artifacts"].items(), 1):
        progress(f"Verifying, {record['path']}", done, total)
        result = run_worker(folder, ExportFormat(name), texts)
        record.pop(MEASURED, None)  # Figures of an earlier verification.
        artifacts[name] = {**record, **_compare(result, expected, rows, pairs, similarity)}
    progress("Verifying", total, total)
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
    """Checks that there are enough STS pairs and that names are unique.

    Raises:
        InputError: If an evaluator has fewer than 100 pairs, or a name occurs
            twice.
    """
    names = [item.name for item in similarity]
    for item in similarity:
        if len(item.scores) < MIN_SIMILARITY_PAIRS:
            raise InputError(
                f"Every STS evaluator must have at least {MIN_SIMILARITY_PAIRS} pairs. Received: "
                f"{len(item.scores)} in {item.name}. Add pairs, or omit this evaluator."
            )
        if names.count(item.name) > 1:
            raise InputError(
                f"STS evaluators must have unique names. Received: {item.name} twice. Rename one."
            )


def _check_input(manifest: Mapping[str, Any], student: Student, pairs: Pairs, folder: Path) -> None:
    fingerprint = student.vocabulary.fingerprint if student.vocabulary else None
    if fingerprint != manifest["vocabulary"]["fingerprint"]:
        raise InputError(
            "The folder must contain the export of this student. "
            f"Received: another vocabulary in {folder}. Export the student again."
        )
    wrong = [
        language
        for language, (foreign, english) in pairs.items()
        if not foreign or len(foreign) != len(english)
    ]
    if wrong or not pairs:
        raise InputError(
            "`pairs` must have at least one language, and every language at least one pair and as "
            f"many foreign as English sentences. Received: {wrong or 'no language'}. Add pairs."
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
    selected = cosines[[rows[text] for side in sides for text in side]]
    return {"cosine_mean": float(selected.mean()), "cosine_min": float(selected.min())}


def _spearman(
    embeddings: np.ndarray, rows: Mapping[str, int], item: EmbeddingSimilarityEvaluator
) -> float:
    """Returns Spearman's correlation of cosines and scores; NaN if it is undefined."""
    sides = (item.sentences1, item.sentences2)
    try:
        return item.correlation(*(embeddings[[rows[text] for text in side]] for side in sides))
    except InputError:
        return float("nan")


def _accuracy(
    embeddings: np.ndarray, rows: Mapping[str, int], sides: tuple[Sequence[str], Sequence[str]]
) -> float:
    """Returns the retrieval accuracy of one language, averaged over both directions."""
    foreign, english = (embeddings[[rows[text] for text in side]] for side in sides)
    return retrieval_accuracy(foreign, english, *sides).mean


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the cosine per row in float64; 1 for two zero vectors, 0 for only one."""
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero, 1.0, cosine_by_row(a.astype(np.float64), b.astype(np.float64)))
