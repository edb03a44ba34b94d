"""`fit_size`: the best student within a size limit, and the record of the search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from contracts import assert_one_line

from kdkeras.compression import factorize_table, prune_vocabulary, token_counts, truncate
from kdkeras.errors import InputError
from kdkeras.evaluation.metrics import retrieval_accuracy
from kdkeras.export import ExportFormat, LiteStudent, export_student, fit_size, write_report
from kdkeras.export.candidates import Candidate, Compressor
from kdkeras.export.formats import DEFAULT_FORMATS
from kdkeras.students import StaticStudent, TransformerStudent, initialize_from_targets

INT8 = ExportFormat.TFLITE_INT8
LANGUAGES = ["de", "ja"]
LENGTHS = (16,)


@pytest.fixture(scope="module")
def student(vocabulary, sample_set):
    student = StaticStudent(vocabulary.size, 384, 24, sequence_length=40, vocabulary=vocabulary)
    initialize_from_targets(student, sample_set, iterations=1)
    return truncate(student, 96)


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


LIMIT = 540_000


@pytest.fixture(scope="module")
def found(student, pairs, own_sentences):
    calls = []
    found = fit_size(
        student,
        LIMIT,
        pairs,
        own_sentences,
        formats=[INT8],
        sequence_lengths=LENGTHS,
        progress=lambda *call: calls.append(call),
    )
    # One call per combination before it is tried, and one at the end.
    assert [done for _, done, _ in calls] == list(range(len(calls)))
    assert {total for *_, total in calls} == {len(calls) - 1}
    assert {task.partition(",")[0] for task, *_ in calls} == {"Trying smaller sizes"}
    return found


def accuracy(encode, sides):
    return retrieval_accuracy(*map(encode, sides), *sides).mean


def test_record_equals_the_exported_student(found, pairs, tmp_path):
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


def test_most_accurate_fitting_candidate_is_chosen(found):
    fitting = [tried for tried in found.record["tried"] if tried["fits"]]
    assert (
        max(t["accuracy"] for t in fitting) == next(t for t in fitting if t["chosen"])["accuracy"]
    )
    assert len(fitting) > 1 and len({t["table_width"] for t in fitting}) > 1
    assert all((t["bytes"] <= LIMIT) == t["fits"] for t in found.record["tried"])
    # Every candidate has all tokens, or less than 1 % of the limit is unused.
    most = max(t["vocabulary_size"] for t in fitting)
    assert all(t["bytes"] > 0.99 * LIMIT or t["vocabulary_size"] == most for t in fitting)


def test_estimated_sizes_are_within_five_percent(found):
    for tried in found.record["tried"]:
        assert tried["estimated_bytes"] == pytest.approx(tried["bytes"], rel=0.05)


def test_record_contains_the_original_student(found, student, pairs):
    before = found.record["before"]
    expected = {language: accuracy(student.encode, sides) for language, sides in pairs.items()}
    assert before["languages"] == pytest.approx(expected)
    assert before["worst"] == min(expected.values()) and before["vocabulary_size"] == 14000
    assert next(t for t in found.record["tried"] if t["chosen"])["accuracy"] > 0.5 * min(
        expected.values()
    )


@pytest.mark.parametrize(
    ("prune", "formats", "chosen"),
    [
        (True, DEFAULT_FORMATS, "tflite_int8"),
        # float32 is used only if there is no other TFLite format.
        (False, [ExportFormat.TFLITE_FLOAT32], "tflite_float32"),
    ],
)
def test_only_the_largest_candidate_is_tried_if_everything_fits(
    student, pairs, own_sentences, prune, formats, chosen
):
    few = {language: tuple(side[:20] for side in sides) for language, sides in pairs.items()}
    found = fit_size(
        student, 10**8, few, own_sentences, prune=prune, formats=formats, sequence_lengths=LENGTHS
    )
    (tried,) = found.record["tried"]
    assert (tried["format"], tried["table_width"]) == (chosen, 24) and found.format == chosen
    assert found.student.vocabulary_size == tried["vocabulary_size"]
    assert (tried["vocabulary_size"] < 14000) if prune else (tried["vocabulary_size"] == 14000)
    assert found.student.token_weight is None


def test_limit_below_the_smallest_student_is_refused_with_its_size(student, pairs, own_sentences):
    with pytest.raises(InputError) as error:
        fit_size(student, 100_000, pairs, own_sentences, sequence_lengths=LENGTHS)
    smallest = int(str(error.value).split(" bytes")[0].split()[-1].replace(",", ""))
    assert_one_line(str(error.value), "Received: 100,000 bytes", "tflite_int8", "tokens")
    found = fit_size(student, smallest, pairs, own_sentences, sequence_lengths=LENGTHS)
    assert [t["bytes"] for t in found.record["tried"] if t["chosen"]] == [smallest]


def test_formats_without_tflite_are_refused(student, pairs, own_sentences):
    with pytest.raises(InputError) as error:
        fit_size(student, 10**6, pairs, own_sentences, formats=[ExportFormat.SAVED_MODEL])
    assert_one_line(str(error.value), "no TFLite format", "tflite_int8")


def test_smaller_student_without_a_larger_size_is_redundant():
    def candidate(**changes):
        sizes = {"vocabulary_size": 1000, "table_width": 64, "output_dim": 96, "num_layers": 2}
        return Candidate(format=INT8, **{**sizes, **changes})

    one = candidate()
    assert one.makes_redundant(candidate(vocabulary_size=1099, table_width=32))
    assert not one.makes_redundant(candidate(vocabulary_size=1100, table_width=32))
    assert not one.makes_redundant(candidate(num_layers=3, output_dim=8))
    assert not one.makes_redundant(replace(one, format=ExportFormat.TFLITE_FLOAT32))


def test_candidates_of_a_transformer_have_the_requested_sizes(transformer, own_sentences):
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
    # One byte per weight and 12 bytes per table row.
    expected = made.count_params() + 12 * made.vocabulary_size
    assert compressor.model_bytes(small) == expected


def _readers(path, shape):
    """Yields the names of the operations that read a tensor of this shape."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            if shape in [tuple(graph.tensors[i].shape) for i in operator.inputs if i >= 0]:
                yield names[max(code.builtinCode, code.deprecatedBuiltinCode)]


@pytest.mark.parametrize(
    ("name", "formats"),
    [("student", ("tflite_float32", "tflite_int8")), ("transformer", ("tflite_int8",))],
)
def test_factorized_table_is_read_row_by_row(name, formats, own_sentences, tmp_path, request):
    texts = own_sentences[:300]
    small = factorize_table(prune_vocabulary(request.getfixturevalue(name), texts), 16)
    export_student(small, tmp_path / "out", formats, ())
    texts = texts[:60]
    expected = small.encode(texts)
    for item in formats:
        path = tmp_path / "out" / ExportFormat(item).path
        gathered = name == "student" and item == "tflite_int8"
        reader = "GATHER" if gathered else "EMBEDDING_LOOKUP"
        assert set(_readers(path, (small.vocabulary_size, 16))) == {reader}
        found = LiteStudent(tmp_path / "out", item).encode(texts)
        tolerance = {"tflite_float32": 1e-5, "tflite_int8": 0.03}[item]
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_report_shows_every_candidate(found, tmp_path):
    page = write_report(tmp_path, title="t", sizes=found.record).read_text("utf-8")
    assert "Sizes tried for a limit of 0.54 MB" in page and page.count("<b>chosen</b>") == 1
    for tried in found.record["tried"]:
        assert f"<td class=n>{tried['vocabulary_size']:,}</td>" in page
