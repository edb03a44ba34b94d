"""The result of every command, on small files."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from kdkeras.__main__ import main
from tests.cli.conftest import TEACHERS, held_out_folder


def test_targets_are_the_embeddings_of_the_teacher(targets):
    from kdkeras import teachers
    from kdkeras.data import DistillationSet

    folder, result = targets
    dataset = DistillationSet(folder)
    teacher = teachers.load(TEACHERS / "mean")
    assert result["pairs"] == dataset.num_pairs == sum(result["pairs_by_language"].values())
    assert set(result["pairs_by_language"]) == {"de", "ru"}
    assert dataset.teacher["fingerprint"] == teacher.fingerprint


def test_targets_again_changes_nothing(command, corpus, targets):
    folder, result = targets
    shard = next(folder.glob("*.tfrecord"))
    written = shard.stat().st_mtime_ns
    again = command("targets", *corpus, "--teacher", TEACHERS / "mean", "--output", folder)
    assert again == result
    assert shard.stat().st_mtime_ns == written


def test_targets_exclude_the_sentences_of_a_test_set(command, corpus, tmp_path):
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


def test_distill_lowers_every_loss_and_writes_the_history(student):
    path, result = student
    history = json.loads(path.with_suffix(".history.json").read_text())
    assert [entry["step"] for entry in history] == [10, 20, 30, 40]
    assert result["steps"] == 40
    for name in ("loss", "embedding", "similarity", "ranking"):
        assert history[-1][name] < history[0][name]
    assert not path.with_suffix(".backup").exists()


def test_a_static_student_starts_from_the_cached_embeddings(
    command, targets, vocabulary, student, tmp_path
):
    result = command(
        *("distill", targets[0], "--vocabulary", vocabulary[0], "--student", "static_128"),
        *("--output", tmp_path / "s.keras", "--batch-size", 16, "--steps", 10),
    )
    assert result["first"]["embedding"] < 0.7 * student[1]["first"]["embedding"]


def test_keep_axes_rotates_the_student_to_the_principal_axes(
    command, targets, vocabulary, tmp_path
):
    import kdkeras
    from kdkeras.data import DistillationSet
    from kdkeras.losses import principal_axes

    groups, embeddings = zip(*DistillationSet(targets[0]).records(), strict=True)
    texts, axes = [group.source for group in groups], principal_axes(np.stack(embeddings))
    options = ("--steps", 5, "--batch-size", 16, "--dims", 16, 4)
    saved = {}
    for name, keep in (("axes", ["--keep-axes"]), ("teacher", [])):
        command(
            *("distill", targets[0], "--vocabulary", vocabulary[0], "--student", "static_128"),
            *("--output", tmp_path / f"{name}.keras", *options, *keep),
        )
        saved[name] = kdkeras.load(tmp_path / f"{name}.keras").encode(texts)
    np.testing.assert_allclose(saved["teacher"] @ axes, saved["axes"], atol=1e-5)


def test_options_of_distill_change_the_training(command, targets, vocabulary, tmp_path):
    import kdkeras

    path = tmp_path / "s.keras"
    result = command(
        *("distill", targets[0], "--vocabulary", vocabulary[0], "--output", path),
        *("--student", "static_128", "--table-rank", 24, "--batch-size", 16),
        *("--steps", 18, "--checkpoint-every", 5, "--mixed-precision", "bfloat16"),
        *("--losses", "embedding=2", "ranking=0.9", "--decay", "ranking=0.5", "--dims"),
        *("--quantization-aware-training", "int4:0.5"),
    )
    history = json.loads((tmp_path / "s.history.json").read_text("utf-8"))
    # The last epoch is shorter. The weight falls from 0.9 to 0 in nine steps.
    assert [entry["step"] for entry in history] == [5, 10, 15, 18]
    weights = [entry["weight_ranking"] for entry in history]
    assert weights == pytest.approx([0.7, 0.2, 0.0, 0.0], abs=1e-6)
    assert set(result["last"]) == {"step", "loss", "embedding", "ranking", "weight_ranking"}
    assert result["last"]["loss"] == pytest.approx(2 * result["last"]["embedding"], rel=1e-5)
    recipe = kdkeras.Recipe.load(tmp_path / "s.recipe.json")
    assert (recipe.quantization, recipe.quantization_start) == ("int4", 0.5)
    student = kdkeras.load(path)
    assert student.token_embedding.table.shape == (600, 24)
    assert student.dtype_policy.name == "float32" and student.fake_quantization is None


def test_evaluate_returns_the_metrics_of_the_evaluator(command, student):
    import kdkeras
    from kdkeras.data import read_translation_pairs
    from kdkeras.evaluation import TranslationEvaluator

    file = held_out_folder() / "de.tsv"
    metrics = command("evaluate", student[0], "--bitext", file)["metrics"]
    pairs = read_translation_pairs(held_out_folder())["de"]
    expected = TranslationEvaluator("de", *pairs)(kdkeras.load(student[0]))
    assert metrics == pytest.approx(expected)


def test_evaluate_retrieves_from_the_index_of_a_teacher(command, student):
    import kdkeras
    from kdkeras.data import read_translation_pairs
    from kdkeras.evaluation import AsymmetricRetrievalEvaluator

    file, teacher = held_out_folder() / "de.tsv", TEACHERS / "mean"
    metrics = command("evaluate", student[0], "--bitext", file, "--index-teacher", teacher)
    pairs = read_translation_pairs(held_out_folder())["de"]
    evaluator = AsymmetricRetrievalEvaluator("de", *pairs, kdkeras.teachers.load(teacher))
    expected = evaluator(kdkeras.load(student[0]))
    found = {name: metrics["metrics"][name] for name in expected}
    assert found == pytest.approx(expected)
    assert found["de_student_accuracy"] == metrics["metrics"]["de_to_english_accuracy"]


def test_embed_equals_encode(command, student):
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


def test_embed_accepts_separators_and_invalid_characters(command, student, monkeypatch):
    text = "Grüße\u2028aus Köln\0 und Bonn"
    lines = io.TextIOWrapper(io.BytesIO(f"{text}\r\nBonn".encode()), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", lines)
    result = command("embed", student[0])
    assert result["texts"] == [text, "Bonn"]
    latin = "Grüße".encode("latin-1").decode("utf-8", "surrogateescape")
    arguments = command("embed", student[0], "Grüße\u2028aus Köln", latin)
    assert arguments["embeddings"][0] == result["embeddings"][0]
    assert arguments["texts"][1] == "Gr\ufffd\ufffde"


def test_without_json_embed_prints_json_lines(student, capsys):
    texts = (held_out_folder() / "de.tsv").read_text("utf-8").splitlines()[0].split("\t")
    assert main(["embed", str(student[0]), *texts]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == texts


@pytest.fixture
def few_held_out(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for language in ("de", "ja", "ru"):
        rows = (held_out_folder() / f"{language}.tsv").read_text("utf-8").splitlines(keepends=True)
        (folder / f"{language}.tsv").write_text("".join(rows[:40]), "utf-8")
    return folder


def test_export_under_a_limit_reports_all_candidates(
    command, student, targets, few_held_out, tmp_path
):
    import kdkeras

    out = tmp_path / "out"
    result = command(
        *("export", student[0], "--output", out, "--languages", "de,ru", "--max-size", "430kB"),
        *("--held-out", few_held_out, "--set", targets[0], "--sequence-lengths", 16),
    )
    assert list(result["artifacts"]) == ["tflite_int8"] and result["sizes"]["limit_bytes"] == 430000
    assert result["sizes"]["languages"] == ["de", "ru"]
    (chosen,) = (tried for tried in result["sizes"]["tried"] if tried["chosen"])
    files = (out / "model.int8.tflite", out / "tokenizer" / "sentencepiece.model")
    assert sum(file.stat().st_size for file in files) == chosen["bytes"] <= 430000
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["sizes"] == result["sizes"] and report["parity"]["passed"]
    assert kdkeras.load(out).encode(["Guten Morgen!"]).shape == (1, chosen["output_dim"])


def test_export_of_languages_prunes_the_vocabulary(command, student, few_held_out, tmp_path):
    result = command(
        *("export", student[0], "--output", tmp_path / "out", "--languages", "de"),
        *("--held-out", few_held_out, "--format", "tflite_float32", "--sequence-lengths", 16),
    )
    assert result["vocabulary"]["before"] == 600 > result["vocabulary"]["after"] > 26
    # Half of the pairs select the tokens; the other half is measured.
    languages = result["parity"]["artifacts"]["tflite_float32"]["languages"]
    assert {name: figures["num_pairs"] for name, figures in languages.items()} == {"de": 20}


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


def test_export_verifies_every_artifact_on_translations_and_similarity(
    command, student, graded, tmp_path
):
    from kdkeras.evaluation import EmbeddingSimilarityEvaluator
    from kdkeras.export import LiteStudent

    # Random pairs, and a student after few steps: the gates are tested below.
    loose = ("--int4-cosine-mean", 0, "--int4-accuracy-loss", 100, "--int4-spearman-loss", 100)
    out = tmp_path / "out"
    result = command(
        *("export", student[0], "--output", out, "--format", "tflite_float32", "tflite_int4"),
        *("--held-out", held_out_folder(), "--sts", graded, "--sequence-lengths", 16, 64, *loose),
    )
    artifacts = result["parity"]["artifacts"]
    assert set(artifacts) == set(result["artifacts"]) == {"tflite_float32", "tflite_int4"}
    languages = {path.stem for path in held_out_folder().glob("*.tsv")}
    assert all(set(artifact["languages"]) == languages for artifact in artifacts.values())
    evaluator = EmbeddingSimilarityEvaluator.from_tsv(graded)
    expected = evaluator(LiteStudent(out, "tflite_int4"))["de_en_test_spearman"]
    figures = artifacts["tflite_int4"]["similarity"]["de_en_test"]
    assert figures["spearman"] == pytest.approx(expected)


def test_a_failed_gate_is_status_1_and_names_the_language(student, tmp_path, capsys):
    arguments = ["export", str(student[0]), "--output", str(tmp_path / "out"), "--format"]
    gate = ["tflite_int8", "--held-out", str(held_out_folder()), "--int8-cosine-mean", "1"]
    assert main([*arguments, *gate]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "tflite_int8 in ar" in line and "below 1" in line
