"""Mixed vocabularies: words where spaces separate them, unigram pieces elsewhere."""

from __future__ import annotations

import math
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from kdkeras.data.sentencepiece import (
    MODEL,
    NORMAL,
    WORD_START,
    SentencePieceVocabulary,
    train_sentencepiece,
)

__all__ = ["train_mixed"]

# Scripts without spaces between words, and scripts that write words such as "and" and
# "the" as prefixes (Arabic, Hebrew). Their words are cut into the most likely unigrams.
_UNIGRAM = frozenset({"HAN", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "ARABIC", "HEBREW"})
_SAME_SCRIPT = {"CJK": "HAN", "HIRAGANA": "HAN", "KATAKANA": "HAN", "HALFWIDTH": "HAN"}
_NO_SCRIPT = "OTHER"
# Score per character of the beginning of a word. It exceeds every difference between the
# scores of other pieces, so that the longest beginning is always preferred.
_PER_CHARACTER = 64.0
# Typical length of a beginning, subtracted to keep the scores of long texts near 0, where
# float32 is precise.
_CHARACTERS = 5
# Range of the offsets that prevent ties, which runtimes would break differently. Smaller than
# the effect of one more use of a rare piece.
_TIE_BREAK = 0.05
# Initial score of a word, before its uses are counted.
_START = -10.0
# Candidate words per piece of the vocabulary.
_CANDIDATES = 1.7
# Words, per piece of the vocabulary, from which the minimum number for small scripts is derived.
_FLOOR_CANDIDATES = 1.25
_ROUNDS = 4
_CHUNK = 100_000


def train_mixed(sentences: list[str], size: int) -> SentencePieceVocabulary:
    """Trains a mixed vocabulary, one SentencePiece model; see `train_vocabulary`.

    In scripts with spaces, a word is cut after its longest beginning that is a
    piece (usually its stem); these pieces are found by merging, as WordPiece
    does. In other scripts, text is cut into the most likely unigram pieces.
    Both follow from the scores of the model, so every SentencePiece runtime
    tokenizes identically.

    The candidates of both trainers are pruned by how often they are used. A
    script with less than a tenth of the pieces keeps at least as many as
    either trainer gives it.

    Raises:
        InputError: If the sentences have fewer than `size` pieces, or more
            than `size` characters.
    """
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(train_sentencepiece(sentences, size).files[MODEL])
    unigrams = {p.piece: p.score for p in model.pieces if p.type == NORMAL}
    characters = {c for piece in unigrams for c in piece}
    texts = _normalized(model, sentences)
    words = [piece for piece in _merged_words(texts, size) if characters.issuperset(piece)]
    scores = {p: _START for p in words if script(p) not in _UNIGRAM}
    scores.update((p, s) for p, s in unigrams.items() if script(p) in _UNIGRAM or len(p) == 1)
    number = len(unigrams)
    if len(scores) < number:  # A small corpus has too few words.
        scores.update((p, s) for p, s in unigrams.items() if p not in scores)
    _prune(
        model,
        scores,
        texts,
        number,
        _floors(words[: int(_FLOOR_CANDIDATES * size)], list(unigrams)),
    )
    return SentencePieceVocabulary({MODEL: _assembled(model, scores)})


