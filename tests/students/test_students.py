"""Calling, encoding, cloning and saving students."""

from __future__ import annotations

import doctest
from collections import Counter

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from contracts import assert_config_round_trip, assert_one_line
from small_students import make_student

import kdkeras
from kdkeras.data.wordpiece import WordPieceVocabulary
from kdkeras.errors import InputError
from kdkeras.students import StaticStudent, TransformerStudent

IDS = np.array([[3, 9, 4, 7], [5, 5, 2, 0]], "int32")
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], "int32")
HALF = "mixed_bfloat16"


def call(student, ids, mask):
    return student({"token_ids": ids, "padding_mask": mask}).numpy()


# ---- tokens -------------------------------------------------------------


def test_static_student_equals_formula():
    student = make_student(StaticStudent)
    expected = oracles.static_student(student.get_weights(), IDS, MASK)
    np.testing.assert_allclose(call(student, IDS, MASK), expected, atol=1e-6)


def test_static_student_without_token_weights_averages_its_table():
    student = make_student(StaticStudent, token_weights=False)
    table, kernel, bias = student.get_weights()
    expected = oracles.static_student([table, np.zeros((len(table), 1)), kernel, bias], IDS, MASK)
    np.testing.assert_allclose(call(student, IDS, MASK), expected, atol=1e-6)


def test_transformer_with_a_factorized_table_equals_that_of_the_product():
    narrow, whole = make_student(TransformerStudent, table_rank=3), make_student(TransformerStudent)
    table, kernel, *others = narrow.get_weights()
    whole.set_weights([table @ kernel, *others])
    assert table.shape[1] == 3
    np.testing.assert_allclose(call(narrow, IDS, MASK), call(whole, IDS, MASK), atol=1e-5)


def test_padding_does_not_change_the_embedding(student):
    padded = np.pad(IDS, ((0, 0), (0, 3)), constant_values=11)
    mask = np.pad(MASK, ((0, 0), (0, 3)))
    np.testing.assert_allclose(call(student, padded, mask), call(student, IDS, MASK), atol=1e-6)


def test_other_rows_of_the_batch_do_not_change_the_embedding(student):
    alone = [call(student, IDS[i : i + 1], MASK[i : i + 1])[0] for i in range(2)]
    np.testing.assert_allclose(alone, call(student, IDS, MASK), atol=1e-6)


@pytest.mark.parametrize(
    ("student_class", "sees_order"), [(StaticStudent, False), (TransformerStudent, True)]
)
def test_only_the_transformer_depends_on_token_order(student_class, sees_order):
    student = make_student(student_class)
    change = call(student, IDS[:1, ::-1], MASK[:1]) - call(student, IDS[:1], MASK[:1])
    assert (np.abs(change).max() > 1e-3) is np.bool_(sees_order)


def test_embedding_of_a_row_without_tokens_is_the_bias(student):
    nothing = np.zeros_like(MASK)
    embedding = call(student, IDS, nothing)
    np.testing.assert_allclose(embedding[0], embedding[1], atol=1e-6)
    bias = student.projection.bias.numpy()
    np.testing.assert_allclose(embedding[0], bias / np.linalg.norm(bias), atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_normalize_scales_embeddings_to_length_one(student_class, normalize):
    embedding = call(make_student(student_class, normalize=normalize), IDS, MASK)
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5) is normalize


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_returns_float32_near_full_precision(student_class, dtype):
    half, full = make_student(student_class, dtype=dtype), make_student(student_class)
    half.set_weights(full.get_weights())
    embedding = half({"token_ids": IDS, "padding_mask": MASK})
    assert embedding.dtype == "float32"
    assert {w.dtype for w in half.trainable_weights} == {"float32"}
    np.testing.assert_allclose(embedding, call(full, IDS, MASK), atol=0.03)


def test_transformer_without_projection_is_the_mean_of_its_tokens():
    student = make_student(TransformerStudent, output_dim=8, project=False)
    hidden = student.hidden_states({"token_ids": IDS, "padding_mask": MASK})[-1].numpy()
    mean = (hidden * MASK[..., None]).sum(1) / MASK.sum(1, keepdims=True)
    np.testing.assert_allclose(call(student, IDS, MASK), oracles.unit(mean), atol=1e-5)


# ---- strings ------------------------------------------------------------


def test_encode_keeps_order_and_equals_a_direct_call(reading_student, texts, vocabulary):
    direct = [reading_student(vocabulary.encode([text], 20)).numpy()[0] for text in texts]
    vectors = reading_student.encode(texts, batch_size=7)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, direct, atol=1e-5)


