"""Token ids from an exported `tokenizer/` folder, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kdkeras.errors import InputError

__all__ = ["load_tokenizer"]

Tokenize = Callable[[Sequence[str]], list[list[int]]]


def load_tokenizer(folder: Path, kind: str, sequence_length: int) -> Tokenize:
    """Returns the function that maps strings to ids.

    The same ids as `Vocabulary.encode`, cut off at `sequence_length` in the
    same way; rows are not padded.

    Raises:
        InputError: If the vocabulary's kind is unknown.
    """
    if kind == "wordpiece":
        return _wordpiece(folder, sequence_length)
    if kind == "sentencepiece":
        return _sentencepiece(folder, sequence_length)
    raise InputError(
        "The vocabulary's kind must be 'wordpiece' or 'sentencepiece'. "
        f"Received: {kind!r}. Update kdkeras."
    )


def _wordpiece(folder: Path, sequence_length: int) -> Tokenize:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    # Keeps [CLS] and [SEP].
    tokenizer.enable_truncation(sequence_length)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def _sentencepiece(folder: Path, sequence_length: int) -> Tokenize:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    return lambda texts: [ids[:sequence_length] for ids in processor.encode(list(texts))]
