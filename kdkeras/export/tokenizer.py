"""Token ids from an exported `tokenizer/` folder, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kdkeras.errors import InputError
from kdkeras.strings import well_formed

__all__ = ["load_tokenizer", "padded"]

Tokenize = Callable[[Sequence[str]], list[list[int]]]


def load_tokenizer(folder: Path, kind: str, sequence_length: int) -> Tokenize:
    """Returns the function that maps strings to ids.

    The same ids as `Vocabulary.encode`, also of text that is not well formed,
    cut off at `sequence_length` in the same way; rows are not padded.

    Raises:
        InputError: If the vocabulary's kind is unknown.
    """
    kinds = {"wordpiece": _wordpiece, "sentencepiece": _sentencepiece}
    if kind not in kinds:
        raise InputError(
            "The vocabulary's kind must be 'wordpiece' or 'sentencepiece'. "
            f"Received: {kind!r}. Update kdkeras."
        )
    tokenize = kinds[kind](folder, sequence_length)
    return lambda texts: tokenize([well_formed(text) for text in texts])


def _wordpiece(folder: Path, sequence_length: int) -> Tokenize:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    # Keeps [CLS] and [SEP].
    tokenizer.enable_truncation(sequence_length)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def _sentencepiece(folder: Path, sequence_length: int) -> Tokenize:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    return lambda texts: [ids[:sequence_length] for ids in processor.encode(texts)]


def padded(rows: Sequence[Sequence[int]], pad_id: int, length: int) -> dict[str, np.ndarray]:
    """Returns `token_ids` and `padding_mask`, int32 `(len(rows), length)`."""
    token_ids = np.full((len(rows), length), pad_id, np.int32)
    for row, ids in enumerate(rows):
        token_ids[row, : len(ids)] = ids
    sizes = np.array([len(ids) for ids in rows])
    padding_mask = (np.arange(length) < sizes[:, None]).astype(np.int32)
    return {"token_ids": token_ids, "padding_mask": padding_mask}
