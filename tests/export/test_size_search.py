"""The best student under a limit, and every figure of how it was found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from contracts import assert_one_line

from kdkeras.compression import factorize_table, prune_vocabulary, token_counts
from kdkeras.errors import InputError
from kdkeras.evaluation.metrics import retrieval_accuracy
from kdkeras.export import ExportFormat, LiteStudent, export_student, fit_size, write_report
from kdkeras.export.candidates import Candidate, Compressor
from kdkeras.students import StaticStudent, TransformerStudent, initialize_from_targets

INT8 = ExportFormat.TFLITE_INT8
LANGUAGES = ["de", "ja"]
LENGTHS = (16,)


@pytest.fixture(scope="module")
def student(vocabulary, sample_set):
    student = StaticStudent(vocabulary.size, 384, 48, sequence_length=40, vocabulary=vocabulary)
    initialize_from_targets(student, sample_set, iterations=2)
    return student


@pytest.fixture(scope="module")
def transformer(wordpiece):
    student = TransformerStudent(
        *(wordpiece.size, 32),
        num_layers=2,
        hidden_dim=32,
        num_heads=2,
        intermediate_dim=64,
        sequence_length=24,
        vocabulary=wordpiece,
    )
    generator = np.random.default_rng(3)
    student.set_weights([w + generator.normal(0, 0.1, w.shape) for w in student.get_weights()])
    return student


@pytest.fixture(scope="module")
def pairs(held_out):
    return {language: held_out[language] for language in LANGUAGES}


@pytest.fixture(scope="module")
def own_sentences(sample_set):
    return list(sample_set.sentences(languages=LANGUAGES))[::3]


LIMIT = 640_000


@pytest.fixture(scope="module")
def found(student, pairs, own_sentences):
    return fit_size(student, LIMIT, pairs, own_sentences, formats=[INT8], sequence_lengths=LENGTHS)


def accuracy(encode, sides):
    return retrieval_accuracy(*map(encode, sides), *sides).mean


def test_what_it_chose_is_what_is_exported(found, pairs, tmp_path):
    (chosen,) = (tried for tried in found.record["tried"] if tried["chosen"])
    export_student(found.student, tmp_path / "out", [found.format], LENGTHS)
    model = (tmp_path / "out" / found.format.path).stat().st_size
    tokenizer = (tmp_path / "out" / "tokenizer" / "sentencepiece.model").stat().st_size
    assert (model, tokenizer) == (chosen["model_bytes"], chosen["tokenizer_bytes"])
    assert chosen["bytes"] == model + tokenizer <= LIMIT
    lite = LiteStudent(tmp_path / "out")
    for language, sides in pairs.items():
        assert accuracy(lite.encode, sides) == pytest.approx(chosen["languages"][language])
    assert chosen["accuracy"] == pytest.approx(np.mean(list(chosen["languages"].values())))


def test_the_best_of_those_that_fit_is_chosen_and_none_was_larger(found):
    fitting = [tried for tried in found.record["tried"] if tried["fits"]]
    assert (
        max(t["accuracy"] for t in fitting) == next(t for t in fitting if t["chosen"])["accuracy"]
    )
    assert len(fitting) > 1 and len({t["table_width"] for t in fitting}) > 1
    assert all((t["bytes"] <= LIMIT) == t["fits"] for t in found.record["tried"])
    # As many tokens as fit: a hundredth of the limit is left at most, or all are in.
    most = max(t["vocabulary_size"] for t in fitting)
    assert all(t["bytes"] > 0.99 * LIMIT or t["vocabulary_size"] == most for t in fitting)


def test_sizes_are_estimated_within_a_twentieth(found):
    for tried in found.record["tried"]:
        assert tried["estimated_bytes"] == pytest.approx(tried["bytes"], rel=0.05)


def test_the_student_before_is_told_beside(found, student, pairs):
    before = found.record["before"]
    expected = {language: accuracy(student.encode, sides) for language, sides in pairs.items()}
    assert before["languages"] == pytest.approx(expected)
    assert before["worst"] == min(expected.values()) and before["vocabulary_size"] == 14000
    assert next(t for t in found.record["tried"] if t["chosen"])["accuracy"] > 0.5 * min(
        expected.values()
    )


def test_with_room_for_all_only_the_largest_is_tried(student, pairs, own_sentences):
    for prune, size in ((True, None), (False, 14000)):
        found = fit_size(
            student, 10**8, pairs, own_sentences, prune=prune, sequence_lengths=LENGTHS
        )
        (tried,) = found.record["tried"]
        assert (tried["format"], tried["table_width"]) == ("tflite_int8", 48)
        assert tried["vocabulary_size"] == size or size is None
        assert found.student.vocabulary_size == tried["vocabulary_size"]
        assert found.student.token_weight is None


def test_nothing_that_fits_is_refused_with_the_smallest_size(student, pairs, own_sentences):
    with pytest.raises(InputError) as error:
        fit_size(student, 100_000, pairs, own_sentences, sequence_lengths=LENGTHS)
    smallest = int(str(error.value).split(" bytes")[0].split()[-1].replace(",", ""))
    assert_one_line(str(error.value), "Received: 100,000 bytes", "tflite_int8", "tokens")
    found = fit_size(student, smallest, pairs, own_sentences, sequence_lengths=LENGTHS)
    assert [t["bytes"] for t in found.record["tried"] if t["chosen"]] == [smallest]


def test_no_tflite_format_and_another_model_are_refused(student, pairs, own_sentences):
    with pytest.raises(InputError) as error:
        fit_size(student, 10**6, pairs, own_sentences, formats=[ExportFormat.SAVED_MODEL])
    assert_one_line(str(error.value), "no TFLite format", "tflite_int8")


def test_float32_is_chosen_only_where_there_is_nothing_smaller(student, pairs, own_sentences):
    found = fit_size(
        student, 10**8, pairs, own_sentences,
        formats=[ExportFormat.TFLITE_FLOAT32], sequence_lengths=LENGTHS,
    )  # fmt: skip
    assert found.format == ExportFormat.TFLITE_FLOAT32
    assert len(found.record["tried"]) == 1


def test_a_smaller_student_with_little_more_of_anything_is_needless():
    def candidate(**changes):
        sizes = {"vocabulary_size": 1000, "table_width": 64, "output_dim": 96, "num_layers": 2}
        return Candidate(format=INT8, **{**sizes, **changes})

    one = candidate()
    assert one.makes_needless(candidate(vocabulary_size=1099, table_width=32))
    assert not one.makes_needless(candidate(vocabulary_size=1100, table_width=32))
    assert not one.makes_needless(candidate(num_layers=3, output_dim=8))
    assert not one.makes_needless(replace(one, format=ExportFormat.TFLITE_FLOAT32))


def test_a_transformers_candidates_have_their_sizes(transformer, own_sentences):
    texts = own_sentences[:500]
    counts = token_counts(transformer.vocabulary, texts)
    compressor = Compressor(transformer, counts, texts)
    shapes = list(compressor.shapes(INT8))
    assert {shape.num_layers for shape in shapes} == {1, 2}
    small = replace(
        shapes[-1], table_width=16, output_dim=8, vocabulary_size=compressor.used_tokens
    )
    made = compressor.make(small)
    assert (made.num_layers, made.output_dim, made.table_rank) == (1, 8, 16)
    assert made.vocabulary_size == made.vocabulary.size == small.vocabulary_size
    # Weights of one byte, and 12 for each row.
    expected = made.count_params() + 12 * made.vocabulary_size
    assert compressor.model_bytes(small) == expected


# ---- what is exported of small students -----------------------------------


def _readers(path, shape):
    """Names of the operations that read a tensor of this shape."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            if shape in [tuple(graph.tensors[i].shape) for i in operator.inputs if i >= 0]:
                yield names[max(code.builtinCode, code.deprecatedBuiltinCode)]


