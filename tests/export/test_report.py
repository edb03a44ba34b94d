import json
import math
import re

import pytest

from kdkeras.errors import InputError
from kdkeras.export import write_report
from kdkeras.export.charts import bar_chart, line_chart

ACCURACY = {"untrained": {"de": 0.125, "ja": 0.05}, "trained": {"de": 0.875, "ja": 0.75}}


def _figures(**changes):
    return {
        "num_pairs": 120,
        "cosine_mean": 0.9999,
        "cosine_min": 0.9987,
        "accuracy": 0.75,
        "accuracy_change_points": -0.42,
        **changes,
    }


def _parity(failures=()):
    return {
        "name": "student",
        "num_sentences": 3359,
        "passed": not failures,
        "failures": list(failures),
        "keras": {
            "languages": {"ja": {"num_pairs": 120, "accuracy": 0.7542}},
            "similarity": {"en_de_test": {"num_pairs": 1379, "spearman": 0.6241}},
        },
        "artifacts": {
            "tflite_int8": {
                "path": "model.int8.tflite",
                "bytes": 4_049_440,
                "load_seconds": 0.06,
                "latency_ms": 0.0976,
                "peak_memory_mb": 63.7,
                "cosine_mean": 0.9999,
                "cosine_min": 0.9987,
                "languages": {"ja": _figures()},
                "similarity": {"en_de_test": {"spearman_change_points": -0.07}},
            }
        },
    }


@pytest.fixture
def page(tmp_path):
    path = write_report(
        tmp_path,
        title="Static <student>",
        history={"embedding": [1.2, 0.4], "loss": [2.0, 1.0]},
        accuracy=ACCURACY,
        parity=_parity(),
        details={"parameters": 3_696_688, "epochs": 2},
    )
    return path.read_text()


def test_page_has_no_external_resources(page):
    assert not re.search(r"(src|href|@import|url\()\s*=?", page)
    assert "http" not in page


@pytest.mark.parametrize(
    "figure",
    [
        "87.5", "12.5", "<b>81.2</b>",  # accuracy, and its mean: (87.5 + 75) / 2
        "4.05", "0.0976", "98 µs", "0.998700", "-0.42", "75.4",
        "en_de_test", "1,379", "62.4", "-0.07",
        "3,359", "3,696,688", "Japanese <small>ja</small>", "Static &lt;student&gt;",
    ],
)  # fmt: skip
def test_page_shows(page, figure):
    assert figure in page


def test_json_contains_the_same_data(page, tmp_path):
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["title"] == "Static <student>"
    assert content["history"] == {"embedding": [1.2, 0.4], "loss": [2.0, 1.0]}
    assert content["accuracy"] == ACCURACY
    assert content["mean_accuracy"] == {"untrained": 0.0875, "trained": 0.8125}
    assert content["parity"] == _parity()


def test_nan_becomes_null_in_json_and_a_gap_in_the_chart(tmp_path):
    path = write_report(tmp_path, title="t", history={"loss": [math.nan, 1.0, 0.5]})
    assert json.loads((tmp_path / "report.json").read_text())["history"]["loss"][0] is None
    assert path.read_text().count("<circle") == 2


def test_failed_gate_is_shown_first(tmp_path):
    line = "tflite_int8 in ja: mean cosine to Keras 0.500000 is below 0.99"
    page = write_report(tmp_path, title="t", accuracy=ACCURACY, parity=_parity([line])).read_text()
    assert page.index(line) < page.index("Retrieval accuracy by language")
    assert "<span class='no'>failed</span>" in page
    assert "<span class='yes'>" not in page


def test_percentages_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"trained, de: 87\.5\. Divide percentages by 100"):
        write_report(tmp_path, title="t", accuracy={"trained": {"de": 87.5}})
    assert not list(tmp_path.iterdir())


def test_report_replaces_an_earlier_one(tmp_path):
    write_report(tmp_path, title="first")
    path = write_report(tmp_path, title="second")
    assert ">second<" in path.read_text() and ">first<" not in path.read_text()


def test_line_connects_its_values():
    # Plotting area: x 56 to 704, y 12 to 244; the axis runs from 0 to 4.
    chart = line_chart({"loss": [4.0, 0.0, 2.0]}, "epoch", width=720, height=280)
    assert '<polyline points="56.0,12.0 380.0,244.0 704.0,128.0"/>' in chart


def test_length_of_a_bar_is_proportional_to_its_value():
    # The width of a full bar is 720 - 56 - 48 = 616.
    chart = bar_chart({"trained": {"de": 50.0}}, ["de", "ja"], width=720)
    assert [float(w) for w in re.findall(r'<rect[^>]* width="([\d.]+)"', chart)] == [308.0]
