"""Every command alone, on files of its own."""

from __future__ import annotations

import io
import json

import numpy as np
import oracles
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
    history = json.loads(path.with_suffix(".history.json").read_text())
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


@pytest.fixture(scope="module")
def turned(targets):
    """Real sentences, the teacher's principal axes, and its vectors turned into them."""
    from kdkeras.data import DistillationSet
    from kdkeras.losses import principal_axes

    groups, vectors = zip(*DistillationSet(targets[0]).records(), strict=True)
    axes = principal_axes(np.stack(vectors))
    return [group.source for group in groups], axes, np.stack(vectors) @ axes


def with_and_without_dims(command, targets, vocabulary, folder, *options):
    import kdkeras

    for name, dims in (("whole", ["--dims"]), ("cut", ["--dims", 16, 4, "--keep-axes"])):
        command(
            *("distill", targets[0], "--vocabulary", vocabulary[0], "--student", "static_128"),
            *("--output", folder / f"{name}.keras", "--batch-size", 16, *options, *dims),
        )
    return (kdkeras.load(folder / f"{name}.keras") for name in ("whole", "cut"))


def test_without_keep_axes_the_student_comes_back_into_the_teachers_space(
    command, targets, vocabulary, turned, tmp_path
):
    import kdkeras

    options = ("--steps", 5, "--batch-size", 16, "--dims", 16, 4)
    saved = {}
    for name, keep in (("axes", ["--keep-axes"]), ("teacher", [])):
        command(
            *("distill", targets[0], "--vocabulary", vocabulary[0], "--student", "static_128"),
            *("--output", tmp_path / f"{name}.keras", *options, *keep),
        )
        saved[name] = kdkeras.load(tmp_path / f"{name}.keras").encode(turned[0])
    np.testing.assert_allclose(saved["teacher"] @ turned[1], saved["axes"], atol=1e-5)


def test_dims_turn_the_start_into_the_principal_axes(
    command, targets, vocabulary, turned, tmp_path
):
    still = ("--steps", 1, "--learning-rate", 1e-9)
    whole, cut = with_and_without_dims(command, targets, vocabulary, tmp_path, *still)
    texts, axes, _ = turned
    np.testing.assert_allclose(cut.encode(texts), whole.encode(texts) @ axes, atol=1e-5)


def test_dims_bring_the_first_components_nearer_to_the_teachers(
    command, targets, vocabulary, turned, tmp_path
):
    options = ("--steps", 60, "--start", "random", "--losses", "embedding=1")
    whole, cut = with_and_without_dims(command, targets, vocabulary, tmp_path, *options)
    texts, axes, teacher = turned

    def cosine(embeddings):
        return (oracles.unit(embeddings[:, :4]) * oracles.unit(teacher[:, :4])).sum(axis=1).mean()

    assert 1 - cosine(cut.encode(texts)) < 0.9 * (1 - cosine(whole.encode(texts) @ axes))


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
    history = json.loads((tmp_path / "s.history.json").read_text("utf-8"))
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
    from kdkeras.data import read_translation_pairs
    from kdkeras.evaluation import TranslationEvaluator

    file = held_out_folder() / "de.tsv"
    metrics = command("evaluate", student[0], "--bitext", file)["metrics"]
    pairs = read_translation_pairs(held_out_folder())["de"]
    expected = TranslationEvaluator("de", *pairs)(kdkeras.load(student[0]))
    assert metrics == pytest.approx(expected)


def test_evaluate_searches_the_teachers_index(command, student):
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


def test_embed_reads_what_is_not_quite_text(command, student, monkeypatch):
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


def test_export_verifies_every_artifact_in_every_language(command, student, tmp_path):
    result = command(
        *("export", student[0], "--output", tmp_path / "out", "--held-out", held_out_folder()),
        *("--format", "tflite_float32", "tflite_int8", "--sequence-lengths", 16, 64),
    )
    assert (tmp_path / "out" / "model.int8.tflite").is_file()
    languages = {path.stem for path in held_out_folder().glob("*.tsv")}
    artifacts = result["parity"]["artifacts"]
    assert set(artifacts) == set(result["artifacts"]) == {"tflite_float32", "tflite_int8"}
    assert all(set(artifact["languages"]) == languages for artifact in artifacts.values())


def test_distill_with_a_table_rank_stores_a_narrow_table(command, targets, vocabulary, tmp_path):
    import kdkeras

    arguments = ("distill", targets[0], "--vocabulary", vocabulary[0], "--batch-size", 16)
    for preset, steps in (("static_128", 4), ("tiny", 2)):
        path = tmp_path / f"{preset}.keras"
        options = ("--student", preset, "--table-rank", 24, "--steps", steps, "--overwrite")
        command(*arguments, *options, "--output", path)
        assert kdkeras.load(path).token_embedding.table.shape == (600, 24)


@pytest.fixture
def few_held_out(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for language in ("de", "ja", "ru"):
        rows = (held_out_folder() / f"{language}.tsv").read_text("utf-8").splitlines(keepends=True)
        (folder / f"{language}.tsv").write_text("".join(rows[:40]), "utf-8")
    return folder


def test_export_under_a_limit_reports_all_it_tried(
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


def test_export_of_languages_alone_prunes(command, student, few_held_out, tmp_path):
    result = command(
        *("export", student[0], "--output", tmp_path / "out", "--languages", "de"),
        *("--held-out", few_held_out, "--format", "tflite_float32", "--sequence-lengths", 16),
    )
    assert result["vocabulary"]["before"] == 600 > result["vocabulary"]["after"] > 26
    # Every second pair said which tokens are used; only the others measure.
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


def test_export_verifies_similarity_and_names_what_loses_it(
    command, student, graded, tmp_path, capsys
):
    from kdkeras.evaluation import EmbeddingSimilarityEvaluator
    from kdkeras.export import LiteStudent

    arguments = ("export", student[0], "--output", tmp_path / "out", "--overwrite")
    arguments += ("--held-out", held_out_folder(), "--sts", graded, "--sequence-lengths", 64)
    # Random pairs of a student that was hardly trained: the gates are for another test.
    loose = ("--int4-cosine-mean", 0, "--int4-accuracy-loss", 100, "--int4-spearman-loss", 100)
    result = command(*arguments, "--format", "tflite_int4", *loose)
    figures = result["parity"]["artifacts"]["tflite_int4"]["similarity"]["de_en_test"]
    expected = EmbeddingSimilarityEvaluator.from_tsv(graded)(LiteStudent(tmp_path / "out"))[
        "de_en_test_spearman"
    ]
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
            *("--quantization-aware-training", f"int4:{fraction}"),
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
