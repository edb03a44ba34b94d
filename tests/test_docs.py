"""The examples and commands of README.md and docs run unchanged."""

from __future__ import annotations

import gzip
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import kdkeras
from kdkeras.__main__ import main
from kdkeras.data import load_vocabulary, read_translation_pairs, sample_folder

ROOT = Path(__file__).parents[1]
TEACHER = ROOT / "tests" / "teachers" / "tiny_bert" / "mean"
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
BENCHMARKS = [ROOT / "benchmarks" / "README.md", ROOT / "benchmarks" / "growth" / "README.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Names in the documentation, and their local, small replacements in the tests.
STAND_INS = {
    "hf://sentence-transformers/all-MiniLM-L6-v2": str(TEACHER),
    "--teacher FOLDER": f"--teacher {TEACHER}",
    "--size 32000": "--size 600",
    "/shared/": "shared-",
    "steps_per_epoch=dataset.num_pairs // 512": "steps_per_epoch=2",
    "epochs=9": "epochs=1, steps_per_epoch=2",
    "deu-eng.tsv": str(sample_folder() / "held_out" / "de.tsv"),
    "TEACHER": str(TEACHER),
    "demo-output/student.keras": "student.keras",
    "--output-dim 384": "--output-dim 32",
    "kdkeras/sample": str(sample_folder()),
}
# Options that make a documented command short.
SHORT = {"distill": "--batch-size 16 --steps 2"}


def blocks(page, language):
    return [code for name, code in BLOCK.findall(page.read_text("utf-8")) if name == language]


def with_stand_ins(text):
    # In one pass: what replaces one name may contain another.
    names = "|".join(map(re.escape, STAND_INS))
    return re.sub(names, lambda found: STAND_INS[found[0]], text)


def commands(page):
    """The `kdkeras` commands of a page, each in one line."""
    lines = "\n".join(blocks(page, "")).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith("kdkeras ")]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the corpora that the documentation names."""
    folder = tmp_path_factory.mktemp("project")
    pairs = read_translation_pairs(sample_folder() / "held_out")
    for language in ("de", "ja"):
        rows = "".join(f"{e}\t{f}\n" for f, e in zip(*pairs[language], strict=True))
        (folder / f"en-{language}.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    (folder / "test.tsv").write_text("Hello.\tHallo.\n", "utf-8")
    return folder


def run_page(name, folder, monkeypatch, **names):
    """Runs the Python examples of a page in order, in one namespace; returns the namespace."""
    monkeypatch.chdir(folder)
    keras.utils.set_random_seed(0)
    for code in blocks(PAGES[name], "python"):
        exec(compile(with_stand_ins(code), name, "exec"), names)  # noqa: S102
    return names


def test_readme_trains_and_exports_a_student(project, monkeypatch):
    """With a recipe of few steps and tokens, and otherwise unchanged."""
    for name, value in (("steps", 4), ("batch_size", 16), ("vocabulary_size", 600)):
        monkeypatch.setattr(
            kdkeras.Recipe.__init__,
            "__kwdefaults__",
            {**kdkeras.Recipe.__init__.__kwdefaults__, name: value},
        )
    names = run_page("README.md", project, monkeypatch)
    assert names["result"].steps == 4
    assert (project / "mine.keras").is_file() and (project / "out" / "model.int8.tflite").is_file()


@pytest.mark.slow
def test_training_by_hand_equals_train(tmp_path, monkeypatch):
    names = run_page("training.md", tmp_path, monkeypatch)
    texts = ["Guten Morgen.", "Доброе утро.", "おはよう"]
    by_recipe, by_hand = names["result"].student, kdkeras.load(tmp_path / "by-hand.keras")
    cosines = (by_recipe.encode(texts) * by_hand.encode(texts)).sum(axis=1)
    assert cosines.min() > 0.9999


def test_losses_work_in_both_distillers(tmp_path, monkeypatch):
    names = run_page("losses.md", tmp_path, monkeypatch)
    for distiller in (names["stock"], names["ours"]):
        assert int(distiller.optimizer.iterations) == 2
    assert set(names["classifier"].output) == {"embedding", "logits"}


def test_stages_train_as_described(tmp_path, monkeypatch):
    names = run_page("schedules-and-stages.md", tmp_path, monkeypatch)
    # Three epochs in stages, and one of the example of quantization-aware training.
    assert int(names["distiller"].optimizer.iterations) == 80


@pytest.mark.slow
@pytest.mark.parametrize("name", ["growth.md", "small.md"])
def test_growth_and_compression_run(name, tmp_path, monkeypatch):
    names = run_page(name, tmp_path, monkeypatch)
    assert "larger" in names or names["small"].embedding_dim == 128


def test_distribution_trains_and_checks(sample_set, vocabulary, tmp_path, monkeypatch):
    """On one device: the page is the same script for all strategies."""
    student = kdkeras.students.build_student("static_128", vocabulary=vocabulary, output_dim=384)
    losses = {"embedding": kdkeras.losses.EmbeddingDistillation()}
    distiller = kdkeras.Distiller(student, distillation_losses=losses)
    distiller.compile(kdkeras.optimizers.FusedAdam(1e-3))
    given = {"dataset": sample_set, "vocabulary": vocabulary, "distiller": distiller}
    run_page("distribution.md", tmp_path, monkeypatch, kdkeras=kdkeras, **given)
    assert (tmp_path / "shared-backup" / "state.json").is_file()
    assert int(distiller.optimizer.iterations) > 0


def run_commands(names, monkeypatch, folder, capsys):
    """Runs the commands of pages as documented; returns what ran."""
    monkeypatch.chdir(folder)
    found = [command for name in names for command in commands(PAGES[name])]
    for command in found:
        words = shlex.split(with_stand_ins(command))[1:]
        words += shlex.split(SHORT.get(words[0], ""))
        if "multi_worker" in words:
            continue  # Needs several machines; tests/distribution/test_workers.py runs it.
        if words[0] in ("targets", "vocabulary", "distill", "grow", "export"):
            words.append("--overwrite")
        assert main(words) == 0, f"{command}: {capsys.readouterr().err}"
    return [command.split()[1] for command in found]


def test_commands_from_targets_to_a_student_run(project, monkeypatch, capsys):
    kdkeras.Recipe(student="static_128", dims=()).save(project / "s.recipe.json")
    ran = run_commands(["data.md", "vocabularies.md", "training.md"], monkeypatch, project, capsys)
    assert ran == ["targets", "vocabulary", "distill"]
    assert (project / "again.keras").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "size", "ran"),
    [
        ("growth.md", "tiny", ["grow", "distill"]),
        ("small.md", "static_128", ["export", "evaluate"]),
        ("distribution.md", "static_128", ["distill", "check-tpu", "check-tpu"]),
    ],
)
def test_commands_on_a_trained_student_run(page, size, ran, project, monkeypatch, capsys):
    run_commands(["data.md", "vocabularies.md"], monkeypatch, project, capsys)
    vocabulary = load_vocabulary(project / "vocabulary")
    student = kdkeras.students.build_student(size, vocabulary=vocabulary, output_dim=32)
    student.save(project / "student.keras")
    assert run_commands([page], monkeypatch, project, capsys) == ran


def benchmark_commands():
    """Every documented benchmark command: its script and its options."""
    for page in [*PAGES.values(), *BENCHMARKS, ROOT / "export" / "README.md"]:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(r"python (benchmarks/\S+\.py[^`|\n]*)", text):
            yield page.name, *line.split(" ", 1)


@pytest.mark.parametrize("script", sorted({script for _, script, *_ in benchmark_commands()}))
def test_benchmark_has_the_options_that_are_documented(script):
    output = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True
    )
    documented = {
        option
        for _, other, *rest in benchmark_commands()
        if other == script
        for option in re.findall(r"--[a-z-]+", " ".join(rest))
    }
    assert documented <= {"--help", *re.findall(r"--[a-z-]+", output.stdout)}


def test_links_between_pages_exist():
    for page in [*PAGES.values(), *BENCHMARKS, ROOT / "export" / "README.md"]:
        text = BLOCK.sub("", page.read_text("utf-8"))
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
