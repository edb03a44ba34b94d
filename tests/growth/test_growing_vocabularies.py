"""New tokens: their rows are made from old ones, and old tokens keep their embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import assert_one_line
from growth_students import roughen

from kdkeras.data.wordpiece import WordPieceVocabulary
from kdkeras.errors import InputError
from kdkeras.growth import ComposeTokens, GrowthPlan, grow
from kdkeras.students import StaticStudent, TransformerStudent


@pytest.fixture(scope="module")
def new_words(wordpiece, sentences_by_language):
    """Real words that the old vocabulary splits into several known pieces."""
    words = {w for text in sentences_by_language["de"] for w in text.lower().split()}
    words = sorted(w for w in words if w.isalpha() and w not in wordpiece.tokens)
    pieces = wordpiece.encode(words, 40)["token_ids"]
    return [w for w, row in zip(words, pieces, strict=True) if wordpiece.unknown_id not in row][:40]


def extended(vocabulary, tokens):
    """The old tokens, then new ones."""
    return WordPieceVocabulary(
        {"vocab.txt": ("\n".join([*vocabulary.tokens, *tokens]) + "\n").encode()}
    )


@pytest.fixture(scope="module")
def larger(wordpiece, new_words):
    assert len(new_words) == 40
    # A token that the old vocabulary cannot spell, and one that continues a word.
    return extended(wordpiece, [*new_words, "ᚠᚢᚦ", "##lichkeiten"])


def make(student_class, vocabulary, **arguments):
    student = student_class(
        vocabulary.size, 12, sequence_length=24, vocabulary=vocabulary, **arguments
    )
    return roughen(student)


@pytest.fixture(scope="module")
def table(wordpiece):
    return make(StaticStudent, wordpiece, embedding_dim=8)


@pytest.fixture(scope="module")
def transformer(wordpiece):
    sizes = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "intermediate_dim": 8}
    return make(TransformerStudent, wordpiece, **sizes)


def rows_of(student):
    return student.token_embedding.table.value.numpy().astype(float)


def pieces_of(vocabulary, word):
    return vocabulary.encode([word], 40)["token_ids"][0, 1:-1]  # without [CLS] and [SEP]


@pytest.mark.parametrize("kind", ["table", "transformer"])
def test_old_ids_keep_their_embeddings(request, kind, larger, texts):
    student = request.getfixturevalue(kind)
    grown = grow(student, GrowthPlan(vocabulary=larger), probe=texts)
    certificate = grown.certificate
    assert certificate.maximum_error < 1e-6 and certificate.keeps_function
    assert grown.vocabulary is larger and grown.vocabulary_size == larger.size
    np.testing.assert_array_equal(rows_of(grown)[: student.vocabulary_size], rows_of(student))
    (step,) = certificate.steps
    assert (step.size, step.operator, step.keeps_function) == (
        "vocabulary_size",
        "ComposeTokens",
        True,
    )


def test_a_new_row_is_the_mean_of_the_pieces(transformer, wordpiece, larger, new_words):
    grown = grow(transformer, GrowthPlan(vocabulary=larger))
    old, new = rows_of(transformer), rows_of(grown)
    for number, word in enumerate(new_words):
        pieces = pieces_of(wordpiece, word)
        assert len(pieces) > 1
        np.testing.assert_allclose(new[wordpiece.size + number], old[pieces].mean(0), atol=1e-6)


def test_a_token_that_cannot_be_spelled_is_unknown(transformer, wordpiece, larger):
    new = rows_of(grow(transformer, GrowthPlan(vocabulary=larger)))
    np.testing.assert_array_equal(new[larger.tokens.index("ᚠᚢᚦ")], new[wordpiece.unknown_id])


def test_a_token_that_continues_a_word_is_made_from_such_pieces(transformer, wordpiece, larger):
    new = rows_of(grow(transformer, GrowthPlan(vocabulary=larger)))
    pieces = [wordpiece.tokens[i] for i in pieces_of(wordpiece, "lichkeiten")]
    inside = [p if p.startswith("##") else f"##{p}" for p in pieces]
    inside = [i if i in wordpiece.tokens else p for i, p in zip(inside, pieces, strict=True)]
    assert inside != pieces
    expected = rows_of(transformer)[[wordpiece.tokens.index(p) for p in inside]].mean(0)
    np.testing.assert_allclose(new[larger.tokens.index("##lichkeiten")], expected, atol=1e-6)


def test_sums_in_a_table_preserve_directions(table, new_words, larger):
    """For texts of new words, with a projection without bias."""
    student = table.clone()
    student.projection.bias.assign(np.zeros(12))
    # Both sum the same rows, including [CLS] and [SEP], and divide by different counts.
    texts = [" ".join(new_words[i : i + 4]) for i in range(0, 40, 4)]
    grown = grow(student, GrowthPlan(vocabulary=larger), probe=texts)
    assert grown.certificate.text_cosine_drift < 1e-6
    before, after = (s.vocabulary.encode(texts, 24)["padding_mask"].sum() for s in (student, grown))
    assert after < before
    mean = ComposeTokens(reduce="mean")
    drift = grow(student, GrowthPlan(vocabulary=larger, tokens=mean), probe=texts).certificate
    assert drift.text_cosine_drift > 1e-4


def test_a_table_grows_in_vocabulary_width_and_layers_at_once(table, larger, texts):
    sizes = {"embedding_dim": 11, "num_layers": 1, "hidden_dim": 16, "num_heads": 2}
    grown = grow(table, GrowthPlan(sizes=sizes, vocabulary=larger), probe=texts)
    assert grown.certificate.maximum_error < 1e-5
    assert [s.size for s in grown.certificate.steps] == [
        "vocabulary_size",
        "embedding_dim",
        "num_layers",
    ]


def test_a_vocabulary_without_old_tokens_keeps_shared_rows(
    transformer, wordpiece, new_words, texts
):
    """In another order; allowed with keeps_function=False."""
    kept = [*wordpiece.tokens[:5], *wordpiece.tokens[:4:-1][:-10]]
    other = extended(type("V", (), {"tokens": kept}), new_words)
    with pytest.raises(InputError) as error:
        grow(transformer, GrowthPlan(vocabulary=other))
    assert_one_line(str(error.value), "every old token", "lacks 10 of 7000", "keeps_function=False")
    plan = GrowthPlan(vocabulary=other, keeps_function=False)
    grown = grow(transformer, plan, probe=texts)
    assert not grown.certificate.steps[0].keeps_function
    row = other.tokens.index(wordpiece.tokens[6000])
    np.testing.assert_array_equal(rows_of(grown)[row], rows_of(transformer)[6000])


def test_unsuitable_vocabularies_are_refused(transformer, wordpiece, larger):
    def refuse(model, plan, *parts):
        with pytest.raises(InputError) as error:
            grow(model, plan)
        assert_one_line(str(error.value), *parts)

    fewer = extended(type("V", (), {"tokens": wordpiece.tokens[:100]}), [])
    refuse(transformer, GrowthPlan(vocabulary=fewer), "at least 7000 tokens", "Received: 100")
    bare = TransformerStudent(30, 8, 1, 8, 2, 8)
    refuse(bare, GrowthPlan(vocabulary=larger), "without a vocabulary", "vocabulary=...")
    with pytest.raises(InputError) as error:
        ComposeTokens(reduce="max")
    assert_one_line(str(error.value), "`reduce`", "'max'")
