"""Untrained students of named sizes."""

from __future__ import annotations

import pytest
from contracts import assert_one_line

from kdkeras.data.wordpiece import WordPieceVocabulary
from kdkeras.errors import InputError
from kdkeras.students import SIZES, StaticStudent, TransformerStudent, build_student

OUTPUT_DIM = 48

# Number of weights of a block: 4 d (d + 1) of attention, 2 d i + d + i of the feed-forward
# network, 4 d of both normalizations.
BLOCK = {
    (d, i): 4 * d * (d + 1) + 2 * d * i + d + i + 4 * d
    for d, i in [(128, 512), (256, 1024), (384, 1536)]
}


@pytest.fixture(scope="module")
def vocabulary():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(chr(ord("a") + i) for i in range(26))]
    return WordPieceVocabulary({"vocab.txt": "\n".join(tokens).encode()})


@pytest.mark.parametrize(
    ("name", "student_class", "layers", "width", "intermediate"),
    [
        ("static_128", StaticStudent, 0, 128, 0),
        ("static_256", StaticStudent, 0, 256, 0),
        ("tiny", TransformerStudent, 2, 128, 512),
        ("mini", TransformerStudent, 4, 256, 1024),
        ("small", TransformerStudent, 6, 384, 1536),
    ],
)
def test_student_has_its_size(name, student_class, layers, width, intermediate, vocabulary):
    student = build_student(name, vocabulary=vocabulary, output_dim=OUTPUT_DIM, normalize=False)
    assert type(student) is student_class and student.name == name
    assert student.vocabulary is vocabulary and not student.normalize
    weights = vocabulary.size * width + (width + 1) * OUTPUT_DIM
    if layers:
        # Positions and the normalization after the embeddings.
        weights += 128 * width + 2 * width + layers * BLOCK[width, intermediate]
    else:
        weights += vocabulary.size
    assert student.count_params() == weights


def test_all_sizes_are_tested():
    assert set(SIZES) == {"static_128", "static_256", "tiny", "mini", "small"}


def test_arguments_override_those_of_the_size(vocabulary):
    arguments = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 4, "sequence_length": 7}
    student = build_student("tiny", vocabulary=vocabulary, output_dim=3, name="own", **arguments)
    assert {key: getattr(student, key) for key in arguments} == arguments
    assert student.name == "own"


def test_table_rank_narrows_the_stored_table(vocabulary):
    static = build_student("static_256", vocabulary=vocabulary, output_dim=3, table_rank=40)
    assert static.embedding_dim == 40 and static.projection.kernel.shape == (40, 3)
    tiny = build_student("tiny", vocabulary=vocabulary, output_dim=3, table_rank=40, num_layers=1)
    assert tiny.token_embedding.table.shape == (vocabulary.size, 40) and tiny.hidden_dim == 128


@pytest.mark.parametrize("name", ["static_128", "tiny"])
def test_a_table_rank_of_the_full_width_is_refused(name, vocabulary):
    with pytest.raises(InputError) as error:
        build_student(name, vocabulary=vocabulary, output_dim=3, table_rank=128)
    assert_one_line(str(error.value), "from 1 to 127", "table_rank=128")


def test_an_unknown_size_is_refused(vocabulary):
    with pytest.raises(InputError) as error:
        build_student("huge", vocabulary=vocabulary, output_dim=3)
    assert_one_line(str(error.value), "'huge'", "static_256", "tiny")
