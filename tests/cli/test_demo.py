"""The demo runs the main job on the bundled sample and writes all results to one folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdkeras.__main__ import main


@pytest.fixture(scope="module")
def demo(command, tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "out"
    options = ["--epochs", 1, "--student", "static_128"]
    return output, command("demo", "--output", output, *options)


@pytest.mark.slow
def test_demo_improves_every_language_of_the_sample(demo):
    _, result = demo
    assert len(result["languages"]) >= 12
    gains = [accuracy["after"] - accuracy["before"] for accuracy in result["languages"].values()]
    assert min(gains) > 0.2


@pytest.mark.slow
def test_demo_writes_every_path_that_it_names(demo):
    output, result = demo
    assert set(result["paths"]) == {
        *("student", "recipe", "artifacts"),
        *("report", "report data", "model card"),
    }
    for path in result["paths"].values():
        assert Path(path).exists() and output in Path(path).parents
    report = json.loads((output / "report.json").read_text())
    assert report["accuracy"]["trained"] == pytest.approx(
        {name: accuracy["after"] for name, accuracy in result["languages"].items()}
    )


@pytest.mark.slow
def test_demo_verifies_all_four_formats_in_every_language(demo):
    _, result = demo
    assert len(result["artifacts"]) == 4
    for artifact in result["artifacts"].values():
        assert set(artifact["languages"]) == set(result["languages"])
        assert artifact["cosine_mean"] > 0.99


@pytest.mark.slow
def test_demo_readable_result_shows_languages_and_paths(demo, capsys):
    from rich.console import Console

    from kdkeras.cli.demo import show

    _, result = demo
    console = Console(width=120)
    for part in show(result):
        console.print(part)
    printed = capsys.readouterr().out
    assert all(name in printed for name in result["languages"])
    assert all(Path(path).name in printed for path in result["paths"].values())


def test_demo_refuses_a_folder_of_other_files(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "contains other files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_demo_replaces_an_earlier_demo_and_keeps_what_else_is_there(demo, command):
    output, _ = demo
    (output / "notes.txt").write_text("mine")
    before = (output / "report.json").read_text()
    result = command("demo", "--output", output, "--epochs", 1, "--student", "static_128")
    assert (output / "notes.txt").read_text() == "mine"
    assert (output / "report.json").read_text() != before
    assert Path(result["paths"]["artifacts"]).is_dir()
