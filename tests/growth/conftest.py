"""Small students, trained for a few steps on the sample or random, and real sentences."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from growth_students import roughen, train

from kdkeras.students import StaticStudent, TransformerStudent

LENGTH = 24


@pytest.fixture(scope="session")
def lessons(sample_set, vocabulary):
    """Token ids, and the real vectors of the sample's teacher."""
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
def exact():
    """A student that computes in float64, with random weights."""
    model = TransformerStudent(40, 5, 2, 8, 2, 12, dtype="float64", sequence_length=9)
    generator = np.random.default_rng(3)
    model.set_weights([w + generator.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="session")
def texts(held_out):
    """Real sentences of different lengths in four scripts."""
    return [text for language in ("de", "ja", "ar", "hi") for text in held_out[language][0][:16]]


@pytest.fixture(scope="session")
def batch(vocabulary, texts):
    return vocabulary.encode(texts, LENGTH)
