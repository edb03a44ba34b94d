"""Writes the model card: architecture, quality, usage, limits and training data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdkeras.export.formats import ExportFormat
from kdkeras.export.manifest import read_manifest
from kdkeras.export.wording import language_name, value_text
from kdkeras.files import atomic_write

__all__ = ["MODEL_CARD", "TrainingData", "write_model_card"]

MODEL_CARD = "MODEL_CARD.md"


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """A source of training sentences, for the model card.

    Attributes:
        name: Short name, e.g. `"tatoeba"`.
        description: One sentence about the contents and the amount that was used.
        license: Its license.
        attribution: The required attribution, as Markdown with links.

    Example:
        >>> data = TrainingData(
        ...     name="tatoeba",
        ...     description="9,000 pairs of everyday sentences.",
        ...     license="CC BY 2.0 FR",
        ...     attribution="The contributors of [tatoeba.org](https://tatoeba.org).",
        ... )
    """

    name: str
    description: str
    license: str
    attribution: str


def write_model_card(
    artifacts: str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    teacher: str,
    license: str,  # noqa: A002  (the name in the front matter)
    training_data: Sequence[TrainingData],
    accuracy: Mapping[str, Mapping[str, float]] | None = None,
    parity: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `MODEL_CARD.md`, replacing an existing one.

    The card starts with the front matter of the Hugging Face Hub.

    Args:
        artifacts: A folder that `export_student` wrote.
        folder: Folder for the card. Defaults to `artifacts`.
        teacher: Name of the teacher, e.g.
            `"sentence-transformers/all-MiniLM-L6-v2"`.
        license: SPDX identifier of the student's license, e.g. `"apache-2.0"`.
        training_data: The sources of the training sentences.
        accuracy: Name of a model (`"untrained"`, `"trained"`, `"teacher"`) to
            language to retrieval accuracy in [0, 1]. Optional.
        parity: The result of `verify`. Optional.
        details: Training settings by name. Optional.

    Returns:
        The path of the card.

    Raises:
        InputError: If `artifacts` is not an exported folder, or the card cannot
            be written.

    Example:
        >>> write_model_card(  # doctest: +SKIP
        ...     "out", teacher="my/teacher", license="apache-2.0", training_data=[data]
        ... )
    """
    artifacts = Path(artifacts)
    manifest = read_manifest(artifacts)
    accuracy = accuracy or {}
    # English is one side of every held-out pair.
    languages = sorted({"en", *(code for values in accuracy.values() for code in values)})
    parts = [
        _front_matter(manifest, teacher, license, training_data, languages, accuracy),
        _introduction(manifest, teacher, languages),
        _quality(accuracy, languages),
        _artifacts(manifest, parity),
        _by_language(parity),
        _usage(manifest),
        _limits(manifest, accuracy),
        _training(teacher, training_data, details or {}),
    ]
    path = Path(folder or artifacts) / MODEL_CARD
    with atomic_write(path) as temporary:
        temporary.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")
    return path


def _front_matter(
    manifest: Mapping[str, Any],
    teacher: str,
    spdx: str,
    training_data: Sequence[TrainingData],
    languages: Sequence[str],
    accuracy: Mapping[str, Mapping[str, float]],
) -> str:
    def block(name: str, values: Sequence[str]) -> list[str]:
        # JSON strings are YAML strings. Without quotes, "no" (Norwegian) would be false.
        return [f"{name}:", *(f"- {json.dumps(value, ensure_ascii=False)}" for value in values)]

    lines = ["---", f"license: {json.dumps(spdx)}", *block("language", languages)]
    lines += ["library_name: keras", "pipeline_tag: sentence-similarity"]
    lines += block("base_model", [teacher]) if "/" in teacher else []
    lines += block("datasets", [data.name for data in training_data])
    tags = ["sentence-similarity", "feature-extraction", "multilingual", "knowledge-distillation"]
    lines += block("tags", [*tags, "kdkeras", "tflite", "litert"])
    lines += ["metrics:", "- accuracy"]
    if trained := accuracy.get("trained"):
        mean = sum(trained.values()) / len(trained)
        lines += [
            "model-index:",
            f"- name: {json.dumps(manifest['name'])}",
            "  results:",
            "  - task: {type: sentence-similarity, name: Bitext retrieval}",
            "    dataset: {type: held-out, name: Held-out translation pairs}",
            "    metrics:",
            f"    - {{type: accuracy, value: {mean:.4f}, name: Mean of {len(trained)} languages}}",
        ]
    return "\n".join([*lines, "---"])


