"""New tokens whose rows are predicted from a teacher's vectors."""

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
    """The teacher's tokens, special ones first."""
    names, _ = teacher.token_embeddings()
    special = [n for n in names if n.startswith("[") and not n.startswith("[unused")]
    return [*special, *(n for n in names if n not in special)]


@pytest.fixture(scope="module")
def vocabularies(tokens):
    """One without the teacher's last tokens; one with them, and one more token."""
    return of_tokens(tokens[:-NEW]), of_tokens([*tokens, "ᚠᚢᚦ"])


@pytest.fixture(scope="module")
def affine(teacher, tokens, vocabularies):
    """A student whose rows are an affine map of the teacher's, and the rows of all tokens."""
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


def test_an_affine_map_is_recovered(affine, vocabularies):
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
    # The teacher does not know the last token, which is made from its pieces.
    np.testing.assert_array_equal(rows_of(grown)[-1], composed[-1])


def test_rows_are_those_of_the_ridge_regression(affine, vocabularies, teacher, tokens):
    """Compared with the normal equations, solved for the map itself."""
    student, rows = affine
    noisy = student.clone()
    generator = np.random.default_rng(1)
    table = rows_of(student) + generator.normal(0, 0.5, rows_of(student).shape)
    noisy.token_embedding.set_weights([table])
    plan = GrowthPlan(vocabulary=vocabularies[1], tokens=AlignTokens(teacher=TEACHER, ridge=0.3))
    found = rows_of(grow(noisy, plan))[len(rows) - NEW : len(rows)]
    names, vectors = teacher.token_embeddings()
    vectors = (vectors - vectors.mean(axis=0)) / vectors.std()
    known = np.stack([[*vectors[names.index(token)], 1.0] for token in tokens])
    t, goal = known[:-NEW], known[-NEW:]
    assert len(t) <= 2048  # all of them are used
    fitted = np.linalg.solve(t.T @ t + 0.3 * len(t) * np.eye(t.shape[1]), t.T @ table)
    np.testing.assert_allclose(found, goal @ fitted, atol=1e-4)


def test_token_weights_are_averages_over_the_pieces(vocabularies):
    old, new = vocabularies
    student = StaticStudent(old.size, 5, 4, vocabulary=old)
    weights = np.random.default_rng(2).normal(size=(old.size, 1))
    student.token_weight.set_weights([weights])
    by_teacher, by_pieces = (
        grow(student, GrowthPlan(vocabulary=new, tokens=how)).token_weight.table.value.numpy()
        for how in (AlignTokens(teacher=TEACHER), ComposeTokens())
    )
    np.testing.assert_array_equal(by_teacher, by_pieces)


def test_a_plan_with_a_teacher_round_trips(vocabularies):
    plan = GrowthPlan(vocabulary=vocabularies[1], tokens=AlignTokens(teacher=TEACHER, ridge=0.5))
    again = GrowthPlan.from_dict(plan.to_dict(), vocabularies[1])
    assert again.tokens == plan.tokens and again.tokens.ridge == 0.5


def test_invalid_arguments_are_refused(affine, vocabularies, tmp_path, capsys):
    with pytest.raises(InputError) as error:
        AlignTokens(teacher=TEACHER, ridge=0)
    assert_one_line(str(error.value), "`ridge`", "positive")
    plan = GrowthPlan(vocabulary=vocabularies[1], tokens=AlignTokens(teacher=str(tmp_path)))
    with pytest.raises(InputError) as error:
        grow(affine[0], plan)
    assert_one_line(str(error.value), str(tmp_path))


def test_the_command_aligns_new_tokens_with_a_teacher(affine, vocabularies, tmp_path, capsys):
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
