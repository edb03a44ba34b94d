"""Tokenizes with the files of an exported folder, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kdkeras.errors import InputError
from kdkeras.strings import well_formed

__all__ = ["load_tokenizer", "padded"]

Tokenize = Callable[[Sequence[str]], list[list[int]]]


def load_tokenizer(folder: Path, kind: str, sequence_length: int) -> Tokenize:
    """Returns a function from strings to token ids.

    The ids equal those of `Vocabulary.encode`, also for invalid Unicode and for
    text that is truncated to `sequence_length` tokens. Rows are not padded.

    Args:
        folder: The `tokenizer/` folder.
        kind: `"wordpiece"` or `"sentencepiece"`.
        sequence_length: Maximum number of tokens per text.

    Raises:
        InputError: If `kind` is unknown.
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
    # Truncation keeps [CLS] and [SEP].
    tokenizer.enable_truncation(sequence_length)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def _sentencepiece(folder: Path, sequence_length: int) -> Tokenize:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    return lambda texts: [ids[:sequence_length] for ids in processor.encode(texts)]


def padded(rows: Sequence[Sequence[int]], pad_id: int, length: int) -> dict[str, np.ndarray]:
    """Pads rows of token ids.

    Args:
        rows: Token ids per text.
        pad_id: Id of the padding token.
        length: Number of columns.

    Returns:
        `token_ids` and `padding_mask` (1 = real token), both int32
        `(len(rows), length)`.
    """
    token_ids = np.full((len(rows), length), pad_id, np.int32)
    for row, ids in enumerate(rows):
        token_ids[row, : len(ids)] = ids
    sizes = np.array([len(ids) for ids in rows])
    padding_mask = (np.arange(length) < sizes[:, None]).astype(np.int32)
    return {"token_ids": token_ids, "padding_mask": padding_mask}
