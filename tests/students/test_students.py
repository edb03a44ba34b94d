"""What every student does with tokens, with strings, and on disk."""

from __future__ import annotations

import keras
import numpy as np
import oracles
import pytest
from contracts import assert_config_round_trip, assert_one_line
from small_students import make_student

import kdkeras
from kdkeras.errors import InputError
from kdkeras.students import StaticStudent, TransformerStudent

IDS = np.array([[3, 9, 4, 7], [5, 5, 2, 0]], "int32")
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], "int32")


def call(student, ids, mask):
    return student({"token_ids": ids, "padding_mask": mask}).numpy()


# ---- tokens -------------------------------------------------------------


def test_static_student_equals_formula():
    student = make_student(StaticStudent)
    expected = oracles.static_student(student.get_weights(), IDS, MASK)
    np.testing.assert_allclose(call(student, IDS, MASK), expected, atol=1e-6)


def test_padding_does_not_change_embedding(student):
    padded = np.pad(IDS, ((0, 0), (0, 3)), constant_values=11)
    mask = np.pad(MASK, ((0, 0), (0, 3)))
    np.testing.assert_allclose(call(student, padded, mask), call(student, IDS, MASK), atol=1e-6)


def test_neighbours_in_the_batch_do_not_change_embedding(student):
    alone = [call(student, IDS[i : i + 1], MASK[i : i + 1])[0] for i in range(2)]
    np.testing.assert_allclose(alone, call(student, IDS, MASK), atol=1e-6)


@pytest.mark.parametrize(
    ("student_class", "sees_order"), [(StaticStudent, False), (TransformerStudent, True)]
)
def test_only_attention_sees_token_order(student_class, sees_order):
    student = make_student(student_class)
    change = call(student, IDS[:1, ::-1], MASK[:1]) - call(student, IDS[:1], MASK[:1])
    assert (np.abs(change).max() > 1e-3) is np.bool_(sees_order)


def test_sentence_without_tokens_has_one_fixed_embedding(student):
    nothing = np.zeros_like(MASK)
    embedding = call(student, IDS, nothing)
    np.testing.assert_allclose(embedding[0], embedding[1], atol=1e-6)
    bias = student.projection.bias.numpy()
    np.testing.assert_allclose(embedding[0], bias / np.linalg.norm(bias), atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_normalize_decides_length(student_class, normalize):
    embedding = call(make_student(student_class, normalize=normalize), IDS, MASK)
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5) is normalize


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_float32_near_the_full_precision(student_class, dtype):
    half, full = make_student(student_class, dtype=dtype), make_student(student_class)
    half.set_weights(full.get_weights())
    embedding = half({"token_ids": IDS, "padding_mask": MASK})
    assert embedding.dtype == "float32"
    assert {w.dtype for w in half.trainable_weights} == {"float32"}
    np.testing.assert_allclose(embedding, call(full, IDS, MASK), atol=0.03)


def test_transformer_without_projection_is_the_mean_of_its_tokens():
    student = make_student(TransformerStudent, output_dim=8, project=False)
    hidden = student.hidden_states({"token_ids": IDS, "padding_mask": MASK}).numpy()
    mean = (hidden * MASK[..., None]).sum(1) / MASK.sum(1, keepdims=True)
    np.testing.assert_allclose(call(student, IDS, MASK), oracles.unit(mean), atol=1e-5)


# ---- strings ------------------------------------------------------------


def test_encode_keeps_order_and_equals_a_direct_call(reading_student, texts, vocabulary):
    direct = [reading_student(vocabulary.encode([text], 20)).numpy()[0] for text in texts]
    vectors = reading_student.encode(texts, batch_size=7)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, direct, atol=1e-5)


def test_encode_sees_later_training(reading_student, texts):
    before = reading_student.encode(texts)
    reading_student.projection.bias.assign_add([1.0, 0.0, 0.0, 0.0])
    assert np.abs(reading_student.encode(texts) - before).max() > 0.01


def test_encode_cuts_at_the_sequence_length(reading_student, texts, vocabulary):
    long = " ".join(texts)
    expected = reading_student(vocabulary.encode([long], 20)).numpy()
    np.testing.assert_allclose(reading_student.encode([long]), expected, atol=1e-5)
    shorter = reading_student(vocabulary.encode([long], 5)).numpy()
    np.testing.assert_allclose(
        reading_student.encode([long], sequence_length=5), shorter, atol=1e-5
    )