def _introduction(manifest: Mapping[str, Any], teacher: str, languages: Sequence[str]) -> str:
    student = manifest["student"]
    length = "normalized to length 1" if manifest["normalized"] else "not normalized"
    names = ", ".join(language_name(code) for code in languages)
    return f"""# {manifest["name"]}

A multilingual sentence encoder small enough for a phone, distilled from
`{teacher}`. Sentences with the same meaning, in the same or in different
languages, have embeddings with a high cosine similarity.

| | |
|---|---|
| Architecture | {student["class"]}, {student["num_parameters"]:,} parameters |
| Embedding | {manifest["embedding_dim"]} dimensions, float32, {length} |
| Input | up to {manifest["sequence_length"]} tokens; longer text is truncated |
| Vocabulary | {manifest["vocabulary"]["kind"]}, {manifest["vocabulary"]["size"]:,} tokens |
| Languages | {names} |"""


def _quality(accuracy: Mapping[str, Mapping[str, float]], languages: Sequence[str]) -> str:
    if not accuracy:
        return ""
    head = "| Language | " + " | ".join(accuracy) + " |"
    lines = [head, "|---|" + "--:|" * len(accuracy)]
    for code in languages:
        values = [states.get(code) for states in accuracy.values()]
        if any(value is not None for value in values):
            cells = " | ".join("–" if v is None else f"{v * 100:.1f}" for v in values)
            lines.append(f"| {language_name(code)} ({code}) | {cells} |")
    means = " | ".join(f"{sum(v.values()) / len(v) * 100:.1f}" for v in accuracy.values())
    lines.append(f"| **Mean** | {means} |")
    return (
        "## Quality\n\nRetrieval accuracy in percent on held-out sentences: how often the "
        "translation is the nearest\ncandidate, averaged over both directions (from and to "
        "English).\n\n" + "\n".join(lines)
    )


def _artifacts(manifest: Mapping[str, Any], parity: Mapping[str, Any] | None) -> str:
    measured = parity["artifacts"] if parity else {}
    lines = ["| File | MB | Latency, ms | Cosine to Keras, mean / minimum | Worst change, points |"]
    lines.append("|---|--:|--:|--:|--:|")
    for name, record in manifest["artifacts"].items():
        cells = ["–", "–", "–"]
        if figures := measured.get(name):
            changes = {c: f["accuracy_change_points"] for c, f in figures["languages"].items()}
            worst = min(changes, key=lambda code: changes[code])
            cells = [
                f"{figures['latency_ms']:.3g}",
                f"{figures['cosine_mean']:.6f} / {figures['cosine_min']:.6f}",
                f"{changes[worst] + 0.0:+.2f} ({worst})",
            ]
        lines.append(f"| `{record['path']}` | {record['bytes'] / 1e6:.2f} | {' | '.join(cells)} |")
    note = (
        "Every artifact was loaded in a fresh process and compared with Keras on the held-out "
        "sentences.\nLatency is the median time from one string to its embedding, with one thread. "
        "The last column is the\nlargest loss, or the smallest gain, of retrieval accuracy in a "
        "language."
        if parity
        else "The artifacts have not been compared with Keras."
    )
    return f"## Artifacts\n\n{note}\n\n" + "\n".join(lines)