@pytest.mark.parametrize("name", ["student", "transformer"])
def test_a_small_table_is_read_row_by_row(name, own_sentences, pairs, tmp_path, request):
    whole = request.getfixturevalue(name)
    small = factorize_table(prune_vocabulary(whole, own_sentences), 16)
    export_student(small, tmp_path / "out", ["tflite_float32", "tflite_int8"], LENGTHS)
    texts = [text for sides in pairs.values() for text in sides[0][:30]]
    expected = small.encode(texts)
    for item, tolerance in (("tflite_float32", 1e-5), ("tflite_int8", 0.03)):
        path = tmp_path / "out" / ExportFormat(item).path
        gathered = name == "student" and item == "tflite_int8"
        reader = "GATHER" if gathered else "EMBEDDING_LOOKUP"
        assert set(_readers(path, (small.vocabulary_size, 16))) == {reader}
        found = LiteStudent(tmp_path / "out", item).encode(texts)
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_the_report_shows_every_size(found, tmp_path):
    page = write_report(tmp_path, title="t", sizes=found.record).read_text("utf-8")
    assert "Sizes tried for at most 0.64 MB" in page and page.count("<b>chosen</b>") == 1
    for tried in found.record["tried"]:
        assert f"<td class=n>{tried['vocabulary_size']:,}</td>" in page
