"""Small students that were trained for a few steps on the sample, and real sentences."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from growth_students import roughen, train

from kdkeras.students import StaticStudent, TransformerStudent

LENGTH = 24


@pytest.fixture(scope="session")
def lessons(sample_set, vocabulary):
    """Token ids and the teacher's real vectors."""
    pairs = [pair for pair, _ in zip(sample_set.records(), range(256), strict=False)]
    batch = vocabulary.encode([group.source for group, _ in pairs], LENGTH)
    return batch, np.stack([vector for _, vector in pairs])


@pytest.fixture(scope="session")
def trained(vocabulary, lessons):
    keras.utils.set_random_seed(0)
    student = TransformerStudent(
        vocabulary.size,
        lessons[1].shape[1],
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=24,
        sequence_length=LENGTH,
        vocabulary=vocabulary,
    )
    train(roughen(student), lessons, 12)
    return student


@pytest.fixture(scope="session")
def trained_static(vocabulary, lessons):
    keras.utils.set_random_seed(0)
    student = StaticStudent(
        vocabulary.size,
        lessons[1].shape[1],
        embedding_dim=16,
        sequence_length=LENGTH,
        vocabulary=vocabulary,
    )
    train(roughen(student), lessons, 12)
    return student


@pytest.fixture(scope="session")
def texts(held_out):
    """Real sentences of many lengths and scripts."""
    return [text for language in ("de", "ja", "ar", "hi") for text in held_out[language][0][:16]]


@pytest.fixture(scope="session")
def batch(vocabulary, texts):
    return vocabulary.encode(texts, LENGTH)
