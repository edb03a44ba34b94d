import subprocess
import sys

import pytest
import tensorflow as tf


@pytest.mark.parametrize("name", ["saved_model", "saved_model_text"])
def test_every_variable_is_stored_once(exported, name):
    student, folder = exported
    needed = sum(variable.numpy().nbytes for variable in student.variables)
    data = folder / name / "variables" / "variables.data-00000-of-00001"
    assert needed <= data.stat().st_size <= 1.05 * needed


def test_tokenize_signature_gives_the_vocabularys_ids(exported, held_out, long_text):
    student, folder = exported
    texts = [*held_out["ru"][0][:20], *held_out["ko"][0][:20], "", long_text]
    model = tf.saved_model.load(str(folder / "saved_model_text"))
    found = model.signatures["tokenize"](texts=tf.constant(texts))
    expected = student.vocabulary.encode(texts, student.sequence_length)
    assert sorted(found) == ["padding_mask", "token_ids"]
    for name, values in found.items():
        assert values.dtype == tf.int32
        assert values.numpy().tolist() == expected[name].tolist()


def test_ids_signature_takes_any_shape(exported):
    _, folder = exported
    model = tf.saved_model.load(str(folder / "saved_model"))
    _, inputs = model.signatures["serving_default"].structured_input_signature
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in inputs.items()} == {
        "token_ids": ([None, None], tf.int32),
        "padding_mask": ([None, None], tf.int32),
    }


def test_only_the_text_model_needs_tensorflow_text(folders):
    program = (
        "import sys, tensorflow as tf\n"
        "folder = sys.argv[1]\n"
        "tf.saved_model.load(folder + '/saved_model')\n"
        "try:\n"
        "    tf.saved_model.load(folder + '/saved_model_text')\n"
        "except Exception as error:\n"
        "    print('refused', 'tensorflow_text' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(folders / "StaticStudent")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["refused False"]
