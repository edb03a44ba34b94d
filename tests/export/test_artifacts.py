"""All artifacts embed the same strings alike."""

import numpy as np
import pytest

EXACT = ["saved_model", "saved_model_text", "tflite_float32"]
# Minimum cosine to Keras of any sentence, with random weights.
ROUNDED = {
    "tflite_float16": 0.99999,
    "tflite_int8": 0.999,
    "tflite_int8_weight_only": 0.999,
    "tflite_int4": 0.98,
}


def _check(encoders, name, expected, texts):
    embeddings = np.concatenate([encoders[name]([text]) for text in texts])
    if name in EXACT:
        np.testing.assert_allclose(embeddings, expected, atol=2e-6)
        return
    cosines = (embeddings * expected).sum(1)
    cosines /= np.linalg.norm(embeddings, axis=1) * np.linalg.norm(expected, axis=1)
    assert cosines.min() > ROUNDED[name]


@pytest.mark.parametrize("name", [*EXACT, *ROUNDED])
def test_artifacts_equal_keras_in_every_script(exported, encoders, sentences_by_language, name):
    student, _ = exported
    texts = [texts[0] for texts in sentences_by_language.values()]
    _check(encoders, name, student.encode(texts), texts)


@pytest.mark.parametrize("name", [*EXACT, *ROUNDED])
def test_artifacts_truncate_long_text_at_the_same_token(exported, encoders, long_text, name):
    student, _ = exported
    shorter = long_text[: len(long_text) // 2]
    expected = student.encode([long_text, shorter])
    # Both texts exceed the limit and differ only after it.
    np.testing.assert_allclose(expected[0], expected[1], atol=1e-6)
    _check(encoders, name, expected, [long_text, shorter])


@pytest.mark.parametrize("name", [*EXACT, *ROUNDED])
def test_artifacts_embed_empty_text_as_keras_does(exported, encoders, name):
    student, _ = exported
    expected = student.encode(["", " "])
    np.testing.assert_allclose(expected[0], expected[1], atol=1e-7)
    assert np.linalg.norm(expected[0]) > 0.01
    _check(encoders, name, expected, ["", " "])


@pytest.mark.parametrize("name", ["saved_model", "saved_model_text"])
def test_embeddings_do_not_depend_on_the_batch(exported, encoders, held_out, name):
    texts = ["", *held_out["ja"][0][:3]]
    single = np.concatenate([encoders[name]([text]) for text in texts])
    np.testing.assert_allclose(encoders[name](texts), single, atol=1e-6)
