"""Renders the report as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from kdkeras.export.charts import bar_chart, line_chart
from kdkeras.export.formats import ExportFormat
from kdkeras.export.html import (
    document,
    language_cell,
    legend,
    percent_text,
    section,
    table,
)
from kdkeras.export.wording import value_text

__all__ = ["render"]

_TITLES = {
    ExportFormat.SAVED_MODEL: "SavedModel, token ids",
    ExportFormat.SAVED_MODEL_TEXT: "SavedModel, strings",
    ExportFormat.TFLITE_FLOAT32: "TFLite, float32",
    ExportFormat.TFLITE_FLOAT16: "TFLite, float16",
    ExportFormat.TFLITE_INT8: "TFLite, int8",
    ExportFormat.TFLITE_INT8_WEIGHT_ONLY: "TFLite, int8 weights",
    ExportFormat.TFLITE_INT4: "TFLite, int4 table",
    ExportFormat.MEDIAPIPE: "MediaPipe, int8",
    ExportFormat.MEDIAPIPE_FLOAT32: "MediaPipe, float32",
    ExportFormat.ONNX: "ONNX",
    ExportFormat.SENTENCE_TRANSFORMERS: "sentence-transformers",
}


def render(content: Mapping[str, Any]) -> str:
    """Returns the page for the contents of `report.json`."""
    return document(content["title"], "\n".join(part for part in _parts(content) if part))


def _parts(content: Mapping[str, Any]) -> Iterator[str]:
    parity, accuracy = content["parity"], content["accuracy"]
    yield _figures(content)
    if parity and parity["failures"]:
        items = "".join(f"<li>{escape(line)}</li>" for line in parity["failures"])
        title = "<h2>Artifacts that failed a gate: do not ship them</h2>"
        yield f"<section class='failed'>{title}<ul>{items}</ul></section>"
    if accuracy:
        yield _accuracy(accuracy, content["mean_accuracy"])
    if content["history"]:
        yield _losses(content["history"])
    if parity:
        yield _artifacts(parity)
        yield _parity(parity)
        yield _similarity(parity)
    if content["sizes"]:
        yield _sizes(content["sizes"])
    if content["growth"]:
        yield _growth(content["growth"])
    if content["ledger"]:
        yield _ledger(content["ledger"])
    if content["details"]:
        yield section("Settings", "", table(["", ""], _details(content["details"]), text=2))


def _figures(content: Mapping[str, Any]) -> str:
    """Returns the most important figures, in large type."""
    cards: list[tuple[str, str, str]] = []
    means = {name: mean for name, mean in content["mean_accuracy"].items() if mean is not None}
    if means:
        others = [f"{name} {mean:.1%}" for name, mean in means.items() if name != "trained"]
        name = "trained" if "trained" in means else next(iter(means))
        languages = _counted(len(content["accuracy"][name]), "language")
        label = f"retrieval accuracy, {languages}"
        cards.append((f"{means[name]:.1%}", label, ", ".join(others)))
    if content["parity"]:
        cards += _artifact_figures(content["parity"])
    items = "".join(
        f"<div class='card'><b>{escape(value)}</b><span>{escape(label)}</span>"
        f"<small>{escape(note)}</small></div>"
        for value, label, note in cards
    )
    return f"<div class='cards'>{items}</div>" if cards else ""


def _artifact_figures(parity: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    name, smallest = min(parity["artifacts"].items(), key=lambda item: item[1]["bytes"])
    title = _TITLES[ExportFormat(name)]
    latency = smallest["latency_ms"]
    yield f"{smallest['bytes'] / 1e6:.1f} MB", "smallest artifact", title
    time = f"{latency:.1f} ms" if latency >= 1 else f"{latency * 1000:.0f} µs"
    yield time, "per sentence, from string to embedding", f"{title}, one thread"
    passed = "passed" if parity["passed"] else f"{len(parity['failures'])} failed"
    artifacts = _counted(len(parity["artifacts"]), "artifact")
    languages = _counted(len(parity["keras"]["languages"]), "language")
    yield passed, "comparison with Keras", f"{artifacts}, {languages}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _accuracy(
    accuracy: Mapping[str, Mapping[str, float]], means: Mapping[str, float | None]
) -> str:
    languages = sorted({language for values in accuracy.values() for language in values})
    percent = {
        name: {code: value * 100 for code, value in values.items()}
        for name, values in accuracy.items()
    }
    rows = [
        [language_cell(code), *(percent_text(values.get(code)) for values in accuracy.values())]
        for code in languages
    ]
    rows.append(["<b>Mean</b>", *(f"<b>{percent_text(means[name])}</b>" for name in accuracy)])
    return section(
        "Retrieval accuracy by language",
        "Percentage of held-out sentences whose translation is the nearest candidate, averaged "
        "over both directions.",
        legend(accuracy) + bar_chart(percent, languages) + table(["Language", *accuracy], rows),
    )


def _losses(history: Mapping[str, Sequence[float]]) -> str:
    series = {name: history[name] for name in sorted(history, key=lambda n: (n != "loss", n))}
    return section(
        "Loss by epoch",
        "Mean per epoch. <code>loss</code> is the weighted sum of the other losses.",
        legend(series) + line_chart(series, "epoch"),
    )


def _artifacts(parity: Mapping[str, Any]) -> str:
    failed = " ".join(parity["failures"])
    rows = [
        [
            f"{_TITLES[ExportFormat(name)]}<br><code>{escape(a['path'])}</code>",
            f"{a['bytes'] / 1e6:.2f}",
            f"{a['latency_ms']:.3g}",
            f"{a['load_seconds']:.2f}",
            f"{a['peak_memory_mb']:.0f}",
            f"{a['cosine_mean']:.6f}",
            f"{a['cosine_min']:.6f}",
            _mark(f"{name} in " not in failed),
        ]
        for name, a in parity["artifacts"].items()
    ]
    head = ["Artifact", "MB", "Latency, ms", "Load, s", "Peak memory, MB"]
    return section(
        "Artifacts",
        f"Every artifact embedded {parity['num_sentences']:,} held-out sentences in a fresh "
        "process and was compared with Keras. Latency is the median time from one string to its "
        "embedding, with one thread and after warm-up.",
        table([*head, "Mean cosine", "Minimum cosine", "Gates"], rows),
    )


def _parity(parity: Mapping[str, Any]) -> str:
    names = list(parity["artifacts"])
    rows = []
    for code, keras in parity["keras"]["languages"].items():
        row = [language_cell(code), f"{keras['num_pairs']:,}", percent_text(keras["accuracy"])]
        for name in names:
            figures = parity["artifacts"][name]["languages"][code]
            row += [
                f"{figures['cosine_min']:.6f}",
                f"{figures['accuracy_change_points'] + 0.0:+.2f}",
            ]
        rows.append(row)
    groups = "".join(f"<th colspan='2'>{_TITLES[ExportFormat(name)]}</th>" for name in names)
    head = ["Language", "Pairs", "Keras", *["Minimum cosine", "Points"] * len(names)]
    return section(
        "Parity by language",
        "Minimum cosine between the embeddings of the artifact and of Keras, and the change of "
        "retrieval accuracy in percentage points.",
        table(head, rows, above=f"<tr><th colspan='3'></th>{groups}</tr>"),
    )


def _sizes(sizes: Mapping[str, Any]) -> str:
    rows = [
        [
            _TITLES[ExportFormat(tried["format"])],
            *(f"{tried[name]:,}" for name in ("vocabulary_size", "table_width", "output_dim")),
            f"{tried['num_layers'] or '–'}",
            f"{tried['estimated_bytes'] / 1e6:.2f}",
            f"{tried['bytes'] / 1e6:.2f}",
            percent_text(tried["accuracy"]),
            f"{percent_text(tried['worst'])} {escape(tried['worst_language'] or '')}",
            "<b>chosen</b>" if tried["chosen"] else "" if tried["fits"] else "too large",
        ]
        for tried in sizes["tried"]
    ]
    before = sizes["before"]
    head = ["Format", "Tokens", "Table", "Embedding", "Blocks", "MB, estimated", "MB", "Accuracy"]
    return section(
        f"Sizes tried for a limit of {sizes['limit_bytes'] / 1e6:g} MB",
        "Size of the TFLite file and the tokenizer file together, estimated before and measured "
        "after the export. Retrieval accuracy in percent: mean and worst language. The original "
        f"student, with {before['vocabulary_size']:,} tokens, reaches "
        f"{percent_text(before['accuracy'])} and {percent_text(before['worst'])} "
        f"({escape(before['worst_language'])}).",
        table([*head, "Worst", ""], rows),
    )


def _similarity(parity: Mapping[str, Any]) -> str:
    pairs = parity["keras"].get("similarity", {})
    if not pairs:
        return ""
    names = list(parity["artifacts"])
    rows = []
    for code, keras in pairs.items():
        changes = [
            parity["artifacts"][name]["similarity"][code]["spearman_change_points"]
            for name in names
        ]
        row = [escape(code), f"{keras['num_pairs']:,}", percent_text(keras["spearman"])]
        rows.append(row + [f"{change + 0.0:+.2f}" for change in changes])
    titles = [_TITLES[ExportFormat(name)] for name in names]
    return section(
        "Similarity (STS) by language",
        "Spearman's correlation of cosines and human scores, times 100: that of Keras, and the "
        "change in each artifact in points.",
        table(["STS set", "Pairs", "Keras", *titles], rows),
    )


def _growth(growth: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(step["size"]),
            escape(step["operator"]),
            f"{step['before']:,}",
            f"{step['after']:,}",
            "yes" if step["keeps_function"] else "<b>no</b>",
        ]
        for step in growth["steps"]
    ]
    tokens = growth["flops_tokens"]
    for name, key in (("Parameters", "parameters"), (f"FLOPs, {tokens} tokens", "flops")):
        rows.append([name, "", f"{growth[f'{key}_before']:,}", f"{growth[f'{key}_after']:,}", ""])
    kept = "preserved" if growth["keeps_function"] else "not preserved"
    return section(
        "Growth",
        f"The function is {kept}: on {growth['probe_size']:,} {escape(growth['probe'])}, the "
        f"maximum difference of an embedding value is {growth['maximum_error']:.1e} (limit "
        f"{growth['tolerance']:.1e}), and the maximum <code>1 - cosine</code> is "
        f"{growth['cosine_drift']:.1e}.",
        table(["Size", "Operator", "Before", "After", "Function preserved"], rows, text=2),
    )


def _ledger(ledger: Mapping[str, Any]) -> str:
    total = ledger["total"]
    parts = [*ledger["postings"], {"name": "Total", "flops": total}]
    rows = [
        [escape(part["name"]), f"{part['flops']:.3e}", percent_text(part["flops"] / max(total, 1))]
        for part in parts
    ]
    return section(
        "Cost of the whole run",
        "Floating-point operations. A training step counts as three forward passes; optimizer and "
        "losses are not counted.",
        table(["Part", "FLOPs", "%"], rows),
    )


def _details(details: Mapping[str, Any]) -> list[list[str]]:
    return [[escape(str(name)), escape(value_text(value))] for name, value in details.items()]


def _mark(passed: bool) -> str:
    return "<span class='yes'>passed</span>" if passed else "<span class='no'>failed</span>"
