import io

import pytest
from rich.console import Console

from kdkeras.cli.tables import artifact_table
from kdkeras.export.formats import ExportFormat

FIGURES = {
    "bytes": 123_456_789,
    "cosine_mean": 0.99999,
    "cosine_min": 0.99999,
    "languages": {"de": {"accuracy_change_points": -12.5}},
    "latency_ms": 12.345,
}
SIMILARITY = {"similarity": {"de_en": {"spearman_change_points": -12.5}}}


@pytest.mark.parametrize("figures", [FIGURES, {**FIGURES, **SIMILARITY}], ids=["", "with STS"])
@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_every_format_fits_80_columns_uncut(figures, kind):
    records = {item: {"path": item.path_for(kind), **figures} for item in ExportFormat}
    console = Console(width=80, file=io.StringIO())
    console.print(artifact_table(records))
    rows = console.file.getvalue().splitlines()[-len(records) - 1 : -1]
    assert not any("…" in row for row in rows)
    names = [row.split()[0] for row in rows]
    assert len(set(names)) == len(ExportFormat)
    assert all(row.split()[1] == "123.5" for row in rows)