def _by_language(parity: Mapping[str, Any] | None) -> str:
    """Returns the change of accuracy and correlation per artifact and language."""
    if not parity:
        return ""
    artifacts = parity["artifacts"]
    head = " | ".join(f"`{record['path']}`" for record in artifacts.values())
    lines = [f"| | Keras | {head} |", "|---|--:|" + "--:|" * len(artifacts)]
    for part, key, figure in (("", "languages", "accuracy"), ("STS ", "similarity", "spearman")):
        for code, keras in parity["keras"].get(key, {}).items():
            changes = [a[key][code][f"{figure}_change_points"] for a in artifacts.values()]
            cells = " | ".join(f"{change + 0.0:+.2f}" for change in changes)
            label = f"{part}{code}" if part else f"{language_name(code)} ({code})"
            lines.append(f"| {label} | {keras[figure] * 100:.1f} | {cells} |")
    return (
        "Retrieval accuracy (and, for STS sets, Spearman's correlation times 100) of the Keras "
        "model, and\nthe difference of each artifact in points.\n\n" + "\n".join(lines)
    )


def _usage(manifest: Mapping[str, Any]) -> str:
    lite = [n for n in manifest["artifacts"] if ExportFormat(n).is_tflite]
    if not lite:
        return ""
    package = {"wordpiece": "tokenizers"}.get(manifest["vocabulary"]["kind"], "sentencepiece")
    signatures = ", ".join(f"`{name}`" for name in manifest["signatures"])
    pad_id = manifest["vocabulary"]["pad_id"]
    return f"""## Usage

With LiteRT, without TensorFlow: `export/run_litert.py` in the kdkeras repository needs only
`pip install ai-edge-litert numpy {package}`. With kdkeras installed:

```python
from kdkeras.export import LiteStudent

student = LiteStudent("FOLDER")
embeddings = student.encode(["Guten Morgen.", "Good morning."])
```

In other runtimes: tokenize with the files in `tokenizer/`, pad with id {pad_id} to the length of
the shortest signature that holds the sentence ({signatures}),
and run this signature on `token_ids` and `padding_mask`, int32 `(1, length)`. `export.json` lists
all names, lengths and checksums."""


def _limits(manifest: Mapping[str, Any], accuracy: Mapping[str, Mapping[str, float]]) -> str:
    lines = [
        f"- Text after {manifest['sequence_length']} tokens is ignored: split documents into "
        "sentences.",
        "- Languages and kinds of text that are not in the training data are not covered.",
        "- The student inherits biases of its teacher and of the training sentences.",
    ]
    if manifest["student"]["class"] == "StaticStudent":
        lines.insert(
            0,
            "- Word order is ignored: “dog bites man” and “man bites dog” have the same embedding.",
        )
    if trained := accuracy.get("trained"):
        worst = min(trained, key=lambda code: trained[code])
        share = f"{trained[worst] * 100:.1f} %"
        lines.append(
            f"- Quality differs by language; the weakest is {language_name(worst)} ({share})."
        )
    return (
        "## Intended use and limits\n\nSemantic search, matching, clustering and duplicate "
        "detection of sentences and short texts, on\ndevices or servers, within and across the "
        "languages above. The model is not intended for decisions about\npeople. Cosines are not "
        "probabilities: choose thresholds on your own data.\n\n" + "\n".join(lines)
    )


def _training(
    teacher: str, training_data: Sequence[TrainingData], details: Mapping[str, Any]
) -> str:
    lines = [f"## Training\n\nDistilled with kdkeras from cached embeddings of `{teacher}`."]
    if details:
        rows = "\n".join(f"| {name} | {value_text(value)} |" for name, value in details.items())
        lines.append(f"| | |\n|---|---|\n{rows}")
    for data in training_data:
        lines.append(f"**{data.name}** ({data.license}): {data.description}\n\n{data.attribution}")
    return "\n\n".join(lines)
