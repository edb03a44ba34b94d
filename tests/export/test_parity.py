import json
import shutil
import sys

import numpy as np
import pytest

from kdkeras.errors import GateError, InputError, MissingExtraError
from kdkeras.evaluation import EmbeddingSimilarityEvaluator, TranslationEvaluator
from kdkeras.export import Gates, LiteStudent, verify
from kdkeras.export.formats import ExportFormat
from kdkeras.export.processes import run_worker
from kdkeras.students import StaticStudent
from tests.export.conftest import FORMATS, TFLITE

MIN_COSINE = {
    "tflite_int8": 0.999,
    "tflite_int8_weight_only": 0.999,
    "tflite_int4": 0.98,
}
RANDOM_WEIGHTS = Gates(
    int8_spearman_change_points=-5.0,
    int4_spearman_change_points=-10.0,
    int4_accuracy_change_points=-10.0,
)


@pytest.fixture(scope="module")
def exported(exported, tmp_path_factory):
    """The student and its folder; of the transformer, only the TFLite files.

    Its SavedModels run in other processes in test_saved_model.py and test_runtimes.py.
    """
    student, folder = exported
    if isinstance(student, StaticStudent):
        return student, folder
    copy = tmp_path_factory.mktemp("parity") / "out"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("saved_model*"))
    manifest = json.loads((copy / "export.json").read_text())
    for name in ("saved_model", "saved_model_text"):
        del manifest["artifacts"][name]
    (copy / "export.json").write_text(json.dumps(manifest))
    return student, copy


@pytest.fixture(scope="module")
def parity(exported, few_pairs, graded_pairs):
    student, folder = exported
    # With random weights, many cosines are near ties, whose order rounding changes.
    return verify(folder, student, few_pairs, RANDOM_WEIGHTS, similarity=[graded_pairs])


def test_every_artifact_equals_keras_in_every_language(parity, few_pairs):
    assert parity["passed"] and parity["failures"] == []
    assert {str(item) for item in TFLITE} <= set(parity["artifacts"]) <= set(FORMATS)
    for name, artifact in parity["artifacts"].items():
        assert set(artifact["languages"]) == set(few_pairs)
        for figures in artifact["languages"].values():
            assert figures["num_pairs"] == 40
            assert figures["cosine_min"] > MIN_COSINE.get(name, 1 - 1e-6)
            assert figures["cosine_min"] <= figures["cosine_mean"] <= 1 + 1e-9


def test_accuracy_equals_that_of_the_evaluator(parity, exported, few_pairs):
    student, _ = exported
    for language, sides in few_pairs.items():
        expected = TranslationEvaluator("held_out", *sides)(student)["held_out_accuracy"]
        assert parity["keras"]["languages"][language]["accuracy"] == pytest.approx(expected)
        exact = parity["artifacts"]["tflite_float32"]["languages"][language]
        assert exact["accuracy"] == pytest.approx(expected)
        assert exact["accuracy_change_points"] == pytest.approx(0.0, abs=1e-9)


def test_similarity_equals_that_of_the_evaluator(parity, exported, graded_pairs):
    student, folder = exported
    expected = graded_pairs(student)["de_en_spearman"]
    assert parity["keras"]["similarity"] == {
        "de_en": {"num_pairs": 120, "spearman": pytest.approx(expected)}
    }
    for name, artifact in parity["artifacts"].items():
        figures = artifact["similarity"]["de_en"]
        change = (figures["spearman"] - expected) * 100
        assert figures["spearman_change_points"] == pytest.approx(change)
        assert (
            MIN_COSINE.get(name, 1 - 1e-6) < figures["cosine_min"] <= figures["cosine_mean"] + 1e-9
        )
    small = LiteStudent(folder, "tflite_int4")
    assert parity["artifacts"]["tflite_int4"]["similarity"]["de_en"]["spearman"] == pytest.approx(
        graded_pairs(small)["de_en_spearman"]
    )


def test_figures_are_written_to_the_manifest(parity, exported):
    _, folder = exported
    manifest = json.loads((folder / "export.json").read_text())
    for name, record in manifest["artifacts"].items():
        measured = record["measured"]
        assert set(measured) == {"cosine_mean", "cosine_min", "languages", "similarity"}
        for part, figures in measured.items():
            assert figures == parity["artifacts"][name][part]


def test_too_few_graded_pairs_are_refused(lite_folder, static_student, few_pairs, graded_pairs):
    sides = (graded_pairs.sentences1, graded_pairs.sentences2, graded_pairs.scores)
    few = EmbeddingSimilarityEvaluator("de_en", *(side[:99] for side in sides))
    with pytest.raises(InputError, match=r"at least 100 pairs\. Received: 99 in de_en"):
        verify(lite_folder, static_student, few_pairs, similarity=[few])
    with pytest.raises(InputError, match="unique names. Received: de_en twice"):
        verify(lite_folder, static_student, few_pairs, similarity=[graded_pairs] * 2)