def test_encode_uses_the_current_weights(reading_student, texts):
    student, before = reading_student.clone(), reading_student.encode(texts)
    np.testing.assert_array_equal(student.encode(texts), before)
    student.projection.bias.assign_add([1.0, 0.0, 0.0, 0.0])
    assert np.abs(student.encode(texts) - before).max() > 0.01


def test_encode_cuts_at_the_sequence_length(reading_student, texts, vocabulary):
    long = " ".join(texts)
    expected = reading_student(vocabulary.encode([long], 20)).numpy()
    np.testing.assert_allclose(reading_student.encode([long]), expected, atol=1e-5)
    shorter = reading_student(vocabulary.encode([long], 5)).numpy()
    np.testing.assert_allclose(
        reading_student.encode([long], sequence_length=5), shorter, atol=1e-5
    )


def test_encode_accepts_an_empty_list_and_empty_strings(reading_student):
    assert reading_student.encode([]).shape == (0, 4)
    vectors = reading_student.encode(["", "  "])
    assert np.isfinite(vectors).all()


def test_encode_refuses_a_length_above_the_students(reading_student, texts):
    with pytest.raises(InputError) as error:
        reading_student.encode(texts, sequence_length=40)
    assert_one_line(str(error.value), "`sequence_length`", "40", "20")


@pytest.mark.parametrize("argument", ["batch_size", "sequence_length"])
def test_encode_refuses_an_empty_batch_or_length(reading_student, texts, argument):
    with pytest.raises(InputError) as error:
        reading_student.encode(texts, **{argument: 0})
    assert_one_line(str(error.value), f"`{argument}`", f"{argument}=0")


@pytest.mark.parametrize("normalize", [True, False])
def test_encode_keeps_the_first_components(student_class, normalize, vocabulary, texts):
    arguments = {"vocabulary": vocabulary, "sequence_length": 20, "output_dim": 4}
    student = make_student(student_class, vocabulary.size, normalize=normalize, **arguments)
    first = student.encode(texts)[:, :3]
    expected = oracles.unit(first) if normalize else first
    np.testing.assert_allclose(student.encode(texts, dim=3), expected, atol=1e-6)
    np.testing.assert_allclose(student.encode(texts, dim=4), student.encode(texts), atol=1e-6)
    assert student.encode([], dim=2).shape == (0, 2)


@pytest.mark.parametrize("dim", [0, 5])
def test_encode_refuses_a_dim_out_of_range(reading_student, texts, dim):
    with pytest.raises(InputError) as error:
        reading_student.encode(texts, dim=dim)
    assert_one_line(str(error.value), "`dim` must be between 1 and 4", f"dim={dim}")


def test_encode_refuses_a_single_string(reading_student):
    with pytest.raises(InputError) as error:
        reading_student.encode("Tom")
    assert_one_line(str(error.value), "list of strings", "'Tom'", "[text]")


def test_encode_needs_a_vocabulary(student):
    with pytest.raises(InputError) as error:
        student.encode(["Tom"])
    assert_one_line(str(error.value), "vocabulary", "without one")


# ---- arguments ----------------------------------------------------------


def test_a_vocabulary_of_another_size_is_refused(student_class, vocabulary):
    with pytest.raises(InputError) as error:
        make_student(student_class, vocabulary.size + 1, vocabulary=vocabulary)
    assert_one_line(str(error.value), f"{vocabulary.size} tokens", f"{vocabulary.size + 1} rows")


@pytest.mark.parametrize("argument", ["vocabulary_size", "output_dim", "sequence_length"])
def test_sizes_below_one_are_refused(student_class, argument):
    with pytest.raises(InputError) as error:
        make_student(student_class, **{argument: 0})
    assert_one_line(str(error.value), f"`{argument}` must be at least 1", f"{argument}=0", "Use ")


@pytest.mark.parametrize("table_rank", [0, 8])
def test_a_table_rank_out_of_range_is_refused(table_rank):
    with pytest.raises(InputError) as error:
        make_student(TransformerStudent, table_rank=table_rank)
    assert_one_line(str(error.value), "from 1 to 7", f"table_rank={table_rank}")


def test_without_projection_hidden_dim_must_equal_output_dim():
    with pytest.raises(InputError) as error:
        make_student(TransformerStudent, project=False)
    assert_one_line(str(error.value), "hidden_dim=8", "output_dim=5", "project=True")


# ---- saving -------------------------------------------------------------

