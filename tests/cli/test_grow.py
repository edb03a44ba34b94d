"""`kdkeras grow`, and `kdkeras distill --student` with the grown student."""

from __future__ import annotations

import json

import numpy as np
import pytest
from contracts import assert_one_line

import kdkeras
from kdkeras import teachers
from kdkeras.__main__ import main
from kdkeras.growth import FlopLedger
from kdkeras.students import TransformerStudent, forward_flops
from tests.cli.conftest import TEACHERS

TEXTS = ["Guten Morgen.", "Где моя книга?", "I am happy to hear your voice.", ""]


@pytest.fixture(scope="module")
def grown(command, student, tmp_path_factory):
    path = tmp_path_factory.mktemp("grown") / "grown.keras"
    sizes = ["--layers", 1, "--hidden", 192, "--heads", 3, "--intermediate", 256]
    costs = ["--small-steps", 40, "--main-steps", 12, "--batch-size", 16, "--length", 32]
    costs += ["--teacher", TEACHERS / "mean", "--teacher-sentences", 100]
    costs += ["--report", path.parent / "report"]
    return path, command("grow", student[0], "--output", path, *sizes, *costs)


def test_layers_on_a_table_preserve_the_embeddings(student, grown):
    path, result = grown
    small, large = kdkeras.load(student[0]), kdkeras.load(path)
    assert isinstance(large, TransformerStudent)
    assert (large.num_layers, large.hidden_dim, large.num_heads) == (1, 192, 3)
    np.testing.assert_allclose(large.encode(TEXTS), small.encode(TEXTS), rtol=0, atol=1e-5)
    certificate = json.loads(path.with_suffix(".certificate.json").read_text())
    assert certificate["keeps_function"] and certificate["maximum_error"] < 1e-5
    assert certificate["probe"] == "texts" and certificate["probe_size"] >= 250
    assert certificate.items() <= result.items()
    parameters = [certificate[f"parameters_{when}"] for when in ("before", "after")]
    assert parameters == [small.count_params(), large.count_params()]
    assert json.loads(path.with_suffix(".certificate.json").read_text())["steps"]


def test_the_ledger_counts_both_runs(student, grown):
    path, result = grown
    small, large = kdkeras.load(student[0]), kdkeras.load(path)
    # Both sides of 16 pairs; a step costs three forward passes.
    teacher = teachers.load(TEACHERS / "mean").model.backbone
    runs = {
        "teacher": 100 * forward_flops(teacher, 32),
        "small run": 40 * 32 * 3 * forward_flops(small, 32),
        "growth": result["flops_growth"],
        "main run": 12 * 32 * 3 * forward_flops(large, 32),
    }
    assert result["ledger"] == {
        "postings": [{"name": name, "flops": flops} for name, flops in runs.items()],
        "total": sum(runs.values()),
    }
    runs = list(runs.values())
    ledger = FlopLedger.from_dict(result["ledger"])
    assert ledger.to_dict() == result["ledger"]
    assert ledger.shares()["small run"] == pytest.approx(runs[1] / sum(runs))


def test_the_report_shows_certificate_and_costs(grown):
    path, result = grown
    folder = path.parent / "report"
    assert result["report"] == str(folder / "report.html")
    data = json.loads((folder / "report.json").read_text("utf-8"))
    certificate = json.loads(path.with_suffix(".certificate.json").read_text())
    assert data["growth"] == certificate and data["ledger"] == result["ledger"]
    page = (folder / "report.html").read_text("utf-8")
    for shown in (
        "LayersOnTable",
        f"{certificate['parameters_after']:,}",
        f"{certificate['maximum_error']:.1e}",
        "The function is preserved: on",
        *(f"{posting['flops']:.3e}" for posting in result["ledger"]["postings"]),
    ):
        assert shown in page, shown


