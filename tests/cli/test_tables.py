"""Tables show every figure, whatever the width of the terminal."""

import io

import pytest
from rich.console import Console

from kdkeras.cli.tables import artifact_table, size_table, table
from kdkeras.export.formats import ExportFormat

FIGURES = {
    "bytes": 123_456_789,
    "cosine_mean": 0.99999,
    "cosine_min": 0.99999,
    "languages": {"de": {"accuracy_change_points": -12.5}},
    "latency_ms": 12.345,
}
SIMILARITY = {"similarity": {"de_en": {"spearman_change_points": -12.5}}}
ACCURACY = {"accuracy": 0.91234, "worst": 0.5, "worst_language": "zh-Hant"}
CANDIDATE = {
    **ACCURACY,
    "format": "tflite_int8_weight_only",
    "vocabulary_size": 123_456,
    "table_width": 128,
    "output_dim": 384,
    "num_layers": 6,
    "estimated_bytes": 12_345_678,
    "bytes": 12_345_679,
    "fits": True,
    "chosen": True,
}
TABLES = {
    "artifacts": artifact_table(
        {f: {"path": f.path_for("wordpiece"), **FIGURES} for f in ExportFormat}
    ),
    "artifacts with STS": artifact_table(
        {f: {"path": f.path_for("sentencepiece"), **FIGURES, **SIMILARITY} for f in ExportFormat}
    ),
    "sizes": size_table(
        {
            "limit_bytes": 8e6,
            "before": {"vocabulary_size": 250_000, **ACCURACY},
            "tried": [CANDIDATE, {**CANDIDATE, "fits": False, "chosen": False}],
        }
    ),
    "long names": table(["/a/long/path/to/a.keras", "%"], [["sts17_en_de_spearman" * 3, "81.2"]]),
}


def printed(part, width):
    console = Console(width=width, file=io.StringIO())
    console.print(part)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("shown", TABLES.values(), ids=TABLES)
def test_no_figure_is_truncated(shown, width):
    text = printed(shown, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in shown.rows:
        assert all(figure in text for figure in row[1:])
        assert set(row[0]) <= set(text)
    assert all(column in text for column in shown.columns[1:])


@pytest.mark.parametrize("name", ["artifacts", "artifacts with STS"])
def test_each_artifact_is_one_row_of_80_columns(name):
    rows = printed(TABLES[name], 80).splitlines()[-len(ExportFormat) - 1 : -1]
    assert len({row.split()[0] for row in rows}) == len(ExportFormat)
    assert all(row.split()[1] == "123.5" for row in rows)
