"""New tokens where a teacher's vectors say that they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from contracts import assert_one_line

from kdkeras import teachers
from kdkeras.__main__ import main
from kdkeras.data.wordpiece import WordPieceVocabulary
from kdkeras.errors import InputError
from kdkeras.growth import AlignTokens, ComposeTokens, GrowthPlan, grow
from kdkeras.students import StaticStudent, TransformerStudent

TEACHER = str(Path(__file__).parents[1] / "teachers" / "tiny_bert" / "mean")
NEW = 30


def of_tokens(tokens):
    return WordPieceVocabulary({"vocab.txt": ("\n".join(tokens) + "\n").encode()})


@pytest.fixture(scope="module")
def teacher():
    return teachers.load(TEACHER)


@pytest.fixture(scope="module")
def tokens(teacher):
    """The teacher's: special ones first, then all that it has."""
    names, _ = teacher.token_embeddings()
    special = [n for n in names if n.startswith("[") and not n.startswith("[unused")]
    return [*special, *(n for n in names if n not in special)]


@pytest.fixture(scope="module")
def vocabularies(tokens):
    """One that lacks the teacher's last tokens, and one that has them and one of nobody's."""
    return of_tokens(tokens[:-NEW]), of_tokens([*tokens, "ᚠᚢᚦ"])


@pytest.fixture(scope="module")
def affine(teacher, tokens, vocabularies):
    """A table whose rows are an affine map of the teacher's, and what the new ones would be."""
    names, table = teacher.token_embeddings()
    table = np.stack([table[names.index(token)] for token in tokens])
    generator = np.random.default_rng(0)
    rows = table @ generator.normal(size=(table.shape[1], 6)) + generator.normal(size=6)
    old, _ = vocabularies
    sizes = {"num_layers": 1, "hidden_dim": 6, "num_heads": 2, "intermediate_dim": 8}
    student = TransformerStudent(old.size, 5, vocabulary=old, sequence_length=12, **sizes)
    student.token_embedding.set_weights([rows[:-NEW]])
    return student, rows


def rows_of(student):
    return student.token_embedding.table.value.numpy()


def test_what_a_linear_map_can_tell_is_told(affine, vocabularies):
    student, rows = affine
    new = vocabularies[1]
    plan = GrowthPlan(vocabulary=new, tokens=AlignTokens(teacher=TEACHER, ridge=1e-9))
    grown = grow(student, plan)
    assert grown.certificate.keeps_function
    assert grown.certificate.steps[0].operator == "AlignTokens"
    np.testing.assert_array_equal(rows_of(grown)[: len(rows) - NEW], rows_of(student))
    np.testing.assert_allclose(rows_of(grown)[len(rows) - NEW : len(rows)], rows[-NEW:], atol=1e-3)
    composed = rows_of(grow(student, GrowthPlan(vocabulary=new)))
    assert np.abs(composed[len(rows) - NEW : len(rows)] - rows[-NEW:]).max() > 0.05
    # Of the last one the teacher knows nothing: made of its pieces.
    np.testing.assert_array_equal(rows_of(grown)[-1], composed[-1])


def test_the_ridge_is_the_regressions(affine, vocabularies, teacher, tokens):
    """Against the normal equations of the old rows, solved for the map itself."""
    student, rows = affine
    noisy = TransformerStudent.from_config(student.get_config())
    noisy._hold(student.vocabulary)
    generator = np.random.default_rng(1)
    table = rows_of(student) + generator.normal(0, 0.5, rows_of(student).shape)
    noisy.token_embedding.set_weights([table])
    plan = GrowthPlan(vocabulary=vocabularies[1], tokens=AlignTokens(teacher=TEACHER, ridge=0.3))
    found = rows_of(grow(noisy, plan))[len(rows) - NEW : len(rows)]
    names, vectors = teacher.token_embeddings()
    vectors = (vectors - vectors.mean(axis=0)) / vectors.std()
    known = np.stack([[*vectors[names.index(token)], 1.0] for token in tokens])
    t, goal = known[:-NEW], known[-NEW:]
    assert len(t) <= 2048  # all are fitted to
    fitted = np.linalg.solve(t.T @ t + 0.3 * len(t) * np.eye(t.shape[1]), t.T @ table)
    np.testing.assert_allclose(found, goal @ fitted, atol=1e-4)


def test_weights_of_tokens_are_averages_of_their_pieces(vocabularies):
    old, new = vocabularies
    student = StaticStudent(old.size, 5, 4, vocabulary=old)
    weights = np.random.default_rng(2).normal(size=(old.size, 1))
    student.token_weight.set_weights([weights])
    by_teacher, by_pieces = (
        grow(student, GrowthPlan(vocabulary=new, tokens=how)).token_weight.table.value.numpy()
        for how in (AlignTokens(teacher=TEACHER), ComposeTokens())
    )
    np.testing.assert_array_equal(by_teacher, by_pieces)


def test_a_plan_with_a_teacher_is_data(vocabularies):
    plan = GrowthPlan(vocabulary=vocabularies[1], tokens=AlignTokens(teacher=TEACHER, ridge=0.5))
    again = GrowthPlan.from_dict(plan.to_dict(), vocabularies[1])
    assert again.tokens == plan.tokens and again.tokens.ridge == 0.5


def test_bad_input_is_refused(affine, vocabularies, tmp_path, capsys):
    with pytest.raises(InputError) as error:
        AlignTokens(teacher=TEACHER, ridge=0)
    assert_one_line(str(error.value), "`ridge`", "positive")
    plan = GrowthPlan(vocabulary=vocabularies[1], tokens=AlignTokens(teacher=str(tmp_path)))
    with pytest.raises(InputError) as error:
        grow(affine[0], plan)
    assert_one_line(str(error.value), str(tmp_path))


def test_the_command_takes_a_teacher_for_new_tokens(affine, vocabularies, tmp_path, capsys):
    student, rows = affine
    student.save(tmp_path / "small.keras")
    vocabularies[1].save(tmp_path / "new")
    arguments = ["grow", str(tmp_path / "small.keras"), "--output", str(tmp_path / "large.keras")]
    assert main([*arguments, "--layers", "2", "--align-tokens", TEACHER]) == 2
    assert_one_line(capsys.readouterr().err.strip(), "--align-tokens without --vocabulary")
    given = ["--vocabulary", str(tmp_path / "new"), "--align-tokens", TEACHER]
    assert main([*arguments, *given]) == 0
    import kdkeras

    plan = GrowthPlan(vocabulary=vocabularies[1], tokens=AlignTokens(teacher=TEACHER))
    expected = rows_of(grow(student, plan))
    np.testing.assert_array_equal(rows_of(kdkeras.load(tmp_path / "large.keras")), expected)
