"""Students by size."""

from __future__ import annotations

import pytest
from contracts import assert_one_line

from kdkeras.errors import InputError
from kdkeras.students import SIZES, StaticStudent, TransformerStudent, build_student

OUTPUT_DIM = 48

# Weights beside the rows of the token table (and of the token weights), worked from the sizes:
# a block has 4 d (d + 1) for attention, 2 d i + d + i for the net, 4 d for the norms.
BLOCK = {
    (d, i): 4 * d * (d + 1) + 2 * d * i + d + i + 4 * d
    for d, i in [(128, 512), (256, 1024), (384, 1536)]
}


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
def test_preset_has_its_size(name, student_class, layers, width, intermediate, vocabulary):
    student = build_student(name, vocabulary=vocabulary, output_dim=OUTPUT_DIM, normalize=False)
    assert type(student) is student_class and student.name == name
    assert student.vocabulary is vocabulary and not student.normalize
    weights = vocabulary.size * width + (width + 1) * OUTPUT_DIM
    if layers:
        # Positions and the norm after the embeddings.
        weights += 128 * width + 2 * width + layers * BLOCK[width, intermediate]
    else:
        weights += vocabulary.size
    assert student.count_params() == weights


def test_every_preset_is_tested():
    assert set(SIZES) == {"static_128", "static_256", "tiny", "mini", "small"}


def test_arguments_override_a_preset(vocabulary):
    arguments = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 4, "sequence_length": 7}
    student = build_student("tiny", vocabulary=vocabulary, output_dim=3, name="own", **arguments)
    assert {key: getattr(student, key) for key in arguments} == arguments
    assert student.name == "own"


def test_table_rank_narrows_the_stored_table(vocabulary):
    static = build_student("static_256", vocabulary=vocabulary, output_dim=3, table_rank=40)
    assert static.embedding_dim == 40 and static.projection.kernel.shape == (40, 3)
    tiny = build_student("tiny", vocabulary=vocabulary, output_dim=3, table_rank=40, num_layers=1)
    assert tiny.token_embedding.table.shape == (vocabulary.size, 40) and tiny.hidden_dim == 128


@pytest.mark.parametrize(("name", "most"), [("static_128", 127), ("tiny", 127)])
def test_a_table_rank_of_the_presets_width_is_refused(name, most, vocabulary):
    with pytest.raises(InputError) as error:
        build_student(name, vocabulary=vocabulary, output_dim=3, table_rank=128)
    assert_one_line(str(error.value), f"from 1 to {most}", "table_rank=128")


def test_unknown_preset_is_refused(vocabulary):
    with pytest.raises(InputError) as error:
        build_student("huge", vocabulary=vocabulary, output_dim=3)
    assert_one_line(str(error.value), "'huge'", "static_256", "tiny")