COMMON = {"vocabulary_size": 9, "output_dim": 6, "normalize": False, "sequence_length": 17}


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (StaticStudent, {"embedding_dim": 3, "token_weights": False}),
        (
            TransformerStudent,
            {
                "num_layers": 2,
                "hidden_dim": 6,
                "num_heads": 3,
                "intermediate_dim": 7,
                "dropout": 0.25,
                "project": False,
                "token_weights": True,
                "table_rank": 2,
                "kernel_ranks": {"qkv": 2, "feedforward": 3},
            },
        ),
    ],
    ids=["static", "transformer"],
)
def test_configuration_round_trips(make, arguments):
    copy = assert_config_round_trip(make, {**COMMON, **arguments})
    assert copy.vocabulary is None


def test_saved_student_has_its_vocabulary_and_embeddings(reading_student, texts, tmp_path):
    before = reading_student.encode(texts)
    reading_student.save(tmp_path / "student.keras")
    copy = kdkeras.load(tmp_path / "student.keras")
    assert type(copy) is type(reading_student)
    assert copy.vocabulary.fingerprint == reading_student.vocabulary.fingerprint
    np.testing.assert_array_equal(copy.encode(texts), before)


def test_dtype_policy_is_saved(student_class, tmp_path):
    student = make_student(student_class, dtype="mixed_bfloat16")
    student.save(tmp_path / "student.keras")
    copy = kdkeras.load(tmp_path / "student.keras")
    assert copy.dtype_policy.name == copy.projection.dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_array_equal(call(copy, IDS, MASK), call(student, IDS, MASK))


def test_weights_file_restores_the_embeddings(student_class, tmp_path):
    student = make_student(student_class)
    student.save_weights(tmp_path / "student.weights.h5")
    copy = student_class.from_config(student.get_config())
    copy.load_weights(tmp_path / "student.weights.h5")
    np.testing.assert_array_equal(call(copy, IDS, MASK), call(student, IDS, MASK))


def test_keras_clone_model_does_not_share_weights(student):
    copy = keras.models.clone_model(student)
    before = call(student, IDS, MASK)
    copy.set_weights([np.zeros_like(weight) for weight in copy.get_weights()])
    np.testing.assert_array_equal(call(student, IDS, MASK), before)


# ---- features -----------------------------------------------------------

NAMES = ("embedding", "hidden_states", "attention", "layer_embeddings")


def deep(**arguments):
    return make_student(TransformerStudent, num_layers=3, dropout=0.4, **arguments)


def test_features_are_the_outputs_of_the_blocks():
    student = deep()
    found = student({"token_ids": IDS, "padding_mask": MASK}, outputs=NAMES)
    states = found["hidden_states"]
    assert len(states) == 4 and len(found["attention"]) == 3
    for block, before, after, parts in zip(
        student.blocks, states[:-1], states[1:], found["attention"], strict=True
    ):
        np.testing.assert_array_equal(block(before, MASK), after)
        kernel, bias = block.qkv_dense.get_weights()
        together = np.concatenate([parts[name] for name in ("query", "key", "value")], axis=-1)
        np.testing.assert_allclose(together, before @ kernel + bias, atol=1e-5)
    np.testing.assert_array_equal(found["embedding"], call(student, IDS, MASK))
    np.testing.assert_array_equal(found["embedding"], found["layer_embeddings"][-1])


def test_features_have_dropout_in_training():
    student = deep()
    inputs = {"token_ids": IDS, "padding_mask": MASK}
    still, trained = (
        student(inputs, training=mode, outputs=NAMES[1:2])["hidden_states"]
        for mode in (False, True)
    )
    assert all(np.abs(a - b).max() > 0.01 for a, b in zip(still, trained, strict=True))


def test_a_call_without_outputs_traces_the_embedding_only():
    student = deep()

    def by_hand(inputs):
        hidden = student.token_embedding(inputs["token_ids"])
        hidden = student.embedding_norm(hidden + student.position_embedding(hidden))
        for block in student.blocks:
            hidden = block(hidden, inputs["padding_mask"])
        vector = student.projection(student.pooling(hidden, inputs["padding_mask"]))
        return student.unit_norm(vector)

    tokens = tf.TensorSpec((None, None), tf.int32)
    spec = {"token_ids": tokens, "padding_mask": tokens}
    graphs = [tf.function(f).get_concrete_function(spec) for f in (student, by_hand)]
    counts = [Counter(op.type for op in graph.graph.get_operations()) for graph in graphs]
    # Without training, dropout may leave an identity.
    assert {**counts[0], "Identity": 0} == {**counts[1], "Identity": 0}
    assert [graph.structured_outputs.shape for graph in graphs] == [(None, 5)] * 2


