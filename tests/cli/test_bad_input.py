"""Invalid input is one line with the next step, status 2, and nothing is written."""

from __future__ import annotations

import shutil
import sys
import zipfile

import pytest

from kdkeras.__main__ import main
from tests.cli.conftest import TEACHERS, held_out_folder


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail; returns the line of its error."""

    def run(*arguments, status=2, alone=False):
        """`alone`: the line must be the only output."""
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == status
        output = capsys.readouterr()
        line = output.err.strip().splitlines()[-1]
        assert not alone or output.err == f"{line}\n"
        assert line.startswith("kdkeras: error: ")
        assert "Traceback" not in output.err
        assert output.out == ""
        return line

    return run


CORPORA = {
    "missing file": (None, 10, "en-de.tsv"),
    "row without a tab": (b"a\tb\nno tab here\n", 1, "line 2"),
    "empty corpus": (b"", 1, "0 rows"),
    "wrong encoding": ("Straße\tx\n".encode("latin-1"), 1, "UTF-8"),
    "too few pairs": (b"Let's try something.\tProbieren wir etwas!\n", 10, "de (1)"),
}


@pytest.mark.parametrize("content, min_pairs, message", CORPORA.values(), ids=CORPORA)
def test_a_corpus_that_cannot_be_used_is_refused(refused, tmp_path, content, min_pairs, message):
    file = tmp_path / "en-de.tsv"
    if content is not None:
        file.write_bytes(content)
    line = refused(
        *("targets", file, "--teacher", TEACHERS / "mean", "--output", tmp_path / "set"),
        *("--min-pairs", min_pairs),
        alone=True,
    )
    assert message in line and str(file) in line
    assert not (tmp_path / "set").exists()


def test_a_missing_file_without_a_language_in_its_name_is_named(refused, tmp_path):
    line = refused(
        "targets", tmp_path / "no.txt", "--teacher", TEACHERS / "mean", "--output", tmp_path / "s"
    )
    assert "must exist" in line and "no.txt" in line


TOO_LARGE = {
    "batch_size": ("--batch-size", 100_000),
    "dims": ("--dims", 4096, "--batch-size", 16),
}


@pytest.mark.parametrize("name, options", TOO_LARGE.items(), ids=TOO_LARGE)
def test_options_that_do_not_fit_the_set_are_refused_before_the_start(
    refused, targets, vocabulary, tmp_path, name, options
):
    line = refused(
        *("distill", targets[0], "--vocabulary", vocabulary[0], "--output", tmp_path / "s.keras"),
        *("--student", "static_128", *options),
        alone=True,
    )
    assert name in line


def test_the_history_of_another_training_is_not_overwritten(refused, targets, vocabulary, tmp_path):
    (tmp_path / "s.history.json").write_text("[]")
    line = refused(
        *("distill", targets[0], "--vocabulary", vocabulary[0], "--output", tmp_path / "s.keras"),
        *("--student", "static_128", "--batch-size", 16, "--steps", 1),
    )
    assert "s.history.json" in line and "--overwrite" in line
    assert (tmp_path / "s.history.json").read_text() == "[]"


def test_a_teacher_folder_that_lacks_a_file_is_named(refused, corpus, tmp_path):
    shutil.copytree(TEACHERS / "mean", tmp_path / "teacher")
    (tmp_path / "teacher" / "model.safetensors").unlink()
    line = refused(
        *("targets", *corpus, "--teacher", tmp_path / "teacher", "--output", tmp_path / "set")
    )
    assert "safetensors" in line and str(tmp_path / "teacher") in line


def test_targets_of_another_teacher_are_refused_and_kept(refused, corpus, targets):
    before = {path.name: path.read_bytes() for path in targets[0].iterdir()}
    line = refused("targets", *corpus, "--teacher", TEACHERS / "cls", "--output", targets[0])
    assert "teacher" in line
    assert {path.name: path.read_bytes() for path in targets[0].iterdir()} == before


def test_a_hub_name_without_the_extra_names_the_extra(refused, corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = refused(
        *("targets", *corpus, "--teacher", "hf://sentence-transformers/all-MiniLM-L6-v2"),
        *("--output", tmp_path / "set"),
    )
    assert "kdkeras[hub]" in line


@pytest.mark.parametrize("damage", ["truncated", "corrupted"])
def test_a_damaged_shard_is_named(refused, targets, vocabulary, tmp_path, damage):
    folder = tmp_path / "set"
    shutil.copytree(targets[0], folder)
    shard = next(folder.glob("*.tfrecord"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    line = refused(
        *("distill", folder, "--vocabulary", vocabulary[0], "--output", tmp_path / "s.keras"),
        *("--student", "static_128", "--batch-size", 16, "--epochs", 1),
    )
    assert shard.name in line
    assert not (tmp_path / "s.keras").exists()


def test_a_missing_set_is_refused(refused, vocabulary, tmp_path):
    arguments = ("--vocabulary", vocabulary[0], "--output", tmp_path / "s.keras")
    assert str(tmp_path / "no") in refused("distill", tmp_path / "no", *arguments)


def test_unknown_sizes_and_losses_are_refused(refused, targets, vocabulary, tmp_path):
    arguments = ("--vocabulary", vocabulary[0], "--output", tmp_path / "s.keras")
    assert "static_256" in refused("distill", targets[0], *arguments, "--student", "huge")
    assert "'hinge'" in refused("distill", targets[0], *arguments, "--losses", "hinge=1")
    assert "'hinge'" in refused("distill", targets[0], *arguments, "--decay", "hinge=0.5")
    assert "2.0" in refused("distill", targets[0], *arguments, "--decay", "ranking=2")


def test_an_existing_output_is_not_overwritten(
    refused, student, targets, vocabulary, corpus, tmp_path
):
    path, _ = student
    before = path.read_bytes()
    (tmp_path / "v.npy").write_bytes(b"mine")
    for arguments in (
        ("distill", targets[0], "--vocabulary", vocabulary[0], "--output", path),
        ("vocabulary", *corpus, "--output", vocabulary[0]),
        ("export", path, "--output", tmp_path),
        ("embed", path, "Hallo!", "--output", tmp_path / "v.npy"),
    ):
        assert "--overwrite" in refused(*arguments)
    assert path.read_bytes() == before
    assert (tmp_path / "v.npy").read_bytes() == b"mine"


def test_a_model_with_a_vocabulary_of_another_size_is_refused(
    refused, command, student, corpus, tmp_path
):
    command("vocabulary", *corpus, "--size", 500, "--output", tmp_path / "other")
    changed = tmp_path / "s.keras"
    with zipfile.ZipFile(student[0]) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            other = tmp_path / "other" / name.rpartition("/")[2]
            is_vocabulary = "/vocabulary/" in name and other.is_file()
            new.writestr(name, other.read_bytes() if is_vocabulary else old.read(name))
    line = refused("embed", changed, "Hallo!")
    assert "500 tokens, 600 rows" in line


def test_code_in_a_model_is_not_run(refused, tmp_path):
    import keras

    model = keras.Sequential([keras.Input((1,)), keras.layers.Lambda(lambda x: x)])
    model.save(tmp_path / "unknown.keras")
    assert "safe mode" in refused("embed", tmp_path / "unknown.keras", "Hallo!")


def test_a_model_without_text_embeddings_is_refused(refused, tmp_path):
    import keras

    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    assert "a Sequential" in refused("embed", tmp_path / "other.keras", "Hallo!")


@pytest.mark.parametrize("name", ["none.keras", "no_such_name"])
def test_a_missing_model_is_refused(refused, name):
    assert name in refused("embed", name, "Hallo!")


def test_a_full_disk_leaves_no_file(refused, student, tmp_path):
    import resource

    # For this process the disk is full after 1 kB.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        refused("embed", student[0], "Hallo!", "Guten Morgen!", "--output", tmp_path / "v.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_is_named_with_status_2(refused, targets, vocabulary, tmp_path):
    line = refused(
        *("distill", targets[0], "--vocabulary", vocabulary[0], "--output", tmp_path / "s.keras"),
        *("--student", "static_128", "--batch-size", 16, "--steps", 40, "--warmup", 0),
        *("--learning-rate", 1e30),
    )
    assert "embedding" in line and "step" in line


USAGE = {
    "no command": ([], "COMMAND"),
    "unknown command": (["distil"], "'distil'"),
    "zero epochs": (["distill", "s", "--epochs", "0"], "--epochs: must be a whole number"),
    "alpha above 1": (["distill", "s", "--language-temperature", "2"], "from 0 to 1"),
    "weight without a number": (["distill", "s", "--losses", "embedding"], "--losses"),
    "STS without translations": (
        ["export", "x.keras", "--output", "o", "--sts", "en-de.tsv"],
        "without --held-out",
    ),
    "unknown scheme": (
        ["distill", "s", "--quantization-aware-training", "int2"],
        "must be int4 or int8",
    ),
    "start out of range": (
        ["distill", "s", "--quantization-aware-training", "int4:2"],
        "from 0 to 1",
    ),
    "evaluation without data": (["evaluate", "x.keras"], "--sts"),
    "index without translations": (
        ["evaluate", "x", "--sts", "y", "--index-teacher", "z"],
        "--bitext",
    ),
    "invalid size": (["export", "x", "--max-size", "8 apples"], "such as 8MB"),
    "size zero": (["export", "x", "--max-size", "0MB"], "received '0MB'"),
    "negative size": (["export", "x", "--max-size=-8MB"], "received '-8MB'"),
    "empty language": (["export", "x", "--languages", "de,,ja"], "received 'de,,ja'"),
    "epochs and steps": (["distill", "s", "--epochs", "1", "--steps", "1"], "not allowed"),
}


@pytest.mark.parametrize("arguments, message", USAGE.values(), ids=USAGE)
def test_wrong_usage_is_one_line(refused, arguments, message):
    assert message in refused(*arguments)


def test_impossible_sizes_and_languages_are_refused(refused, student, targets, tmp_path):
    held_out = ("--held-out", held_out_folder())
    out = ("export", student[0], "--output", tmp_path / "out")
    small = ("--max-size", "8MB")
    line = refused(*out, *small, *held_out, "--languages", "de,xx")
    assert "Received: xx" in line and "ar, de, es" in line
    line = refused(*out, "--languages", "xx", "--set", targets[0])
    assert "Received: ['xx']" in line and "['de', 'en', 'ru']" in line
    assert "--held-out" in refused(*out, *small)
    assert "--set" in refused(*out, "--languages", "de")
    assert "--set alone" in refused(*out, "--set", targets[0])
    assert "tflite_int8" in refused(*out, *small, *held_out, "--format", "saved_model")
    line = refused(*out, "--max-size", "10kB", *held_out, "--languages", "de", "--set", targets[0])
    assert "smallest student" in line and "Received: 10,000 bytes" in line
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (pairs / "de.tsv").write_text(
        (held_out_folder() / "de.tsv").read_text("utf-8").split("\n")[0], "utf-8"
    )
    assert "fewer than 2 pairs of de" in refused(*out, *small, "--held-out", pairs)
    assert not (tmp_path / "out").exists()
