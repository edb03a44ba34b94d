"""Default settings of training, in a module without TensorFlow."""

from __future__ import annotations

__all__ = [
    "BATCH_SIZE",
    "DIMS",
    "LANGUAGE_TEMPERATURE",
    "LEARNING_RATE",
    "LOSS_WEIGHTS",
    "VOCABULARY_TEMPERATURE",
]

BATCH_SIZE = 256
"""Number of pairs per step."""
LEARNING_RATE = 4e-3
"""Peak learning rate of Adam for a static student."""
DIMS = (256, 128, 64, 32)
"""Widths of the shorter embeddings that are trained besides the full one (Matryoshka)."""
LANGUAGE_TEMPERATURE = 0.5
"""Languages are sampled in proportion to their number of pairs to this power."""
VOCABULARY_TEMPERATURE = 0.7
"""Languages are sampled for vocabularies in proportion to their sentences to this power."""
LOSS_WEIGHTS = {"embedding": 2.0, "similarity": 1.0, "ranking": 0.5}
"""Weight of each loss, chosen by `benchmarks/static_student.py`."""