@pytest.mark.parametrize("arguments", [{}, {"project": False, "output_dim": 8}, {"dtype": HALF}])
def test_a_truncated_student_computes_the_embedding_of_its_last_layer(arguments):
    student = deep(**arguments)
    inputs = {"token_ids": IDS, "padding_mask": MASK}
    expected = student(inputs, outputs=NAMES[3:])["layer_embeddings"]
    for num_layers in (1, 2, 3):
        shallow = student.truncated(num_layers)
        assert shallow.num_layers == len(shallow.blocks) == num_layers
        np.testing.assert_array_equal(shallow(inputs), expected[num_layers])
        # Weights are not shared.
        shallow.set_weights([np.zeros_like(w) for w in shallow.get_weights()])
    np.testing.assert_array_equal(student(inputs), expected[3])


def test_a_truncated_student_can_be_saved_with_its_vocabulary(vocabulary, tmp_path):
    student = make_student(
        TransformerStudent, vocabulary.size, vocabulary=vocabulary, num_layers=2, sequence_length=20
    )
    shallow = student.truncated(1)
    shallow.save(tmp_path / "shallow.keras")
    copy = kdkeras.load(tmp_path / "shallow.keras")
    assert copy.vocabulary.fingerprint == vocabulary.fingerprint
    np.testing.assert_array_equal(call(copy, IDS, MASK), call(shallow, IDS, MASK))
    assert np.abs(call(shallow, IDS, MASK) - call(student, IDS, MASK)).max() > 0.01


@pytest.mark.parametrize("num_layers", [0, 4])
def test_truncated_refuses_a_number_out_of_range(num_layers):
    with pytest.raises(InputError) as error:
        deep().truncated(num_layers)
    assert_one_line(str(error.value), "from 1 to 3", f"num_layers={num_layers}", "Use 3")


# ---- clones -------------------------------------------------------------


def test_clone_has_own_copies_of_the_weights_and_the_same_vocabulary(reading_student, texts):
    clone = reading_student.clone(name="clone", dtype="mixed_bfloat16", normalize=False)
    assert (clone.name, clone.compute_dtype, clone.normalize) == ("clone", "bfloat16", False)
    assert clone.vocabulary is reading_student.vocabulary
    expected = reading_student.encode(texts)
    clone.set_weights([np.zeros_like(w) for w in clone.get_weights()])
    np.testing.assert_array_equal(reading_student.encode(texts), expected)


def test_clone_with_other_shapes_needs_copy_weights_false(student):
    with pytest.raises(InputError) as error:
        student.clone(output_dim=3, name="narrow", normalize=True)
    assert_one_line(str(error.value), "shapes", "output_dim=3 (5 before)", "copy_weights=False")
    assert "normalize" not in str(error.value)
    assert student.clone(output_dim=3, copy_weights=False).output_dim == 3


def test_clone_refuses_arguments_that_the_constructor_lacks(student):
    with pytest.raises(InputError) as error:
        student.clone(width=3)
    assert_one_line(str(error.value), type(student).__name__, "Received: width.", "output_dim")


def test_clone_with_another_vocabulary_takes_its_size_and_no_weights():
    def make(*words):
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
        return WordPieceVocabulary({"vocab.txt": "\n".join(tokens).encode()})

    student = make_student(StaticStudent, 6, vocabulary=make("a", "b"))
    for other in (make("b", "a"), make("a", "b", "c")):
        with pytest.raises(InputError, match=r"same tokens.*`vocabulary`.*copy_weights=False"):
            student.clone(vocabulary=other)
        clone = student.clone(vocabulary=other, copy_weights=False)
        assert (clone.vocabulary, clone.vocabulary_size) == (other, other.size)


def test_examples_in_docstrings_run():
    results = doctest.testmod(kdkeras.students.student)
    assert results.failed == 0 and results.attempted > 0


def test_summary_lists_the_layers(student, capsys):
    call(student, IDS, MASK)
    student.summary(line_length=120)
    output = capsys.readouterr().out
    assert "token_embedding" in output and "projection" in output


def test_unavailable_outputs_are_refused(student):
    with pytest.raises(InputError) as error:
        student({"token_ids": IDS, "padding_mask": MASK}, outputs=("embedding", "logits"))
    assert_one_line(str(error.value), "'logits'", "'embedding'", type(student).__name__)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_features_have_the_shapes_of_output_specs(student_class, dtype):
    student = make_student(student_class, dtype=dtype)
    offered = student.output_specs()
    inputs = {n: keras.Input((None,), dtype="int32", name=n) for n in ("token_ids", "padding_mask")}
    model = keras.Model(inputs, student(inputs, outputs=tuple(offered)))
    found = model({"token_ids": IDS, "padding_mask": MASK})

    def assert_fits(spec, tensor):
        assert spec.dtype == tensor.dtype
        assert all(a in (None, b) for a, b in zip(spec.shape, tensor.shape, strict=True))

    keras.tree.map_structure(assert_fits, dict(offered), found)