def test_encode_nothing_and_empty_strings(reading_student):
    assert reading_student.encode([]).shape == (0, 4)
    vectors = reading_student.encode(["", "  "])
    assert np.isfinite(vectors).all()


def test_encode_longer_than_the_student_reads(vocabulary, texts):
    student = make_student(
        TransformerStudent, vocabulary.size, vocabulary=vocabulary, sequence_length=20
    )
    with pytest.raises(InputError) as error:
        student.encode(texts, sequence_length=40)
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
def test_encode_refuses_a_width_it_has_not(reading_student, texts, dim):
    with pytest.raises(InputError) as error:
        reading_student.encode(texts, dim=dim)
    assert_one_line(str(error.value), "`dim` must be between 1 and 4", f"dim={dim}")


def test_encode_one_string_is_refused(reading_student):
    with pytest.raises(InputError) as error:
        reading_student.encode("Tom")
    assert_one_line(str(error.value), "list of strings", "'Tom'", "[text]")


def test_encode_without_vocabulary_is_refused(student):
    with pytest.raises(InputError) as error:
        student.encode(["Tom"])
    assert_one_line(str(error.value), "vocabulary", "without one")


# ---- arguments ----------------------------------------------------------


def test_another_vocabulary_is_refused(student_class, vocabulary):
    with pytest.raises(InputError) as error:
        make_student(student_class, vocabulary.size + 1, vocabulary=vocabulary)
    assert_one_line(str(error.value), f"{vocabulary.size} tokens", f"{vocabulary.size + 1} rows")


@pytest.mark.parametrize("argument", ["vocabulary_size", "output_dim", "sequence_length"])
def test_sizes_below_one_are_refused(student_class, argument):
    with pytest.raises(InputError) as error:
        make_student(student_class, **{argument: 0})
    assert_one_line(str(error.value), f"`{argument}` must be at least 1", f"{argument}=0", "Use ")


def test_width_without_projection_must_be_the_teachers():
    with pytest.raises(InputError) as error:
        make_student(TransformerStudent, project=False)
    assert_one_line(str(error.value), "hidden_dim=8", "output_dim=5", "project=True")


# ---- saving -------------------------------------------------------------

COMMON = {"vocabulary_size": 9, "output_dim": 6, "normalize": False, "sequence_length": 17}


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (StaticStudent, {"embedding_dim": 3}),
        (
            TransformerStudent,
            {
                "num_layers": 2,
                "hidden_dim": 6,
                "num_heads": 3,
                "intermediate_dim": 7,
                "dropout": 0.25,
                "project": False,
            },
        ),
    ],
    ids=["static", "transformer"],
)
def test_configuration_survives(make, arguments):
    copy = assert_config_round_trip(make, {**COMMON, **arguments})
    assert copy.vocabulary is None


def test_saved_student_reads_strings_as_before(reading_student, texts, tmp_path):
    before = reading_student.encode(texts)
    reading_student.save(tmp_path / "student.keras")
    copy = kdkeras.load(tmp_path / "student.keras")
    assert type(copy) is type(reading_student)
    assert copy.vocabulary.fingerprint == reading_student.vocabulary.fingerprint
    np.testing.assert_array_equal(copy.encode(texts), before)


def test_precision_survives_saving(student_class, tmp_path):
    student = make_student(student_class, dtype="mixed_bfloat16")
    student.save(tmp_path / "student.keras")
    copy = kdkeras.load(tmp_path / "student.keras")
    assert copy.dtype_policy.name == copy.projection.dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_array_equal(call(copy, IDS, MASK), call(student, IDS, MASK))


def test_weights_alone_survive(student_class, tmp_path):
    student = make_student(student_class)
    student.save_weights(tmp_path / "student.weights.h5")
    copy = student_class.from_config(student.get_config())
    copy.load_weights(tmp_path / "student.weights.h5")
    np.testing.assert_array_equal(call(copy, IDS, MASK), call(student, IDS, MASK))


def test_copies_do_not_share_weights(student):
    copy = keras.models.clone_model(student)
    before = call(student, IDS, MASK)
    copy.set_weights([np.zeros_like(weight) for weight in copy.get_weights()])
    np.testing.assert_array_equal(call(student, IDS, MASK), before)
