"""The mixed vocabulary of words and unigrams."""

from __future__ import annotations

from collections import Counter

import pytest
import sentencepiece

from kdkeras.data.mixed import script

UNIGRAM = ("HAN", "THAI", "ARABIC", "HEBREW")


def processor(vocabulary):
    return sentencepiece.SentencePieceProcessor(model_proto=vocabulary.files["sentencepiece.model"])


def words_of(model, texts):
    """Returns every normalized word, with its `▁`."""
    return {f"▁{word}" for text in model.normalize(texts) for word in text.split("▁") if word}


def test_it_is_a_sentencepiece_model_of_distinct_pieces(mixed):
    assert mixed.size == len(set(mixed.tokens)) == 7000
    assert mixed.kind == "sentencepiece"


@pytest.mark.parametrize("language", ["de", "fi", "ru", "el", "hi", "ko", "tr", "vi"])
def test_word_is_cut_after_its_longest_beginning(mixed, sentences_by_language, language):
    known, model = set(mixed.tokens), processor(mixed)
    words = sorted(words_of(model, sentences_by_language[language]))
    cuts = model.encode([word[1:] for word in words], out_type=str)
    for word, pieces in zip(words, cuts, strict=True):
        longest = max(n for n in range(1, len(word) + 1) if word[:n] in known)
        assert pieces[0] == word[:longest], word
    assert sum(len(pieces) > 1 for pieces in cuts) > 20


@pytest.mark.parametrize("language", ["ja", "zh", "th", "ar", "he"])
def test_other_scripts_are_cut_into_pieces_of_the_unigram_trainer(
    mixed, unigram, sentences_by_language, language
):
    cuts = processor(mixed).encode(sentences_by_language[language], out_type=str)
    used = Counter(piece for pieces in cuts for piece in pieces)
    own = {piece: n for piece, n in used.items() if script(piece) in UNIGRAM}
    assert sum(own.values()) > 200 and set(own) <= set(unigram.tokens)
    assert sum(len(piece.strip("▁")) > 1 for piece in own) > 20


def test_small_scripts_keep_as_many_pieces_as_the_unigram_trainer_gives_them(mixed, unigram):
    found, given = (Counter(map(script, v.tokens)) for v in (mixed, unigram))
    for name in ("THAI", "HEBREW", "GREEK", "HANGUL", "DEVANAGARI"):
        assert given[name] < 700 and found[name] >= given[name] > 20, name


def test_it_covers_the_characters_of_the_unigram_vocabulary(mixed, unigram, sentences):
    unknown = [
        sum(row.count(v.unknown_id) for row in v.tokenize(sentences).to_list())
        for v in (mixed, unigram)
    ]
    assert unknown[0] == unknown[1]


@pytest.mark.parametrize(
    ("piece", "expected"),
    [("▁haus", "LATIN"), ("ワイン", "HAN"), ("ー", "HAN"), ("▁1990", "OTHER"), ("שלום", "HEBREW")],
)
def test_script_of_a_piece(piece, expected):
    assert script(piece) == expected
