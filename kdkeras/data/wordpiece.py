"""WordPiece vocabularies that mobile BERT tokenizers execute identically."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter

import tensorflow as tf
import tensorflow_text as tf_text
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from kdkeras.data.vocabulary import Vocabulary, VocabularySizeError
from kdkeras.errors import InputError

__all__ = ["WordPieceVocabulary", "train_wordpiece"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Limit of MediaPipe and tensorflow_text, in bytes; Hugging Face counts characters.
MAX_WORD_BYTES = 100
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
# Punctuation of newer Unicode versions: known to Oniguruma (`tokenizers`), unknown
# to RE2 (TensorFlow, MediaPipe).
UNKNOWN_TO_RE2 = (
    (0x1B4E, 0x1B4F),
    (0x1B7F, 0x1B7F),
    (0x10D6E, 0x10D6E),
    (0x113D4, 0x113D5),
    (0x113D7, 0x113D8),
    (0x11BE1, 0x11BE1),
    (0x16D6D, 0x16D6F),
    (0x1E5FF, 0x1E5FF),
)


def _ranges(ranges: tuple[tuple[int, int], ...]) -> str:
    return "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in ranges)


# BERT's expressions: white space is removed, punctuation and ideographs are split off.
ALONE = r"[!-/:-@\[-`{-~\p{P}" + _ranges(IDEOGRAPHS) + "]"
SPACE = r"[\t\n\f\r ]+"
ALONE_IN_PYTHON = "[!-/:-@\\[-`{-~" + "".join(f"{chr(a)}-{chr(b)}" for a, b in IDEOGRAPHS) + "]"
ASCII_LOWER = {65 + i: 97 + i for i in range(26)}
# Sufficient for all ideographs and Hangul syllables in use.
MAX_CHARACTERS = 12_000


def _word_characters(first: int, last: int = 0x10FFFF) -> str:
    """Returns an Oniguruma class: characters of a range that do not end a word."""
    ends = rf"\t\n\f\r !-/:-@\[-`{{-~\p{{P}}{_ranges(IDEOGRAPHS)}"
    return rf"[\x{{{first:X}}}-\x{{{last:X}}}&&[^{ends}]]"


def _too_long() -> str:
    """Matches words longer than `MAX_WORD_BYTES`, e.g. 34 three-byte characters.

    Without it, a Thai sentence of 40 letters would be one unknown word in
    TensorFlow and MediaPipe, but many pieces in `tokenizers`. The quantifier
    is possessive because the engine limits backtracking.
    """
    return "|".join(
        f"(?:{_word_characters(1, first - 1)}*+{_word_characters(first)})"
        f"{{{MAX_WORD_BYTES // width + 1}}}"
        for first, width in ((0x10000, 4), (0x800, 3), (0x80, 2))
    )


def _tokenizer(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    lower = [normalizers.Replace(chr(65 + i), chr(97 + i)) for i in range(26)]
    # U+FFFF is a noncharacter that no piece contains: the word becomes [UNK].
    long_words = normalizers.Replace(Regex(_too_long()), "\uffff")
    tokenizer.normalizer = normalizers.Sequence([*lower, long_words])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPACE), "removed"),
            pre_tokenizers.Split(Regex(f"(?![{_ranges(UNKNOWN_TO_RE2)}]){ALONE}"), "isolated"),
        ]
    )
    return tokenizer


class WordPieceVocabulary(Vocabulary):
    """A WordPiece vocabulary; each text is wrapped in `[CLS] … [SEP]`.

    The ids equal those of MediaPipe's BERT tokenizer, of `tokenizers` (with
    the saved `tokenizer.json`) and of `tensorflow_text`. As in MediaPipe,
    normalization only lower-cases A to Z: pass texts in NFC, as the corpus
    readers return them. A word longer than 100 bytes is one unknown token.

    Args:
        files: `vocab.txt`, one token per line, and optionally `tokenizer.json`.

    Raises:
        InputError: If `vocab.txt` does not start with `[PAD]` or lacks a
            special token.
    """

    kind = "wordpiece"
    policy = (
        "A-Z lower-cased, no other normalization (NFC expected); split at white space, around "
        "punctuation and around ideographs; [CLS] ... [SEP]"
    )
    required_files = ("vocab.txt",)

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(files)
        self.tokens = files["vocab.txt"].decode("utf-8").removesuffix("\n").split("\n")
        if self.tokens[0] != SPECIAL[0] or not set(SPECIAL[:4]) <= set(self.tokens):
            raise InputError(
                "A WordPiece vocabulary must start with [PAD] and contain [UNK], [CLS] and [SEP]. "
                f"Received: vocab.txt starting with {self.tokens[:4]}. Use train_vocabulary()."
            )
        self.unknown_id = self.tokens.index("[UNK]")
        self._start, self._end = self.tokens.index("[CLS]"), self.tokens.index("[SEP]")
        with tf.init_scope():
            self._pieces = tf_text.WordpieceTokenizer(
                tf.lookup.StaticVocabularyTable(
                    tf.lookup.KeyValueTensorInitializer(
                        tf.constant(self.tokens), tf.range(len(self.tokens), dtype=tf.int64)
                    ),
                    num_oov_buckets=1,
                ),
                token_out_type=tf.int32,
                max_bytes_per_word=MAX_WORD_BYTES,
            )

    def tokenize(self, texts: tf.Tensor, sequence_length: int | None = None) -> tf.RaggedTensor:
        """See `Vocabulary.tokenize`; a truncated text keeps its `[SEP]`."""
        words = tf_text.regex_split(tf.strings.lower(texts), rf"{SPACE}|{ALONE}", ALONE)
        ids = self._pieces.tokenize(words).merge_dims(-2, -1)
        if sequence_length is not None:
            ids = ids[:, : max(sequence_length - 2, 0)]
        edge = tf.ones([ids.nrows(), 1], tf.int32)
        return tf.concat([self._start * edge, ids, self._end * edge], axis=1)

    @property
    def essential_ids(self) -> list[int]:
        """See `Vocabulary.essential_ids`."""
        return [i for i, token in enumerate(self.tokens) if token in SPECIAL]

    def _subset(self, ids: list[int]) -> WordPieceVocabulary:
        return WordPieceVocabulary(_files([self.tokens[i] for i in ids]))

    def surface(self, token: str) -> tuple[str, bool]:
        """See `Vocabulary.surface`."""
        if token in SPECIAL:
            return "", False
        return (token[2:], False) if token.startswith("##") else (token, True)


def _alphabet(sentences: list[str]) -> list[str]:
    """Returns the characters, and the `##` form of those inside words, sorted.

    The trainer would number `##` characters in the order of a randomly seeded
    hash map and break ties by these numbers. Passing them makes training
    deterministic.
    """
    alone = re.compile(ALONE_IN_PYTHON)
    counts: Counter[str] = Counter()
    pairs: set[tuple[str, str]] = set()
    for sentence in sentences:
        lower = sentence.translate(ASCII_LOWER)
        counts.update(lower)
        pairs.update(zip(lower, lower[1:], strict=False))
    for space in "\t\n\f\r ":
        del counts[space]
    kept = sorted(counts, key=lambda character: (-counts[character], character))[:MAX_CHARACTERS]
    inside = {b for a, b in pairs if not (_ends(a, alone) or _ends(b, alone))}
    return [*sorted(kept), *(f"##{c}" for c in sorted(inside.intersection(kept)))]


def _ends(character: str, alone: re.Pattern[str]) -> bool:
    category = unicodedata.category(character)
    return character in "\t\n\f\r " or category[0] == "P" or bool(alone.match(character))


def train_wordpiece(sentences: list[str], size: int) -> WordPieceVocabulary:
    """Trains a WordPiece vocabulary; see `train_vocabulary`.

    Raises:
        InputError: If the sentences have fewer than `size` pieces, or more
            than `size` characters.
    """
    given = [*SPECIAL, *_alphabet(sentences)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=given,
        # The alphabet is passed as special tokens; the default drops Korean and CJK.
        limit_alphabet=1,
        show_progress=False,
    )
    learner = _tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.train_from_iterator(sentences, trainer)
    found = learner.get_vocab()
    tokens = sorted(found, key=lambda token: found[token])
    if len(tokens) != size:
        side = "largest" if len(tokens) < size else "smallest"
        raise VocabularySizeError(
            f"`size` must be possible with these sentences. Received: size={size}, "
            f"{len(sentences)} sentences. The {side} possible size is {len(tokens)}.",
            len(tokens) if side == "largest" else None,
        )
    return WordPieceVocabulary(_files(tokens))


def _files(tokens: list[str]) -> dict[str, bytes]:
    return {
        "vocab.txt": ("\n".join(tokens) + "\n").encode("utf-8"),
        "tokenizer.json": _tokenizer_json(tokens),
    }


def _tokenizer_json(tokens: list[str]) -> bytes:
    """Returns the same vocabulary for Hugging Face `tokenizers`."""
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = _tokenizer(
        models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_BYTES)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    content = json.loads(tokenizer.to_str())
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
