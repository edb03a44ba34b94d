"""Every artifact in its own runtime and in a fresh process, compared with Keras."""

from dataclasses import replace

import numpy as np
import pytest
from runtimes import bad_texts, cosines, make_student, needs, replaced

from kdkeras.export import export_student, verify
from kdkeras.export.formats import ExportFormat
from kdkeras.export.processes import run_worker

pytestmark = pytest.mark.slow

EXACT = [
    "saved_model",
    "saved_model_text",
    "tflite_float32",
    "mediapipe_float32",
    "onnx",
]
# Their Python interface takes only valid Unicode.
STRICT = ("mediapipe_float32", "mediapipe")


@pytest.fixture(scope="module", params=["static, mixed", "transformer, wordpiece"])
def case(request, tmp_path_factory):
    needs("mediapipe", "tf2onnx", "onnxruntime")
    kind, _, name = request.param.partition(", ")
    vocabulary = request.getfixturevalue({"mixed": "vocabulary"}.get(name, name))
    student = make_student(kind, vocabulary)
    folder = tmp_path_factory.mktemp("runtimes") / kind
    export_student(student, folder, formats=[*EXACT, "mediapipe"], sequence_lengths=())
    return student, folder


@pytest.fixture(scope="module")
def texts(sentences_by_language):
    """1,015 sentences in 29 languages and eleven scripts."""
    return [text for texts in sentences_by_language.values() for text in texts[:35]]


@pytest.fixture(scope="module")
def bad(texts):
    return bad_texts(texts)


@pytest.fixture(scope="module")
def expected(case, texts, bad):
    student, _ = case
    return student.encode([*texts, *bad.values()])


@pytest.fixture(scope="module")
def run_once(case, texts, bad, few_pairs):
    """Runs each artifact once, in a fresh process, on the texts of all tests."""
    _, folder = case
    held_out = [text for sides in few_pairs.values() for side in sides for text in side]
    results = {}

    def run(name):
        if name not in results:
            wrong = [replaced(text) if name in STRICT else text for text in bad.values()]
            every = [*texts, *wrong, *held_out]
            results[name] = every, run_worker(folder, ExportFormat(name), every)
        return results[name]

    return run


@pytest.fixture(scope="module")
def embedded(run_once, texts, bad):
    """Returns an artifact's embeddings of `texts` and `bad`."""
    return lambda name: run_once(name)[1].embeddings[: len(texts) + len(bad)]


@pytest.mark.parametrize("name", EXACT)
def test_thousand_sentences_have_the_embeddings_of_keras(embedded, expected, texts, name):
    assert len(texts) > 1000
    count = len(texts)
    np.testing.assert_allclose(embedded(name)[:count], expected[:count], atol=1e-5)


def test_int8_in_mediapipe_is_close_to_keras(embedded, expected, texts):
    count = len(texts)
    assert cosines(embedded("mediapipe")[:count], expected[:count]).min() > 0.9998


@pytest.mark.parametrize("name", EXACT)
def test_malformed_text_has_the_embedding_of_keras(embedded, expected, bad, name):
    count = len(bad)
    differences = np.abs(embedded(name)[-count:] - expected[-count:]).max(axis=1)
    assert {text: d for text, d in zip(bad, differences, strict=True) if not d < 1e-5} == {}


def test_long_text_is_truncated_and_ends_at_a_nul(case, expected, bad):
    student, _ = case
    vectors = dict(zip(bad, expected[-len(bad) :], strict=True))
    shorter = bad["10,000 words"][:2000]
    same = student.encode([shorter, "Guten Morgen", ""])
    for name, vector in zip(("10,000 words", "NUL", "NUL alone"), same, strict=True):
        np.testing.assert_allclose(vectors[name], vector, atol=1e-6)


def test_verify_compares_all_runtimes_per_language(case, run_once, few_pairs, monkeypatch):
    """With the results of the processes that ran already, not with new ones."""
    student, folder = case

    def result(_, name, texts):
        every, found = run_once(str(name))
        rows = {text: row for row, text in enumerate(every)}
        return replace(found, embeddings=found.embeddings[[rows[text] for text in texts]])

    monkeypatch.setattr("kdkeras.export.parity.run_worker", result)
    parity = verify(folder, student, few_pairs)
    assert parity["passed"] and set(parity["artifacts"]) == {*EXACT, "mediapipe"}
    for name in ("mediapipe", "mediapipe_float32", "onnx"):
        assert set(parity["artifacts"][name]["languages"]) == set(few_pairs)
        assert parity["artifacts"][name]["imported"] == []


def test_mediapipe_works_after_an_error_for_a_lone_surrogate(case):
    from mediapipe.tasks.python.text.text_embedder import TextEmbedder

    student, folder = case
    kind = "task" if student.vocabulary.kind == "sentencepiece" else "tflite"
    path = folder / "mediapipe" / f"embedder.float32.{kind}"
    with TextEmbedder.create_from_model_path(str(path)) as embedder:
        # Python's interface encodes strictly, before the graph runs.
        with pytest.raises(UnicodeEncodeError):
            embedder.embed("Köln \ud83d")
        vector = np.array(embedder.embed("Guten Morgen").embeddings[0].embedding)
    np.testing.assert_allclose(vector, student.encode(["Guten Morgen"])[0], atol=1e-5)
