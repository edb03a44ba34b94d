"""A vocabulary as the `tokenizer.json` of Hugging Face `tokenizers`."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["fast_tokenizer", "write_tokenizer"]

_SPACE = "▁"
# Code points that are never characters mark places while a text is normalised;
# where a text has them, another such takes their place.
_TWO_SPACES, _APART, _OTHER = "\ufdd0", "\ufdd1", "\ufdd2"
# What Unicode's grapheme clusters are continued with.
_CONTINUATION = r"[\p{M}\x{200C}\x{200D}\x{1F3FB}-\x{1F3FF}]"
# Like a C string, a text ends at its first NUL.
_FROM_NUL = normalizers.Replace(Regex(r"(?m:\x{0}.*)\z"), "")


def fast_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Returns the tokenizer of a vocabulary, which neither cuts nor pads.

    Exact for WordPiece. For SentencePiece the ids are those of its own runtime
    but for ties: where two cuts of a word score the same ("00 0" and "0 00"),
    rounding decides, float32 there and float64 here.
    """
    if vocabulary.kind == "wordpiece":
        tokenizer = Tokenizer.from_str(vocabulary.files["tokenizer.json"].decode("utf-8"))
        tokenizer.normalizer = normalizers.Sequence([_FROM_NUL, tokenizer.normalizer])
        return tokenizer
    content = vocabulary.files["sentencepiece.model"]
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(content)
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=model.trainer_spec.unk_id))
    tokenizer.normalizer = _normalizer(content, model.normalizer_spec.precompiled_charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always")
    return tokenizer


def _normalizer(content: bytes, characters: bytes) -> normalizers.Normalizer:
    """SentencePiece's normaliser, around its own compiled map of characters.

    `tokenizers` looks a whole grapheme cluster up in the map and takes the
    shortest rule that begins it, so that "É" spelled with a combining accent
    loses it: texts are composed first, and what is left of marks set apart.
    And it joins the two spaces that SentencePiece leaves where one character
    becomes several signs ("…").
    """
    doubled = [
        normalizers.Replace(character, text.replace(_SPACE * 2, _TWO_SPACES).replace(_SPACE, " "))
        for character, text in _doubled(content).items()
    ]
    return normalizers.Sequence(
        [
            _FROM_NUL,
            normalizers.Replace(Regex(f"[{_TWO_SPACES}{_APART}]"), _OTHER),
            *doubled,
            normalizers.NFC(),
            normalizers.Replace(Regex(f"(?={_CONTINUATION})"), _APART),
            normalizers.Precompiled(characters),
            normalizers.Replace(_APART, ""),
            normalizers.Replace(Regex(" +"), " "),
            normalizers.Strip(),
            normalizers.Replace(Regex(f" ?{_TWO_SPACES} ?"), "  "),
        ]
    )


def _doubled(content: bytes) -> dict[str, str]:
    """Characters that become several words, with two spaces between them."""
    processor = SentencePieceProcessor(model_proto=content)
    codes = (*range(1, 0xD800), *range(0xE000, 0x110000))
    known = [chr(code) for code in codes if unicodedata.category(chr(code)) not in ("Cn", "Co")]
    # Between letters, so that no space is trimmed: "▁a" before it, "a" behind it.
    texts = processor.normalize([f"a{character}a" for character in known])
    found = zip(known, texts, strict=True)
    return {c: text[2:-1] for c, text in found if _SPACE * 2 in text and c != _SPACE}


def write_tokenizer(
    vocabulary: Vocabulary, tokenizer: Tokenizer, folder: Path, sequence_length: int
) -> None:
    """Writes the two files that transformers' `AutoTokenizer` reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": sequence_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": vocabulary.tokens[vocabulary.pad_id],
        "clean_up_tokenization_spaces": False,
        # A text may spell the padding's name, and means the letters.
        "split_special_tokens": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
