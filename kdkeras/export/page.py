"""The report as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from kdkeras.export.charts import bar_chart, line_chart
from kdkeras.export.formats import ExportFormat
from kdkeras.export.page_style import STYLE
from kdkeras.export.wording import language_name, value_text

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
    """Returns the page for what `write_report` collected."""
    title = escape(content["title"])
    body = "\n".join(part for part in _parts(content) if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><main>\n<header><p class='kicker'>kdkeras report</p><h1>{title}</h1></header>\n"
        f"{body}\n</main></body></html>\n"
    )


def _parts(content: Mapping[str, Any]) -> Iterator[str]:
    parity, accuracy = content["parity"], content["accuracy"]
    yield _figures(content)
    if parity and parity["failures"]:
        items = "".join(f"<li>{escape(line)}</li>" for line in parity["failures"])
        title = "<h2>Artifacts that must not ship</h2>"
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
        yield _section("Setting", "", _table(["", ""], _details(content["details"]), text=2))


def _figures(content: Mapping[str, Any]) -> str:
    """The few numbers that matter most, in large type."""
    cards: list[tuple[str, str, str]] = []
    means = {name: mean for name, mean in content["mean_accuracy"].items() if mean is not None}
    if means:
        others = [f"{name} {mean:.1%}" for name, mean in means.items() if name != "trained"]
        name = "trained" if "trained" in means else next(iter(means))
        count = len(content["accuracy"][name])
        cards.append(
            (f"{means[name]:.1%}", f"retrieval accuracy, {count} languages", ", ".join(others))
        )
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
    yield time, "a sentence, string to vector", f"{title}, one thread"
    passed = "passed" if parity["passed"] else f"{len(parity['failures'])} failed"
    count = len(parity["keras"]["languages"])
    yield (
        passed,
        "comparison with Keras",
        f"{len(parity['artifacts'])} artifacts, {count} languages",
    )


def _accuracy(
    accuracy: Mapping[str, Mapping[str, float]], means: Mapping[str, float | None]
) -> str:
    languages = sorted({language for values in accuracy.values() for language in values})
    percent = {
        name: {code: value * 100 for code, value in values.items()}
        for name, values in accuracy.items()
    }
    rows = [
        [_language(code), *(_percent(values.get(code)) for values in accuracy.values())]
        for code in languages
    ]
    rows.append(["<b>Mean</b>", *(f"<b>{_percent(means[name])}</b>" for name in accuracy)])
    return _section(
        "Retrieval accuracy by language",
        "Share of held-out sentences whose translation is the nearest of all, mean of both "
        "directions, in percent.",
        _legend(accuracy) + bar_chart(percent, languages) + _table(["Language", *accuracy], rows),
    )


def _losses(history: Mapping[str, Sequence[float]]) -> str:
    series = {name: history[name] for name in sorted(history, key=lambda n: (n != "loss", n))}
    return _section(
        "Loss by epoch",
        "Mean over each epoch; <code>loss</code> is the weighted sum of the others.",
        _legend(series) + line_chart(series, "epoch"),
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
    return _section(
        "Artifacts",
        f"Each in a fresh process, {parity['num_sentences']:,} held-out sentences compared with "
        "Keras. Latency: median from one string to its vector, one thread, after warm-up.",
        _table([*head, "Cosine, mean", "Cosine, least", "Gates"], rows),
    )


def _parity(parity: Mapping[str, Any]) -> str:
    names = list(parity["artifacts"])
    rows = []
    for code, keras in parity["keras"]["languages"].items():
        row = [_language(code), f"{keras['num_pairs']:,}", _percent(keras["accuracy"])]
        for name in names:
            figures = parity["artifacts"][name]["languages"][code]
            row += [
                f"{figures['cosine_min']:.6f}",
                f"{figures['accuracy_change_points'] + 0.0:+.2f}",
            ]
        rows.append(row)
    groups = "".join(f"<th colspan='2'>{_TITLES[ExportFormat(name)]}</th>" for name in names)
    head = ["Language", "Pairs", "Keras", *["Cosine, least", "Points"] * len(names)]
    return _section(
        "Parity by language",
        "Least cosine between an artifact's embedding and Keras', and the change of retrieval "
        "accuracy in percentage points.",
        _table(head, rows, above=f"<tr><th colspan='3'></th>{groups}</tr>"),
    )


def _sizes(sizes: Mapping[str, Any]) -> str:
    rows = [
        [
            _TITLES[ExportFormat(tried["format"])],
            *(f"{tried[name]:,}" for name in ("vocabulary_size", "table_width", "output_dim")),
            f"{tried['num_layers'] or '–'}",
            f"{tried['estimated_bytes'] / 1e6:.2f}",
            f"{tried['bytes'] / 1e6:.2f}",
            _percent(tried["accuracy"]),
            f"{_percent(tried['worst'])} {escape(tried['worst_language'] or '')}",
            "<b>chosen</b>" if tried["chosen"] else "" if tried["fits"] else "too large",
        ]
        for tried in sizes["tried"]
    ]
    before = sizes["before"]
    head = ["Format", "Tokens", "Table", "Embedding", "Blocks", "MB, estimated", "MB", "Accuracy"]
    return _section(
        f"Sizes tried for at most {sizes['limit_bytes'] / 1e6:g} MB",
        "The TFLite file and the tokenizer's together, estimated before and weighed after the "
        "export; retrieval accuracy, mean and worst language, in percent. As it was, with "
        f"{before['vocabulary_size']:,} tokens, the student reaches {_percent(before['accuracy'])} "
        f"and {_percent(before['worst'])} ({escape(before['worst_language'])}).",
        _table([*head, "Worst", ""], rows),
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
        row = [escape(code), f"{keras['num_pairs']:,}", _percent(keras["spearman"])]
        rows.append(row + [f"{change + 0.0:+.2f}" for change in changes])
    titles = [_TITLES[ExportFormat(name)] for name in names]
    return _section(
        "Similarity (STS) by language",
        "Spearman's correlation of cosines and people's scores, times 100: Keras', and its change "
        "in each artifact, in points.",
        _table(["Pairs of sentences", "Pairs", "Keras", *titles], rows),
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
    kept = "Kept" if growth["keeps_function"] else "Not kept"
    return _section(
        "Growth",
        f"{kept}: on {growth['probe_size']:,} {escape(growth['probe'])} the largest difference of "
        f"a component is {growth['maximum_error']:.1e} (limit {growth['tolerance']:.1e}), the "
        f"largest <code>1 - cos</code> {growth['cosine_drift']:.1e}.",
        _table(["Size", "Operator", "Before", "After", "Keeps the function"], rows, text=2),
    )


def _ledger(ledger: Mapping[str, Any]) -> str:
    total = ledger["total"]
    parts = [*ledger["postings"], {"name": "All", "flops": total}]
    rows = [
        [escape(part["name"]), f"{part['flops']:.3e}", _percent(part["flops"] / max(total, 1))]
        for part in parts
    ]
    return _section(
        "Cost of the whole run",
        "Floating point operations; a training step counts as three forward passes, optimizer and "
        "losses are not counted.",
        _table(["Part", "FLOPs", "%"], rows),
    )


def _details(details: Mapping[str, Any]) -> list[list[str]]:
    return [[escape(str(name)), escape(value_text(value))] for name, value in details.items()]


def _section(title: str, note: str, body: str) -> str:
    note = f"<p class='note'>{note}</p>" if note else ""
    return f"<section><h2>{title}</h2>{note}{body}</section>"


def _legend(names: Iterable[str]) -> str:
    items = "".join(
        f"<span class='s{number}'><i></i>{escape(name)}</span>" for number, name in enumerate(names)
    )
    return f"<p class='legend'>{items}</p>"


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], above: str = "", text: int = 1
) -> str:
    """A table; the first `text` columns are words, the others numbers."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{'' if i < text else ' class=n'}>{value}</{tag}>"
            for i, value in enumerate(values)
        )

    top = f"<thead>{above}<tr>{cells('th', head)}</tr></thead>" if any(head) else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class='scroll'><table>{top}<tbody>{body}</tbody></table></div>"


def _language(code: str) -> str:
    return f"{escape(language_name(code))} <small>{escape(code)}</small>"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.1f}"


def _mark(passed: bool) -> str:
    return "<span class='yes'>passed</span>" if passed else "<span class='no'>failed</span>"