@pytest.fixture(scope="module")
def trained(command, grown, targets, vocabulary, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "more.keras"
    options = ["--vocabulary", vocabulary[0], "--batch-size", 16, "--learning-rate", "1e-3"]
    return path, command(
        *("distill", targets[0], "--student", grown[0], "--output", path, *options),
        *("--steps", 30, "--checkpoint-every", 10),
    )


def test_training_continues_with_the_grown_student(
    command, grown, trained, targets, vocabulary, tmp_path
):
    path, result = trained
    assert result["last"]["loss"] < 0.9 * result["first"]["loss"]
    first = kdkeras.load(grown[0])
    assert np.abs(kdkeras.load(path).encode(TEXTS) - first.encode(TEXTS)).max() > 1e-2
    # One step at a negligible learning rate leaves the student unchanged.
    still = tmp_path / "still.keras"
    command(
        *("distill", targets[0], "--student", grown[0], "--output", still),
        *("--vocabulary", vocabulary[0], "--batch-size", 16),
        *("--steps", 1, "--learning-rate", "1e-12"),
    )
    np.testing.assert_allclose(
        kdkeras.load(still).encode(TEXTS), first.encode(TEXTS), rtol=0, atol=1e-5
    )


def test_stacking_requires_that_the_function_may_change(command, trained, tmp_path, capsys):
    path = tmp_path / "stacked.keras"
    options = ["grow", str(trained[0]), "--output", str(path)]
    options += ["--layers", "2", "--depth", "stacking"]
    assert main(options) == 2
    assert_one_line(capsys.readouterr().err.strip(), "keeps_function=False")
    assert list(tmp_path.iterdir()) == []
    result = command(*options, "--change-function")
    assert result["keeps_function"] is False and result["cosine_drift"] > 1e-4
    assert kdkeras.load(path).num_layers == 2


BAD = {
    "a teacher alone": (["--layers", "1", "--teacher", "x"], "--teacher-sentences, or neither"),
    "nothing": ([], "at least one size to grow"),
    "no multiple": (["--hidden", "200"], "200"),
    "smaller": (["--layers", "1", "--hidden", "96"], "96"),
    "unknown method": (["--layers", "2", "--method", "magic"], "net2wider"),
    "no probe": (["--layers", "2", "--probe", "missing.txt"], "missing.txt"),
    "of a table": (["--embedding", "256"], "embedding_dim"),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_input_is_refused_in_one_line_and_nothing_is_written(case, grown, tmp_path, capsys):
    options, part = BAD[case]
    assert main(["grow", str(grown[0]), "--output", str(tmp_path / "out.keras"), *options]) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line and part in line
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_not_overwritten(grown, tmp_path, capsys):
    path = tmp_path / "out.keras"
    path.write_text("mine")
    assert main(["grow", str(grown[0]), "--output", str(path), "--layers", "2"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--table-rank", "8"], "--table-rank and --student"),
        (["--start", "targets"], "--start and --student"),
        (["--vocabulary", "{other}"], "its own vocabulary"),
    ],
)
def test_arguments_that_the_student_already_determines_are_refused(
    command, corpus, grown, targets, vocabulary, tmp_path, capsys, options, part
):
    other = tmp_path / "other"
    if "{other}" in options:
        command("vocabulary", *corpus, "--size", 500, "--output", other)
    options = [str(other) if option == "{other}" else option for option in options]
    arguments = ["distill", targets[0], "--student", grown[0], "--vocabulary", vocabulary[0]]
    assert main([*map(str, [*arguments, "--output", tmp_path / "o.keras"]), *options]) == 2
    assert_one_line(capsys.readouterr().err.strip(), part)
    assert not (tmp_path / "o.keras").exists()


def test_a_ledger_refuses_duplicate_names_and_negative_costs():
    with pytest.raises(kdkeras.errors.InputError, match="twice"):
        FlopLedger().add("main run", 1).add("main run", 2)
    with pytest.raises(kdkeras.errors.InputError, match="integer of at least 0"):
        FlopLedger().add("main run", -1)
