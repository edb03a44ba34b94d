"""SentencePiece vocabularies; normalization is part of the model file."""

from __future__ import annotations

import io
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import tensorflow as tf
import tensorflow_text as tf_text
from sentencepiece import sentencepiece_model_pb2

from kdkeras.data.vocabulary import Vocabulary, VocabularySizeError
from kdkeras.errors import InputError

__all__ = ["SentencePieceVocabulary", "normalization_rules", "train_sentencepiece"]

MODEL = "sentencepiece.model"
WORD_START = "▁"
SPACES = "\t\n\r\x0b\x0c"
NORMAL = 1
"""SentencePiece's type of pieces that are neither special nor bytes."""
# Zero-width space, direction marks, byte order mark, soft hyphen, word joiner, variation selectors.
INVISIBLE = "\u200b\u200e\u200f\ufeff\u00ad\u2060\ufe0e\ufe0f"


def _fold(character: str) -> str:
    """Returns the NFKC case folding, with spaces around punctuation and symbols."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", character).casefold())
    return "".join(f" {c} " if unicodedata.category(c)[0] in "PS" else c for c in folded)


def _replacement(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cc":
        return " " if character in SPACES else ""
    if category in ("Zs", "Zl", "Zp"):
        return " "
    return "" if character in INVISIBLE else _fold(character)


def _spellings(character: str) -> Iterator[str]:
    """Yields the canonically equivalent spellings: fully and partly decomposed."""
    parts = unicodedata.normalize("NFD", character)
    for length in range(1, len(parts) + 1):
        spelling = unicodedata.normalize("NFC", parts[:length]) + parts[length:]
        if len(spelling) > 1:
            yield spelling


@cache
def normalization_rules() -> dict[str, str]:
    """Returns the character replacements that vocabularies are trained with.

    The trainer compiles them into the model file, so TensorFlow,
    `sentencepiece` and MediaPipe apply them identically. Text is NFKC
    case-folded, and punctuation and symbols are put between spaces, so that
    "l'homme" and "homme" share the piece "homme".
    """
    rules: dict[str, str] = {}
    for code in (*range(1, 0xD800), *range(0xE000, 0x110000)):
        character = chr(code)
        if unicodedata.category(character) in ("Cn", "Co"):
            continue
        replacement = _replacement(character)
        rules[character] = replacement
        for spelling in _spellings(character):
            rules.setdefault(spelling, replacement)
    # The trainer rejects rules without an effect.
    return {key: value for key, value in sorted(rules.items()) if key != value}


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece vocabulary; no tokens are added to a text.

    Any SentencePiece model with padding id 0 can be used. Models of
    `train_vocabulary` contain `normalization_rules`. A text of white space
    and invisible characters has no tokens.

    Args:
        files: `sentencepiece.model`, the serialized model.

    Raises:
        InputError: If the file is not a SentencePiece model, or its padding
            id is not 0.
    """

    kind = "sentencepiece"
    policy = (
        "NFKC case folding, punctuation and symbols split off, all inside sentencepiece.model; "
        "no added tokens"
    )
    required_files = (MODEL,)

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(files)
        try:
            pieces = sentencepiece.SentencePieceProcessor(model_proto=files[MODEL])
        except RuntimeError as error:
            raise InputError(
                f"`{MODEL}` must be a SentencePiece model. Received: {len(files[MODEL])} bytes "
                f"({error}). Copy the file again, or use train_vocabulary()."
            ) from error
        if pieces.pad_id() != 0:
            raise InputError(
                "The padding id of a SentencePiece model must be 0. "
                f"Received: pad_id={pieces.pad_id()}. Train it with pad_id=0, unk_id=1."
            )
        self.tokens = pieces.id_to_piece(list(range(pieces.get_piece_size())))
        self.unknown_id = pieces.unk_id()
        self._without_surface = {
            self.tokens[i]
            for i in range(len(self.tokens))
            if pieces.is_control(i) or pieces.is_unknown(i)
        }
        self._tokenize_eagerly = tf.function(
            self._tokenize, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
        )

    def tokenize(self, texts: tf.Tensor, sequence_length: int | None = None) -> tf.RaggedTensor:
        """See `Vocabulary.tokenize`."""
        tokenize = self._tokenize_eagerly if tf.executing_eagerly() else self._tokenize
        ids = tokenize(texts)
        return ids if sequence_length is None else ids[:, :sequence_length]

    def _tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        # Created in the graph that uses it: a SentencePiece resource belongs to the kernel that
        # created it, and `keras.utils.set_random_seed` destroys all eager kernels.
        tokenizer = tf_text.SentencepieceTokenizer(self.files[MODEL], out_type=tf.int32)
        return tokenizer.tokenize(texts)

    @property
    def essential_ids(self) -> list[int]:
        """See `Vocabulary.essential_ids`.

        SentencePiece derives the cost of an unknown character from the lowest
        score and that of a user-defined piece from the highest, so the pieces
        with these scores are essential.
        """
        pieces = list(_read_model(self.files[MODEL]).pieces)
        normal = [i for i, piece in enumerate(pieces) if piece.type == NORMAL]
        by_score = sorted(normal, key=lambda i: pieces[i].score)
        others = [i for i, piece in enumerate(pieces) if piece.type != NORMAL]
        return sorted({*others, *by_score[:1], *by_score[-1:]})

    def _subset(self, ids: list[int]) -> SentencePieceVocabulary:
        model = _read_model(self.files[MODEL])
        if model.trainer_spec.model_type == model.trainer_spec.BPE:
            raise InputError(
                "A subset requires a unigram model. Received: a BPE model, whose merges depend on "
                "earlier merges. Train a vocabulary with train_vocabulary()."
            )
        kept = [model.pieces[i] for i in ids]
        # Without `self_test_data`, which is not in this schema: the subset may tokenize its
        # examples differently, and a model that fails its self-test does not load.
        made = type(model)(
            pieces=kept,
            trainer_spec=model.trainer_spec,
            normalizer_spec=model.normalizer_spec,
            denormalizer_spec=model.denormalizer_spec,
        )
        made.trainer_spec.vocab_size = len(kept)
        return SentencePieceVocabulary({MODEL: made.SerializeToString(deterministic=True)})

    def surface(self, token: str) -> tuple[str, bool]:
        """See `Vocabulary.surface`."""
        if token in self._without_surface:
            return "", False
        starts = token.startswith(WORD_START)
        return token[starts:].replace(WORD_START, " "), starts


