"""Embeddings, tokens and features of a loaded teacher."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from safetensors.numpy import load_file

from kdkeras import InputError, teachers


@pytest.fixture(scope="module")
def sentences(tiny_reference):
    return tiny_reference["sentences"]


def test_vectors_do_not_depend_on_order_or_batches(tiny_teacher, sentences):
    expected = tiny_teacher.encode(sentences)
    order = np.random.default_rng(0).permutation(len(sentences))
    shuffled = tiny_teacher.encode([sentences[i] for i in order], batch_size=3)
    np.testing.assert_allclose(shuffled, expected[order], atol=1e-6)


def test_windows_keep_the_order(tiny_teacher, sentences, monkeypatch):
    expected = tiny_teacher.encode(sentences)
    monkeypatch.setattr("kdkeras.teachers.teacher._WINDOW", 4)
    np.testing.assert_allclose(tiny_teacher.encode(sentences), expected, atol=1e-6)


def test_encode_traces_its_graph_once(tiny_teacher, sentences):
    for batch_size in (1, 4, 7):
        tiny_teacher.encode(sentences, batch_size=batch_size)
    assert tiny_teacher._forward.experimental_get_tracing_count() == 1


def test_progress_counts_sentences(tiny_teacher, sentences):
    calls = []
    tiny_teacher.encode(sentences, 4, progress=lambda task, *counts: calls.append(counts))
    assert calls == [(0, 15), (4, 15), (8, 15), (12, 15), (15, 15)]


def test_encode_accepts_an_empty_list(tiny_teacher):
    assert tiny_teacher.encode([]).shape == (0, 32)


def test_tokenize_equals_the_reference_tokenizer(tiny_teacher, tiny_folder, sentences):
    reference = tokenizers.Tokenizer.from_file(str(tiny_folder / "mean" / "tokenizer.json"))
    reference.no_padding()
    reference.no_truncation()
    batch = tiny_teacher.tokenize(sentences)
    assert batch["token_ids"].shape == (15, 48)
    for text, ids, mask in zip(sentences, batch["token_ids"], batch["padding_mask"], strict=True):
        whole = reference.encode(text).ids
        # Truncated to 48 tokens, including the final [SEP].
        expected = whole if len(whole) <= 48 else [*whole[:47], whole[-1]]
        assert ids[: mask.sum()].tolist() == expected
        assert not ids[mask.sum() :].any()


def test_model_computes_the_same_in_a_graph(tiny_teacher, sentences):
    batch = {key: tf.constant(value) for key, value in tiny_teacher.tokenize(sentences).items()}
    found = tf.function(tiny_teacher.model)(batch).numpy()
    np.testing.assert_allclose(found, tiny_teacher.encode(sentences), atol=1e-6)


def test_padding_does_not_change_a_vector(tiny_teacher, sentences):
    batch = tiny_teacher.tokenize(sentences[:3])
    padded = {key: np.pad(value, ((0, 0), (0, 9))) for key, value in batch.items()}
    np.testing.assert_allclose(tiny_teacher.model(padded), tiny_teacher.model(batch), atol=1e-6)


def test_model_has_no_dropout_and_no_gradients(tiny_teacher, sentences):
    batch = {key: tf.constant(value) for key, value in tiny_teacher.tokenize(sentences).items()}
    assert not tiny_teacher.model.trainable_variables
    weights = [weight.value for weight in tiny_teacher.model.weights]
    with tf.GradientTape() as tape:
        tape.watch(weights)
        vectors = tiny_teacher.model(batch, training=True)
    np.testing.assert_allclose(vectors, tiny_teacher.encode(sentences), atol=1e-6)
    assert all(gradient is None for gradient in tape.gradient(vectors, weights))


def test_teacher_is_float32_under_another_policy(tiny_folder, sentences):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        vectors = teachers.load(tiny_folder / "mean").encode(sentences)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_token_embeddings_are_the_rows_of_the_ids(tiny_teacher):
    tokens, vectors = tiny_teacher.token_embeddings()
    assert vectors.shape == (600, 32)
    assert tokens[:2] == ["[PAD]", "[UNK]"]
    token_id = tiny_teacher.tokenize(["Tom"])["token_ids"][0, 1]
    assert tokens[token_id] == "tom"
    np.testing.assert_array_equal(
        vectors[token_id], tiny_teacher.model.backbone.token_embedding(token_id)
    )


@pytest.mark.parametrize(
    ("token", "surface"),
    [("tom", ("tom", True)), ("##ing", ("ing", False)), ("[CLS]", ("", False))],
)
def test_surface_is_text_and_word_start(tiny_teacher, token, surface):
    assert tiny_teacher.surface(token) == surface


def test_pieces_of_an_unknown_text_are_none(tiny_teacher):
    tokens, _ = tiny_teacher.token_embeddings()
    assert (
        "".join(tokens[i].removeprefix("##") for i in tiny_teacher.pieces("Hoffnung")) == "hoffnung"
    )
    assert tiny_teacher.pieces("おはよう") is None


@pytest.mark.parametrize("texts", ["There's still hope.", [1, 2], ["Hi.", None]])
def test_encode_refuses_anything_but_lists_of_strings(tiny_teacher, texts):
    with pytest.raises(InputError, match="must be a list of strings"):
        tiny_teacher.encode(texts)


def test_encode_refuses_an_empty_batch(tiny_teacher, sentences):
    with pytest.raises(InputError, match="batch_size=0"):
        tiny_teacher.encode(sentences, batch_size=0)


def test_model_refuses_to_be_saved(tiny_teacher, tmp_path):
    # Its config lacks the activation, so a copy would compute other embeddings.
    with pytest.raises(InputError, match="cannot be saved.*teachers.load"):
        tiny_teacher.model.save(tmp_path / "teacher.keras")


# ---- features -----------------------------------------------------------


def test_hidden_states_equal_the_outputs_of_the_backbones_layers(tiny_teacher, sentences):
    batch = tiny_teacher.tokenize(sentences)
    backbone = tiny_teacher.model.backbone
    layers = [backbone.embeddings_layer_norm, *backbone.transformer_layers]
    # The functional graph of the backbone with other outputs.
    opened = keras.Model(backbone.input, [layer.output for layer in layers])
    expected = opened({**batch, "segment_ids": np.zeros_like(batch["token_ids"])})
    found = tiny_teacher.model(batch, outputs=("hidden_states", "embedding"))
    for ours, theirs in zip(found["hidden_states"], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(found["embedding"], tiny_teacher.encode(sentences), atol=1e-6)


def test_attention_follows_from_the_stored_weights(tiny_teacher, tiny_folder, sentences):
    stored = load_file(tiny_folder / "mean" / "model.safetensors")
    batch = tiny_teacher.tokenize(sentences)
    found = tiny_teacher.model(batch, outputs=("attention", "hidden_states"))
    assert len(found["attention"]) == 2
    for number, parts in enumerate(found["attention"]):
        before = np.asarray(found["hidden_states"][number])
        for name, values in parts.items():
            key = f"encoder.layer.{number}.attention.self.{name}"
            weight, bias = (stored[f"{key}.{part}"] for part in ("weight", "bias"))
            np.testing.assert_allclose(values, before @ weight.T + bias, atol=1e-4)


def test_features_have_no_dropout_and_no_gradients(tiny_teacher, sentences):
    batch = {key: tf.constant(value) for key, value in tiny_teacher.tokenize(sentences).items()}
    names = tuple(tiny_teacher.model.output_specs())
    weights = [weight.value for weight in tiny_teacher.model.weights]
    with tf.GradientTape() as tape:
        tape.watch(weights)
        found = tiny_teacher.model(batch, training=True, outputs=names)
    again = tiny_teacher.model(batch, training=False, outputs=names)
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(again), strict=True):
        np.testing.assert_array_equal(one, other)
    slopes = tape.gradient(keras.tree.flatten(found), weights)
    assert all(slope is None for slope in slopes)


def test_features_have_the_shapes_of_output_specs(tiny_teacher, sentences):
    offered = tiny_teacher.model.output_specs()
    found = tiny_teacher.model(tiny_teacher.tokenize(sentences), outputs=tuple(offered))

    def assert_fits(spec, tensor):
        assert all(a in (None, b) for a, b in zip(spec.shape, tensor.shape, strict=True))

    keras.tree.map_structure(assert_fits, dict(offered), dict(found))


def test_unavailable_outputs_are_refused(tiny_teacher, sentences):
    with pytest.raises(InputError, match="'logits' requested from SentenceEncoder 'teacher'"):
        tiny_teacher.model(tiny_teacher.tokenize(sentences), outputs=("logits",))
