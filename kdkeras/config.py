"""Defaults of the recipe, readable without TensorFlow."""

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
"""Pairs a step."""
LEARNING_RATE = 4e-3
"""Highest rate of Adam for a static student."""
DIMS = (256, 128, 64, 32)
"""Narrower widths that count in the training, besides the whole one."""
LANGUAGE_TEMPERATURE = 0.5
"""Languages are drawn in proportion to pairs to this power."""
VOCABULARY_TEMPERATURE = 0.7
"""Languages count in a vocabulary's training in proportion to sentences to this power."""
LOSS_WEIGHTS = {"embedding": 2.0, "similarity": 1.0, "ranking": 0.5}
"""Weight of each loss; chosen by `benchmarks/static_student.py`."""
