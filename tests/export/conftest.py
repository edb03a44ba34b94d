"""Two small students that are exported once for all tests."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdkeras.data import train_vocabulary
from kdkeras.evaluation import EmbeddingSimilarityEvaluator
from kdkeras.export import LiteStudent, export_student
from kdkeras.export.formats import DEFAULT_FORMATS, ExportFormat
from kdkeras.students import StaticStudent, TransformerStudent

TFLITE = [item for item in ExportFormat if item.is_tflite]
FORMATS = tuple(dict.fromkeys([*DEFAULT_FORMATS, *TFLITE]))

# Not a multiple of a block size, and shorter than the longest sentence below.
SEQUENCE_LENGTH = 37


@pytest.fixture(scope="session")
def wordpiece(sentences):
    """A small WordPiece vocabulary with the characters of all 29 languages."""
    return train_vocabulary(sentences, 2500, "wordpiece")


@pytest.fixture(scope="session")
def unigram(sentences):
    """A small SentencePiece vocabulary with the characters of all 29 languages."""
    return train_vocabulary(sentences, 2500, "sentencepiece")


def _randomize(student):
    """Adds noise to all weights, so that a lost bias or token weight is noticed."""
    generator = np.random.default_rng(7)
    for variable in student.variables:
        noise = generator.normal(scale=0.05, size=variable.shape)
        variable.assign(variable + noise.astype("float32"))
    return student


@pytest.fixture(scope="session")
def static_student(unigram):
    keras.utils.set_random_seed(7)
    student = StaticStudent(
        unigram.size, 48, 64, sequence_length=SEQUENCE_LENGTH, vocabulary=unigram
    )
    return _randomize(student)


@pytest.fixture(scope="session")
def transformer_student(wordpiece):
    keras.utils.set_random_seed(7)
    student = TransformerStudent(
        wordpiece.size,
        32,
        num_layers=1,
        hidden_dim=64,
        num_heads=2,
        intermediate_dim=64,
        normalize=False,
        sequence_length=SEQUENCE_LENGTH,
        vocabulary=wordpiece,
    )
    return _randomize(student)


@pytest.fixture(scope="session")
def folders(static_student, transformer_student, tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    for student in (static_student, transformer_student):
        export_student(student, root / type(student).__name__, FORMATS, sequence_lengths=(16,))
    return root


@pytest.fixture(scope="session", params=["static", "transformer"])
def exported(request, folders, static_student, transformer_student):
    """A student and the folder of its export."""
    student = {"static": static_student, "transformer": transformer_student}[request.param]
    return student, folders / type(student).__name__


@pytest.fixture(scope="session")
def encoders(exported):
    """Every artifact of the folder as a function from strings to embeddings."""
    import tensorflow_text  # noqa: F401

    student, folder = exported
    ids = tf.saved_model.load(str(folder / "saved_model"))
    text = tf.saved_model.load(str(folder / "saved_model_text"))

    def saved_model(texts):
        batch = student.vocabulary.encode(texts, student.sequence_length)
        inputs = {name: tf.constant(values) for name, values in batch.items()}
        return ids.signatures["serving_default"](**inputs)["embedding"].numpy()

    def saved_model_text(texts):
        return text.signatures["serving_default"](texts=tf.constant(texts))["embedding"].numpy()

    return {
        "saved_model": saved_model,
        "saved_model_text": saved_model_text,
        **{str(item): LiteStudent(folder, item).encode for item in TFLITE},
    }


@pytest.fixture(scope="session")
def few_pairs(held_out):
    """Held-out pairs in four scripts."""
    return {
        language: (foreign[:40], english[:40])
        for language, (foreign, english) in held_out.items()
        if language in ("ar", "de", "ja", "hi")
    }


@pytest.fixture(scope="session")
def graded_pairs(held_out):
    """STS pairs: score 1 for a translation, 0 for another sentence."""
    foreign, english = (side[:60] for side in held_out["de"])
    others = [*english[1:], english[0]]
    scores = [1.0] * len(foreign) + [0.0] * len(foreign)
    return EmbeddingSimilarityEvaluator("de_en", [*foreign, *foreign], [*english, *others], scores)


@pytest.fixture(scope="session")
def long_text(held_out):
    """Text with many more tokens than the students read."""
    return " ".join(held_out["de"][0][:40])