def _normalized(model: Any, sentences: list[str]) -> list[str]:
    """Returns the sentences as the model normalizes them, with spaces between words."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    return [text.replace(WORD_START, " ").strip() for text in pieces.normalize(sentences)]


def _merged_words(texts: list[str], size: int) -> list[str]:
    """Returns pieces in the order in which merging finds them, characters first."""
    counts = Counter(character for text in texts for character in text)
    del counts[" "]
    ordered = sorted(counts)
    # Passed in a fixed order; the trainer's own order, which breaks ties, is random.
    inside = {b for t in texts for a, b in zip(t, t[1:], strict=False) if " " not in (a, b)}
    alphabet = [*ordered, *(f"##{c}" for c in ordered if c in inside)]
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(int(_CANDIDATES * size), len(alphabet) + 2),
        special_tokens=["[UNK]", *alphabet],
        limit_alphabet=1,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    found = learner.get_vocab()
    tokens = sorted(found, key=lambda token: found[token])[1:]
    return [t[2:] if t.startswith("##") else WORD_START + t for t in tokens]


@cache
def script(piece: str) -> str:
    """Returns the script of a piece's first letter, e.g. `"LATIN"`, by its Unicode name."""
    for character in piece:
        if unicodedata.category(character)[0] in "LM":
            name = unicodedata.name(character, _NO_SCRIPT).replace("-", " ").split()[0]
            return _SAME_SCRIPT.get(name, name)
    return _NO_SCRIPT


def _floors(words: list[str], unigrams: list[str]) -> dict[str, int]:
    """Returns the minimum number of pieces of each small script.

    It is the larger number of the two trainers.
    """
    given = [Counter(map(script, pieces)) for pieces in (words, unigrams)]
    larger = {name: max(g[name] for g in given) for g in given for name in g}
    return {name: n for name, n in larger.items() if n < len(unigrams) / 10}


def _prune(
    model: Any,
    scores: dict[str, float],
    texts: list[str],
    number: int,
    floors: dict[str, int],
) -> None:
    """Reduces `scores` to `number` pieces, by use; single characters are kept."""
    for step in range(_ROUNDS, 0, -1):
        counts = _counts(model, scores, texts)
        total = sum(counts.values())
        scores.update((p, math.log((counts[p] + 0.1) / total)) for p in scores)
        surplus = len(scores) - number if step == 1 else (len(scores) - number) // 2
        left = Counter(map(script, scores))
        for piece in sorted(scores, key=lambda p: (counts[p], p)):
            if surplus <= 0:
                break
            if len(piece) > 1 and left[script(piece)] > floors.get(script(piece), 0):
                del scores[piece]
                left[script(piece)] -= 1
                surplus -= 1


def _counts(model: Any, scores: dict[str, float], texts: list[str]) -> Counter[str]:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=_assembled(model, scores))
    counts = np.zeros(pieces.get_piece_size(), np.int64)
    for ids in _encoded(pieces, texts):
        counts += np.bincount(ids, minlength=len(counts))
    return Counter({pieces.id_to_piece(i): int(n) for i, n in enumerate(counts)})


def _encoded(
    pieces: sentencepiece.SentencePieceProcessor, texts: list[str]
) -> Iterator[np.ndarray]:
    for start in range(0, len(texts), _CHUNK):
        rows = pieces.encode(texts[start : start + _CHUNK], num_threads=4)
        yield np.fromiter(chain.from_iterable(rows), np.int64)


def _assembled(model: Any, scores: dict[str, float]) -> bytes:
    """Returns the model with these pieces instead of its own, most likely first."""
    special = [piece for piece in model.pieces if piece.type != NORMAL]
    made = type(model)()
    made.CopyFrom(model)
    del made.pieces[:]
    made.pieces.extend(special)
    for text in sorted(scores, key=lambda p: (-scores[p], p)):
        made.pieces.add(piece=text, score=scores[text] + _bonus(text), type=NORMAL)
    made.trainer_spec.vocab_size = len(made.pieces)
    return made.SerializeToString(deterministic=True)


def _bonus(piece: str) -> float:
    """Returns the offset of a piece's score from the logarithm of its probability.

    Each word has exactly one beginning, so a constant offset of all beginnings
    does not change how words are cut.
    """
    tie_break = _TIE_BREAK * zlib.crc32(piece.encode()) / 2**32
    if not piece.startswith(WORD_START):
        return tie_break
    counted = 0 if script(piece) in _UNIGRAM else len(piece) - 1
    return _PER_CHARACTER * (counted - _CHARACTERS) + tie_break
