"""The vocabulary of words and unigrams."""

from __future__ import annotations

from collections import Counter

import pytest
import sentencepiece
from contracts import assert_one_line

from kdkeras.data import train_vocabulary
from kdkeras.data.mixed import script
from kdkeras.errors import InputError

UNIGRAM = ("HAN", "THAI", "ARABIC", "HEBREW")


def pieces_of(vocabulary, texts):
    model = sentencepiece.SentencePieceProcessor(
        model_proto=vocabulary.files["sentencepiece.model"]
    )
    return model.encode(texts, out_type=str)


def words_of(vocabulary, texts):
    """Every word that the normaliser finds, with its `▁`."""
    model = sentencepiece.SentencePieceProcessor(
        model_proto=vocabulary.files["sentencepiece.model"]
    )
    return {f"▁{word}" for text in model.normalize(texts) for word in text.split("▁") if word}


def test_it_has_the_size_asked_for_and_no_piece_twice(mixed):
    assert mixed.size == len(set(mixed.tokens)) == 7000
    assert mixed.kind == "sentencepiece"


@pytest.mark.parametrize("language", ["de", "fi", "ru", "el", "hi", "ko", "tr", "vi"])
def test_word_is_cut_after_the_longest_beginning_that_is_a_piece(
    mixed, sentences_by_language, language
):
    known = set(mixed.tokens)
    words = sorted(words_of(mixed, sentences_by_language[language]))
    cut = 0
    for word in words:
        longest = max(n for n in range(1, len(word) + 1) if word[:n] in known)
        first = pieces_of(mixed, [word[1:]])[0][0]
        assert first == word[:longest], word
        cut += first != word
    assert cut > 20  # Some words are in pieces, or this would show nothing.


@pytest.mark.parametrize("language", ["ja", "zh", "th", "ar", "he"])
def test_elsewhere_it_cuts_into_pieces_of_the_unigram_trainer(
    mixed, unigram, sentences_by_language, language
):
    known = set(unigram.tokens)
    used = Counter(p for row in pieces_of(mixed, sentences_by_language[language]) for p in row)
    own = {piece: n for piece, n in used.items() if script(piece) in UNIGRAM}
    assert sum(own.values()) > 200 and set(own) <= known
    assert sum(len(piece.strip("▁")) > 1 for piece in own) > 20


def test_small_scripts_keep_the_pieces_that_the_unigram_trainer_gave_them(mixed, unigram):
    found, given = (Counter(map(script, v.tokens)) for v in (mixed, unigram))
    for name in ("THAI", "HEBREW", "GREEK", "HANGUL", "DEVANAGARI"):
        assert given[name] < 700 and found[name] >= given[name] > 20, name


def test_it_spells_what_the_unigram_vocabulary_spells(mixed, unigram, sentences):
    unknown = [
        sum(row.count(v.unknown_id) for row in v.tokenize(sentences).to_list())
        for v in (mixed, unigram)
    ]
    assert unknown[0] == unknown[1]


def test_equal_sentences_give_equal_bytes(sentences):
    one, other = (train_vocabulary(sentences, 4000, "mixed") for _ in range(2))
    assert one.files == other.files


def test_too_many_pieces_are_refused(sentences):
    with pytest.raises(InputError) as error:
        train_vocabulary(sentences[:200], 50_000, "mixed")
    assert_one_line(str(error.value), "size=50000", "The largest possible size is")


@pytest.mark.parametrize(
    ("piece", "expected"),
    [("▁haus", "LATIN"), ("ワイン", "HAN"), ("ー", "HAN"), ("▁1990", "OTHER"), ("שלום", "HEBREW")],
)
def test_script_of_a_piece(piece, expected):
    assert script(piece) == expected