def test_tflite_runs_without_tensorflow(parity):
    imported = {name: artifact["imported"] for name, artifact in parity["artifacts"].items()}
    assert {str(item): [] for item in TFLITE}.items() <= imported.items()
    # Of the static student only, see `exported`.
    assert imported.get("saved_model", ["tensorflow"]) == ["tensorflow"]
    assert imported.get("saved_model_text", both := ["tensorflow", "tensorflow_text"]) == both


def test_costs_are_measured_in_a_separate_process(parity):
    lite = parity["artifacts"]["tflite_int8"]
    # The peak of this process, which has imported TensorFlow, is several hundred megabytes.
    assert 10 < lite["peak_memory_mb"] < 200
    assert 0 < lite["latency_ms"] < 100
    assert 0 < lite["load_seconds"]
    if full := parity["artifacts"].get("saved_model"):
        assert full["peak_memory_mb"] > 200
        assert lite["load_seconds"] < full["load_seconds"]


def test_parity_is_written_to_the_folder(parity, exported):
    _, folder = exported
    assert json.loads((folder / "parity.json").read_text()) == parity


@pytest.fixture
def lite_folder(folders, tmp_path):
    """A copy of an export whose only artifact is the float32 TFLite file."""
    folder = tmp_path / "lite"
    shutil.copytree(folders / "StaticStudent", folder)
    manifest = json.loads((folder / "export.json").read_text())
    manifest["artifacts"] = {"tflite_float32": manifest["artifacts"]["tflite_float32"]}
    (folder / "export.json").write_text(json.dumps(manifest))
    return folder


def _other_weights(student):
    copy = student.clone()
    weights = student.get_weights()
    # 2 % noise on the projection: cosines of about 0.9998.
    scale = 0.02 * np.abs(weights[-2]).mean()
    weights[-2] = weights[-2] + np.random.default_rng(0).normal(scale=scale, size=weights[-2].shape)
    copy.set_weights(weights)
    return copy


def test_slightly_different_weights_fail_with_language_and_figure(
    lite_folder, static_student, few_pairs
):
    other = _other_weights(static_student)
    with pytest.raises(GateError, match=r"tflite_float32 in ja: minimum cosine to Keras 0\.99"):
        verify(lite_folder, other, few_pairs)
    written = json.loads((lite_folder / "parity.json").read_text())
    assert not written["passed"]
    assert len(written["failures"]) == len(few_pairs)
    loose = Gates(float32_cosine_min=0.9)
    assert verify(lite_folder, other, few_pairs, gates=loose)["passed"]
    assert not verify(lite_folder, other, few_pairs, enforce=False)["passed"]


def test_damaged_artifact_is_named(lite_folder, static_student, few_pairs):
    path = lite_folder / "model.float32.tflite"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(GateError, match=r"model\.float32\.tflite must .* sha256"):
        verify(lite_folder, static_student, few_pairs)


def test_export_of_another_student_is_refused(lite_folder, transformer_student, few_pairs):
    with pytest.raises(InputError, match="must contain the export of this student"):
        verify(lite_folder, transformer_student, few_pairs)


@pytest.mark.parametrize("pairs", [{}, {"de": ([], [])}, {"de": (["Hallo."], [])}])
def test_invalid_pairs_are_refused(lite_folder, static_student, pairs):
    with pytest.raises(InputError, match="`pairs` must have"):
        verify(lite_folder, static_student, pairs)


def test_folder_without_an_export_is_refused(static_student, few_pairs, tmp_path):
    with pytest.raises(InputError, match=r"readable export\.json"):
        verify(tmp_path, static_student, few_pairs)


def test_worker_keeps_the_order_of_texts(folders, static_student, held_out):
    texts = [*held_out["de"][0][:70], "", *held_out["de"][0][:2]]
    result = run_worker(folders / "StaticStudent", ExportFormat.TFLITE_FLOAT32, texts)
    np.testing.assert_allclose(result.embeddings, static_student.encode(texts), atol=1e-6)


@pytest.mark.parametrize(
    ("item", "package", "extra"),
    [
        ("mediapipe", "mediapipe", "mediapipe"),
        ("mediapipe_float32", "mediapipe", "mediapipe"),
        ("sentence_transformers", "sentence_transformers", "sentence-transformers"),
    ],
)
def test_missing_runtime_is_refused_before_any_work(
    lite_folder, static_student, few_pairs, monkeypatch, item, package, extra
):
    manifest = json.loads((lite_folder / "export.json").read_text())
    path = ExportFormat(item).path_for("sentencepiece")
    manifest["artifacts"][item] = {"path": path}
    (lite_folder / "export.json").write_text(json.dumps(manifest))
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"Verifying {path} needs .*`{package}`.*kdkeras\[{extra}\]"
    with pytest.raises(MissingExtraError, match=message):
        verify(lite_folder, static_student, few_pairs)
