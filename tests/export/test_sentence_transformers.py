"""Students as standard modules of sentence-transformers."""

import json

import numpy as np
import pytest
from runtimes import bad_texts, make_student, python_with_torch, replaced

from kdkeras.errors import InputError
from kdkeras.export import export_student
from kdkeras.export.fast_tokenizer import fast_tokenizer
from kdkeras.export.formats import ExportFormat
from kdkeras.export.processes import run_worker
from kdkeras.export.sentence_transformers import write_sentence_transformers
from kdkeras.students import TransformerStudent
from kdkeras.students.student import Student

FORMAT = "sentence_transformers"
CASES = {
    "static, mixed": ["StaticEmbedding", "Dense", "Normalize"],
    "static, wordpiece": ["WordEmbeddings", "Pooling", "Dense", "Normalize"],
    "transformer, mixed": ["Transformer", "Pooling", "Dense"],
    "transformer, wordpiece": ["Transformer", "Pooling", "Dense"],
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    kind, _, name = request.param.partition(", ")
    vocabulary = request.getfixturevalue({"mixed": "vocabulary"}.get(name, name))
    student = make_student(kind, vocabulary)
    folder = tmp_path_factory.mktemp(FORMAT) / "out"
    export_student(student, folder, formats=FORMAT)
    return student, folder, CASES[request.param]


def test_modules_are_standard_ones(case):
    _, folder, expected = case
    modules = json.loads((folder / FORMAT / "modules.json").read_text())
    assert [m["type"].removeprefix("sentence_transformers.models.") for m in modules] == expected
    assert not list(folder.rglob("*.py"))


@pytest.mark.slow
def test_embeddings_equal_keras_in_every_language(case, sentences_by_language):
    student, folder, _ = case
    texts = [text for texts in sentences_by_language.values() for text in texts[:35]]
    bad = {n: replaced(t) for n, t in bad_texts(texts).items()}
    # The worker embeds the first text alone, here a batch without any token.
    every = ["", *texts, *bad.values()]
    found = run_worker(folder, ExportFormat(FORMAT), every, python_with_torch()).embeddings
    differences = np.abs(found - student.encode(every)).max(axis=1)
    assert len(texts) > 1000 and differences[: len(texts) + 1].max() < 1e-5
    wrong = zip(bad, differences[len(texts) + 1 :], strict=True)
    assert {name: d for name, d in wrong if not d < 1e-5} == {}


@pytest.mark.parametrize("name", ["vocabulary", "unigram", "wordpiece"])
def test_ids_equal_those_of_the_vocabulary(request, sentences, name):
    vocabulary = request.getfixturevalue(name)
    tokenizer = fast_tokenizer(vocabulary)
    tokenizer.enable_truncation(128)
    bad = [replaced(text) for text in bad_texts(sentences).values()]
    # Composed and decomposed accents, and characters that are normalized to several.
    marked = ["… ‼ Straße ﬁx İstanbul", "e\u0301 C\u0323 A\u0306\u0301 A\u200cB"]
    if name == "wordpiece":  # It has no Unicode normalization.
        marked = marked[:1]
    texts = [*sentences, *bad, *marked]
    assert len(texts) > 2000
    batch = vocabulary.encode(texts, 128)
    rows = zip(batch["token_ids"], batch["padding_mask"], strict=True)
    expected = [ids[mask.astype(bool)].tolist() for ids, mask in rows]
    assert [encoding.ids for encoding in tokenizer.encode_batch(texts)] == expected


def test_other_classes_of_students_are_refused(vocabulary, tmp_path):
    with pytest.raises(InputError, match="static and transformer students. Received: Student"):
        write_sentence_transformers(Student(9, 4), vocabulary, tmp_path / "out")


def test_token_weights_of_a_transformer_are_refused(wordpiece, tmp_path):
    sizes = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "intermediate_dim": 8}
    student = TransformerStudent(
        wordpiece.size, 8, **sizes, token_weights=True, vocabulary=wordpiece
    )
    with pytest.raises(InputError, match="token weights. Received: token_weights=True. Export"):
        export_student(student, tmp_path / "out", formats=FORMAT)
    assert not list(tmp_path.iterdir())
