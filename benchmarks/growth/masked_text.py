"""Rows of tokens from real English sentences, with some tokens masked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MaskedRows", "mask", "packed", "read_english", "split", "token_rows"]

HELD_OUT = 0.02
"""Fraction of the sentences that is held out."""


@dataclass(frozen=True)
class MaskedRows:
    """Rows of a masked language model.

    Attributes:
        token_ids: `(N, L)` int32, with masked tokens.
        positions: `(N, K)` int32, positions of the tokens to predict.
        labels: `(N, K)` int32, the original tokens at these positions.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray

    def batches(self, batch_size: int) -> Any:
        """Returns batches of the rows in their order, for `fit` and `evaluate`."""
        import tensorflow as tf

        x = {
            "token_ids": self.token_ids,
            "padding_mask": np.ones_like(self.token_ids),
            "positions": self.positions,
        }
        rows = tf.data.Dataset.from_tensor_slices((x, self.labels))
        return rows.batch(batch_size, drop_remainder=True).prefetch(4)


def read_english(data: Path) -> list[str]:
    """Returns the English sides of the parallel sentences, without duplicates, in a fixed order."""
    from kdkeras.data.text_files import read_lines

    found = {
        line.split("\t", 1)[0]
        for file in sorted(data.glob("parallel/*/en-*.tsv.gz"))
        for _, line in read_lines(file)
        if line.strip()
    }
    sentences = sorted(found)
    np.random.default_rng(0).shuffle(sentences)
    return sentences


def split(sentences: list[str]) -> tuple[list[str], list[str]]:
    """Returns the training sentences and the held-out sentences; they are disjoint."""
    held_out = int(HELD_OUT * len(sentences))
    return sentences[held_out:], sentences[:held_out]


def token_rows(vocabulary: Any, sentences: list[str], boundary: int, length: int) -> np.ndarray:
    """Tokenizes sentences and packs them into rows, see `packed`."""
    import tensorflow as tf

    ragged = [
        vocabulary.tokenize(tf.constant(sentences[start : start + 10_000]))
        for start in range(0, len(sentences), 10_000)
    ]
    return packed([row for part in ragged for row in part.to_list()], boundary, length)


def packed(sentences: list[list[int]], boundary: int, length: int) -> np.ndarray:
    """Concatenates sentences, each followed by a boundary, into rows without padding.

    Returns:
        `(N, length)` int32; an incomplete last row is dropped.
    """
    stream = np.array([token for tokens in sentences for token in (*tokens, boundary)], np.int32)
    return stream[: len(stream) // length * length].reshape(-1, length)


def mask(rows: np.ndarray, predictions: int, mask_id: int, boundary: int, seed: int) -> MaskedRows:
    """Chooses tokens to predict, except boundaries, and masks them as in BERT.

    80 % of the chosen tokens are replaced by the mask, 10 % by a random token, and 10 % are
    unchanged.
    """
    random = np.random.default_rng(seed)
    order = random.random(rows.shape) + (rows == boundary)
    positions = np.sort(np.argsort(order, axis=1)[:, :predictions], axis=1).astype(np.int32)
    labels = np.take_along_axis(rows, positions, axis=1)
    chance = random.random(labels.shape)
    shown = np.where(chance < 0.8, mask_id, labels)
    shown = np.where(chance >= 0.9, random.integers(mask_id, size=labels.shape), shown)
    token_ids = rows.copy()
    np.put_along_axis(token_ids, positions, shown.astype(np.int32), axis=1)
    return MaskedRows(token_ids=token_ids, positions=positions, labels=labels.astype(np.int32))
