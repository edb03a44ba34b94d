"""Results as tables that fit a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich import box
from rich.table import Table

__all__ = ["artifact_table", "size_table", "table"]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """Returns a table whose first column is text and whose others are numbers."""
    result = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        result.add_row(*row)
    return result


def artifact_table(artifacts: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns what `kdkeras.export.verify` measured, one artifact a row.

    Columns: size; cosine to Keras, mean and least; change of retrieval
    accuracy in the worst language, percentage points; the same of STS, where
    there is STS; time a sentence.
    """
    similarity = any(record.get("similarity") for record in artifacts.values())
    # To fit 80 columns.
    wide = similarity or max((len(r["path"]) for r in artifacts.values()), default=0) > 25
    rows = [
        [
            PurePath(record["path"]).name.removesuffix(".tflite").removesuffix(".task")
            if wide
            else str(record["path"]),
            f"{record['bytes'] / 1e6:.1f}",
            f"{record['cosine_mean']:.5f}",
            f"{record['cosine_min']:.5f}",
            _worst(record["languages"], "accuracy"),
            *([_worst(record["similarity"], "spearman")] if similarity else []),
            f"{record['latency_ms']:.3f}",
        ]
        for record in artifacts.values()
    ]
    title = "Artifacts against Keras, on held-out sentences"
    if similarity:
        columns = ["artifact", "MB", "cosine", "least", "points", "STS", "ms"]
        return table(columns, rows, title=f"{title}; points and STS: worst")
    columns = ["artifact", "MB", "cosine", "least", "points, worst", "ms"]
    return table(columns, rows, title=title)


def _worst(figures: Mapping[str, Mapping[str, float]], name: str) -> str:
    return f"{min(figure[f'{name}_change_points'] for figure in figures.values()):+.1f}"


def size_table(sizes: Mapping[str, Any]) -> Table:
    """Returns what `kdkeras.export.fit_size` tried, one combination a row.

    Columns: format; tokens; width of the stored table and of the embedding; blocks of a
    transformer; size of model and tokenizer file, estimated before and weighed after the
    export; retrieval accuracy, mean and worst language, in percent.
    """
    before = sizes["before"]
    rows = [["as it was", f"{before['vocabulary_size']:,}", *[""] * 5, *_accuracy(before), ""]]
    for tried in sizes["tried"]:
        rows.append(
            [
                tried["format"].removeprefix("tflite_"),
                f"{tried['vocabulary_size']:,}",
                f"{tried['table_width']}",
                f"{tried['output_dim']}",
                f"{tried['num_layers'] or '–'}",
                f"{tried['estimated_bytes'] / 1e6:.2f}",
                f"{tried['bytes'] / 1e6:.2f}",
                *(_accuracy(tried) if tried["fits"] else ("–", "–")),
                "chosen" if tried["chosen"] else "" if tried["fits"] else "too large",
            ]
        )
    columns = ["format", "tokens", "table", "dim", "blocks", "~MB", "MB", "mean", "worst", ""]
    title = f"Tried for at most {sizes['limit_bytes'] / 1e6:g} MB; translations found in %"
    return table(columns, rows, title=title)


def _accuracy(figures: Mapping[str, Any]) -> tuple[str, str]:
    mean, worst = 100 * figures["accuracy"], 100 * figures["worst"]
    return f"{mean:.1f}", f"{figures['worst_language']} {worst:.1f}"
