"""Every command alone, on files of its own."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from kdkeras.__main__ import main
from tests.cli.conftest import TEACHERS, held_out_folder


def test_targets_hold_what_the_teacher_says(targets):
    from kdkeras import teachers
    from kdkeras.data import DistillationSet

    folder, result = targets
    dataset = DistillationSet(folder)
    teacher = teachers.load(TEACHERS / "mean")
    assert result["pairs"] == dataset.num_pairs == sum(result["pairs_by_language"].values())
    assert set(result["pairs_by_language"]) == {"de", "ru"}
    assert dataset.teacher["fingerprint"] == teacher.fingerprint


def test_targets_run_again_keeps_what_is_there(command, corpus, targets):
    folder, result = targets
    shard = next(folder.glob("*.tfrecord"))
    written = shard.stat().st_mtime_ns
    again = command("targets", *corpus, "--teacher", TEACHERS / "mean", "--output", folder)
    assert again == result
    assert shard.stat().st_mtime_ns == written


def test_targets_leave_out_what_is_excluded(command, corpus, tmp_path):
    first = corpus[0].read_text("utf-8").splitlines()[0].split("\t")[0]
    (tmp_path / "test.tsv").write_text(f"{first}\tx\n", "utf-8")
    result = command(
        *("targets", corpus[0], "--teacher", TEACHERS / "mean", "--output", tmp_path / "set"),
        *("--exclude", tmp_path / "test.tsv"),
    )
    assert result["corpus"]["dropped"]["excluded"] >= 1


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
def test_vocabulary_of_each_kind_reads_corpus_files(command, corpus, tmp_path, kind):
    from kdkeras.data import load_vocabulary

    folder = tmp_path / kind
    command("vocabulary", *corpus, "--size", 600, "--kind", kind, "--output", folder)
    loaded = load_vocabulary(folder)
    assert (loaded.kind, loaded.size) == (kind, 600)


def test_distill_lowers_every_loss_and_keeps_the_history(student):
    path, result = student
    history = json.loads((path.parent / "history.json").read_text())
    assert [entry["step"] for entry in history] == [10, 20, 30, 40]
    assert result["steps"] == 40
    for name in ("loss", "embedding", "similarity", "ranking"):
        assert history[-1][name] < history[0][name]
    assert not path.with_suffix(".backup").exists()


def test_a_static_student_starts_from_the_targets(command, targets, vocabulary, student, tmp_path):
    result = command(
        *("distill", targets[0], "--vocabulary", vocabulary[0], "--student", "static_128"),
        *("--output", tmp_path / "s.keras", "--batch-size", 16, "--steps", 10),
    )
    assert result["first"]["embedding"] < 0.7 * student[1]["first"]["embedding"]


def test_distill_stops_inside_a_round_at_the_last_step(command, targets, vocabulary, tmp_path):
    result = command(
        *("distill", targets[0], "--vocabulary", vocabulary[0], "--student", "static_128"),
        *("--output", tmp_path / "s.keras", "--batch-size", 16, "--steps", 7),
        *("--checkpoint-every", 5, "--losses", "embedding=2"),
    )
    assert result["last"]["step"] == 7
    assert set(result["last"]) == {"step", "loss", "embedding"}
    assert result["last"]["loss"] == pytest.approx(2 * result["last"]["embedding"], rel=1e-5)


def test_a_weight_that_decays_is_zero_after_its_fraction(command, targets, vocabulary, tmp_path):
    result = command(
        "distill", targets[0], "--vocabulary", vocabulary[0], "--output", tmp_path / "s.keras",
        "--student", "static_128", "--batch-size", 16, "--steps", 20, "--checkpoint-every", 5,
        "--losses", "embedding=1", "ranking=0.8", "--decay", "ranking=0.5",
    )  # fmt: skip
    history = json.loads((tmp_path / "history.json").read_text("utf-8"))
    # Steps 0 to 4 of 10 fall from 0.8 to 0.48, steps 5 to 9 to 0.08.
    weights = [entry["weight_ranking"] for entry in history]
    assert weights == pytest.approx([0.64, 0.24, 0.0, 0.0], abs=1e-6)
    assert result["last"]["loss"] == pytest.approx(result["last"]["embedding"], rel=1e-6)


def test_mixed_precision_saves_a_float32_student(command, targets, vocabulary, tmp_path):
    import kdkeras

    path = tmp_path / "s.keras"
    command(
        *("distill", targets[0], "--vocabulary", vocabulary[0], "--student", "static_128"),
        *("--output", path, "--batch-size", 16, "--steps", 4, "--mixed-precision", "bfloat16"),
    )
    assert kdkeras.load(path).dtype_policy.name == "float32"


def test_evaluate_gives_the_evaluators_figures(command, student):
    import kdkeras
    from kdkeras.data import read_retrieval_pairs
    from kdkeras.evaluation import RetrievalEvaluator

    file = held_out_folder() / "de.tsv"
    metrics = command("evaluate", student[0], "--bitext", file)["metrics"]
    pairs = read_retrieval_pairs(held_out_folder())["de"]
    expected = RetrievalEvaluator("de", *pairs)(kdkeras.load(student[0]))
    assert metrics == pytest.approx(expected)


def test_embed_prints_what_encode_gives(command, student):
    import kdkeras

    texts = [row.split("\t")[0] for row in (held_out_folder() / "de.tsv").open(encoding="utf-8")]
    result = command("embed", student[0], *texts[:3])
    expected = kdkeras.load(student[0]).encode(texts[:3])
    np.testing.assert_allclose(result["embeddings"], expected, atol=1e-6)


def test_embed_reads_stdin_and_writes_npy(student, tmp_path, monkeypatch, capsys):
    text = (held_out_folder() / "ru.tsv").read_text("utf-8").split("\t")[0]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{text}\n{text}\n".encode())))
    assert main(["embed", str(student[0]), "--output", str(tmp_path / "v.npy")]) == 0
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.dtype == np.float32 and vectors.shape[0] == 2
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert "v.npy" in capsys.readouterr().out


def test_without_json_embed_prints_json_lines(student, capsys):
    texts = (held_out_folder() / "de.tsv").read_text("utf-8").splitlines()[0].split("\t")
    assert main(["embed", str(student[0]), *texts]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == texts


def test_export_verifies_every_artefact_in_every_language(command, student, tmp_path):
    result = command(
        *("export", student[0], "--output", tmp_path / "out", "--held-out", held_out_folder()),
        *("--format", "tflite_float32", "tflite_int8", "--sequence-lengths", 16, 64),
    )
    assert (tmp_path / "out" / "model.int8.tflite").is_file()
    languages = {path.stem for path in held_out_folder().glob("*.tsv")}
    artefacts = result["parity"]["artefacts"]
    assert set(artefacts) == set(result["artefacts"]) == {"tflite_float32", "tflite_int8"}
    assert all(set(artefact["languages"]) == languages for artefact in artefacts.values())


@pytest.fixture
def graded(tmp_path):
    """Real pairs with a score: 1 for a translation, 0 for another sentence."""
    rows = [
        row.split("\t") for row in (held_out_folder() / "de.tsv").read_text("utf-8").splitlines()
    ]
    others = [*rows[1:], rows[0]]
    lines = [f"{foreign}\t{english}\t1" for foreign, english in rows]
    lines += [f"{row[0]}\t{other[1]}\t0" for row, other in zip(rows, others, strict=True)]
    path = tmp_path / "de-en.test.tsv"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_export_verifies_similarity_and_names_what_loses_it(
    command, student, graded, tmp_path, capsys
):
    from kdkeras.evaluation import read_similarity
    from kdkeras.export import LiteStudent

    arguments = ("export", student[0], "--output", tmp_path / "out", "--overwrite")
    arguments += ("--held-out", held_out_folder(), "--sts", graded, "--sequence-lengths", 64)
    # Random pairs of a student that was hardly trained: the gates are for another test.
    loose = ("--int4-cosine-mean", 0, "--int4-accuracy-loss", 100, "--int4-spearman-loss", 100)
    result = command(*arguments, "--format", "tflite_int4", *loose)
    figures = result["parity"]["artefacts"]["tflite_int4"]["similarity"]["de_en_test"]
    expected = read_similarity(graded)(LiteStudent(tmp_path / "out"))["de_en_test_spearman"]
    assert figures["spearman"] == pytest.approx(expected)
    gate = ("--format", "tflite_int4", "--int4-cosine-mean", 1, *loose[2:])
    assert main([str(item) for item in (*arguments, *gate)]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "tflite_int4 in de_en_test: mean cosine" in line and "below 1" in line


def test_quantisation_in_the_loop_trains_another_float32_student(
    command, targets, vocabulary, student, tmp_path
):
    import kdkeras

    found = {}
    for fraction in ("0.5", "1"):
        path = tmp_path / f"{fraction}.keras"
        command(
            *("distill", targets[0], "--vocabulary", vocabulary[0], "--student", "static_128"),
            *("--output", path, "--batch-size", 16, "--steps", 10, "--start", "random"),
            *("--quantize-in-the-loop", f"int4:{fraction}"),
        )
        loaded = kdkeras.load(path)
        assert loaded.fake_quantization is None
        found[fraction] = loaded.get_weights()
    moved = max(np.abs(a - b).max() for a, b in zip(*found.values(), strict=True))
    assert 1e-5 < moved < 0.5


def test_a_failed_gate_is_status_1_and_names_the_language(student, tmp_path, capsys):
    arguments = ["export", str(student[0]), "--output", str(tmp_path / "out"), "--format"]
    gate = ["tflite_int8", "--held-out", str(held_out_folder()), "--int8-cosine-mean", "1"]
    assert main([*arguments, *gate]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "tflite_int8 in ar" in line and "below 1" in line