def _read_model(data: bytes) -> Any:
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(data)
    return model


def _write_rules(path: Path) -> None:
    def codes(text: str) -> str:
        return " ".join(f"{ord(character):X}" for character in text)

    lines = (f"{codes(key)}\t{codes(value)}\n" for key, value in normalization_rules().items())
    path.write_text("".join(lines))


def _explain(error: Exception, size: int, sentences: int) -> InputError:
    """Converts the trainer's message, which contains the possible size, to one line."""
    largest = re.search(r"value <= (\d+)", str(error))
    smallest = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
    if largest:
        advice = f"The largest possible size is {largest[1]}"
    elif smallest:
        advice = f"The smallest possible size is {int(smallest[1]) + 1}"
    else:
        advice = f"Message of the trainer: {' '.join(str(error).split())}"
    return VocabularySizeError(
        f"`size` must be possible with these sentences. Received: size={size}, "
        f"{sentences} sentences. {advice}.",
        int(largest[1]) if largest else None,
    )


def train_sentencepiece(sentences: list[str], size: int) -> SentencePieceVocabulary:
    """Trains a unigram vocabulary; see `train_vocabulary`.

    Raises:
        InputError: If the sentences have fewer than `size` pieces, or more
            than `size` characters.
    """
    written = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        _write_rules(rules)
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=written,
                vocab_size=size,
                model_type="unigram",
                character_coverage=0.99995,
                normalization_rule_tsv=str(rules),
                pad_id=0,
                unk_id=1,
                bos_id=-1,
                eos_id=-1,
                # Fixed, because floating-point sums depend on the number of threads.
                num_threads=4,
                input_sentence_size=0,
                shuffle_input_sentence=False,
                max_sentence_length=10_000,
                max_sentencepiece_length=16,
                minloglevel=3,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise _explain(error, size, len(sentences)) from error
    return SentencePieceVocabulary({MODEL: _without_paths(written.getvalue())})


def _without_paths(data: bytes) -> bytes:
    """Removes the names of temporary files, so that equal input gives equal bytes."""
    model = _read_model(data)
    model.trainer_spec.ClearField("input")
    model.normalizer_spec.ClearField("normalization_rule_tsv")
    return model.SerializeToString(deterministic=True)
