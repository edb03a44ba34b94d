"""Students that were fitted to the bundled sample or have random weights."""

from __future__ import annotations

import numpy as np
import pytest

from kdkeras.compression import token_counts
from kdkeras.students import StaticStudent, TransformerStudent, initialize_from_targets

LANGUAGES = ("de", "ja")
SEQUENCE_LENGTH = 40


@pytest.fixture(scope="session")
def fitted(vocabulary, sample_set):
    """A static student fitted to the sample by least squares."""
    student = StaticStudent(
        vocabulary.size, 384, 64, sequence_length=SEQUENCE_LENGTH, vocabulary=vocabulary
    )
    initialize_from_targets(student, sample_set, iterations=2)
    return student


@pytest.fixture(scope="session")
def transformer(wordpiece):
    student = TransformerStudent(
        *(wordpiece.size, 12),
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=24,
        sequence_length=SEQUENCE_LENGTH,
        vocabulary=wordpiece,
    )
    generator = np.random.default_rng(3)
    student.set_weights([w + generator.normal(0, 0.2, w.shape) for w in student.get_weights()])
    return student


@pytest.fixture(scope="session")
def counts(vocabulary, sample_set):
    return token_counts(vocabulary, sample_set.sentences(languages=LANGUAGES))


@pytest.fixture(scope="session")
def texts(held_out):
    """Real held-out sentences of four scripts."""
    return [text for language in ("de", "ja", "ar", "hi") for text in held_out[language][0][:30]]
