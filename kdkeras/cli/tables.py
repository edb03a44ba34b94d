"""Tables of results that fit the width of the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["FittedTable", "artifact_table", "size_table", "table"]

_NARROWEST = 12
"""Minimum width of the first column; below it, rows are printed as records."""


@dataclass(frozen=True)
class FittedTable:
    """A table whose first column is text and whose other columns are figures.

    On a terminal narrower than the table, the text is folded; if that does not
    suffice, each row is printed as a record of one figure per line. No figure is
    truncated.

    Attributes:
        columns: Titles of the columns.
        rows: Cells of each row.
        title: Line above the table, if any.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str | None = None

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yields the table, or the records."""
        texts = max(len(cells[0]) for cells in (self.columns, *self.rows))
        wide = options.update(max_width=10_000)
        figures = console.measure(self._table(), options=wide).maximum - texts
        if figures + min(texts, _NARROWEST) <= options.max_width:
            yield self._table()
        else:
            yield from self._records()

    def _table(self) -> Table:
        result = Table(box=box.SIMPLE_HEAD, title=self.title, title_justify="left", pad_edge=False)
        result.add_column(self.columns[0], overflow="fold")
        for column in self.columns[1:]:
            result.add_column(column, justify="right", no_wrap=True)
        for row in self.rows:
            result.add_row(*row)
        return result

    def _records(self) -> Iterator[RenderableType]:
        if self.title:
            yield Text(self.title, style="italic")
        for name, *figures in self.rows:
            yield Text(f"\n{name}", overflow="fold")
            record = Table.grid(padding=(0, 2))
            record.add_column(overflow="fold")
            record.add_column(overflow="fold")
            for column, figure in zip(self.columns[1:], figures, strict=True):
                if figure:
                    record.add_row(f"  {column}", figure)
            yield record


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None
) -> FittedTable:
    """Returns a table whose first column is text and whose other columns are figures."""
    return FittedTable(columns, rows, title)


def artifact_table(artifacts: Mapping[str, Mapping[str, Any]]) -> FittedTable:
    """Returns the figures of `kdkeras.export.verify`, one row per artifact.

    Columns: size; mean and minimum cosine to the Keras model's embeddings; change
    of the retrieval accuracy in the worst language, in percentage points; the same
    for STS, if it was measured; time per sentence.
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
        columns = ["artifact", "MB", "cosine", "minimum", "points", "STS", "ms"]
        return table(columns, rows, title=f"{title}; points and STS: worst")
    columns = ["artifact", "MB", "cosine", "minimum", "points, worst", "ms"]
    return table(columns, rows, title=title)


def _worst(figures: Mapping[str, Mapping[str, float]], name: str) -> str:
    return f"{min(figure[f'{name}_change_points'] for figure in figures.values()):+.1f}"


def size_table(sizes: Mapping[str, Any]) -> FittedTable:
    """Returns the candidates of `kdkeras.export.fit_size`, one row per combination.

    Columns: format; tokens; width of the stored table and of the embedding; blocks of a
    transformer; size of the model and the tokenizer file, estimated before and measured
    after the export; retrieval accuracy, mean and worst language, in percent.
    """
    before = sizes["before"]
    rows = [["before", f"{before['vocabulary_size']:,}", *[""] * 5, *_accuracy(before), ""]]
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
    title = f"Candidates of at most {sizes['limit_bytes'] / 1e6:g} MB; retrieval accuracy in %"
    return table(columns, rows, title=title)


def _accuracy(figures: Mapping[str, Any]) -> tuple[str, str]:
    mean, worst = 100 * figures["accuracy"], 100 * figures["worst"]
    return f"{mean:.1f}", f"{figures['worst_language']} {worst:.1f}"
