"""Converts a vocabulary to the `tokenizer.json` of Hugging Face `tokenizers`."""

from __future__ import annotations

import json
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["fast_tokenizer", "write_tokenizer"]

_SPACE = "▁"
# Noncharacter code points that mark positions during normalization. If the text
# contains them, they are replaced by another noncharacter.
_TWO_SPACES, _APART, _OTHER = "\ufdd0", "\ufdd1", "\ufdd2"
# Code points that continue a grapheme cluster.
_CONTINUATION = r"[\p{M}\x{200C}\x{200D}\x{1F3FB}-\x{1F3FF}]"
# A text ends at its first NUL, like a C string.
_FROM_NUL = normalizers.Replace(Regex(r"(?m:\x{0}.*)\z"), "")


def fast_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Returns the tokenizer of a vocabulary, without truncation and padding.

    WordPiece ids are exact. SentencePiece ids equal those of the SentencePiece
    library except for ties: if two segmentations of a word have the same score
    ("00 0" and "0 00"), rounding decides, in float32 there and in float64 here.
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
    """Returns SentencePiece's normalizer, which uses its compiled character map.

    `tokenizers` looks up a whole grapheme cluster in the map and applies the
    shortest rule for its beginning, so that "É" with a combining accent would
    lose the accent. Texts are therefore composed first, and remaining marks are
    separated from their letters. `tokenizers` also merges the two spaces that
    SentencePiece leaves where one character becomes several ("…"); they are
    protected by a mark.
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


@lru_cache(maxsize=1)
def _doubled(content: bytes) -> dict[str, str]:
    """Returns characters that become several words with two spaces between them."""
    processor = SentencePieceProcessor(model_proto=content)
    codes = (*range(1, 0xD800), *range(0xE000, 0x110000))
    known = [chr(code) for code in codes if unicodedata.category(chr(code)) not in ("Cn", "Co")]
    # Between letters, so that no space is trimmed. The results start with "▁a" and end with "a".
    texts = processor.normalize([f"a{character}a" for character in known])
    found = zip(known, texts, strict=True)
    return {c: text[2:-1] for c, text in found if _SPACE * 2 in text and c != _SPACE}


def write_tokenizer(
    vocabulary: Vocabulary, tokenizer: Tokenizer, folder: Path, sequence_length: int
) -> None:
    """Writes the two files that `AutoTokenizer` of transformers reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": sequence_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": vocabulary.tokens[vocabulary.pad_id],
        "clean_up_tokenization_spaces": False,
        # If a text contains the name of the padding token, it is tokenized as text.
        "split_special_tokens": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
