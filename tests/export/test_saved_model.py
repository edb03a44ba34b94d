import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from kdkeras.export.saved_model import _well_formed
from kdkeras.strings import well_formed


@pytest.mark.parametrize("name", ["saved_model", "saved_model_text"])
def test_every_variable_is_stored_once(exported, name):
    student, folder = exported
    needed = sum(variable.numpy().nbytes for variable in student.variables)
    data = folder / name / "variables" / "variables.data-00000-of-00001"
    assert needed <= data.stat().st_size <= 1.05 * needed


def test_tokenize_signature_returns_the_ids_of_the_vocabulary(exported, held_out, long_text):
    student, folder = exported
    texts = [*held_out["ru"][0][:20], *held_out["ko"][0][:20], "", long_text]
    model = tf.saved_model.load(str(folder / "saved_model_text"))
    found = model.signatures["tokenize"](texts=tf.constant(texts))
    expected = student.vocabulary.encode(texts, student.sequence_length)
    assert sorted(found) == ["padding_mask", "token_ids"]
    for name, values in found.items():
        assert values.dtype == tf.int32
        assert values.numpy().tolist() == expected[name].tolist()


def test_invalid_utf8_is_replaced_as_in_python():
    parts = sorted({*"a\0é東👍\ufdd0 ".encode(), 0xC0, 0xED, 0xA0, 0xF4, 0x90, 0xF8, 0xFF})
    generator = np.random.default_rng(7)
    rows = generator.integers(len(parts), size=(2000, 6))
    given = [bytes(parts[column] for column in row) for row in rows]
    expected = [well_formed(text.decode("utf-8", "surrogateescape")) for text in given]
    found = _well_formed(tf.constant(given)).numpy()
    assert [text.decode() for text in found] == expected


def test_signature_for_ids_accepts_any_shape(exported):
    _, folder = exported
    model = tf.saved_model.load(str(folder / "saved_model"))
    _, inputs = model.signatures["serving_default"].structured_input_signature
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in inputs.items()} == {
        "token_ids": ([None, None], tf.int32),
        "padding_mask": ([None, None], tf.int32),
    }


# Without tensorflow_text, only the model for token ids can be loaded. The rest does what TensorFlow
# Serving does: it uses the session loader, and tensors by their names.
SERVE = """
import json, sys
import numpy as np
import tensorflow as tf
root, given = sys.argv[1], json.load(open(sys.argv[2]))
tf.saved_model.load(root + "/StaticStudent/saved_model")
try:
    tf.saved_model.load(root + "/StaticStudent/saved_model_text")
except Exception as error:
    print("refused", "tensorflow_text" in sys.modules)
import tensorflow_text
for name, artifact, *keys in (item.split(":") for item in sys.argv[3:]):
    inputs = given[name] if artifact == "saved_model" else {"texts": given[name]["texts"]}
    inputs = {part: inputs[part] for part in inputs if artifact != "saved_model" or part != "texts"}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], f"{root}/{name}/{artifact}")
        for key in keys:
            signature = meta.signature_def[key]
            feed = {signature.inputs[part].name: values for part, values in inputs.items()}
            fetch = {part: info.name for part, info in signature.outputs.items()}
            np.savez(f"{sys.argv[2]}.{name}.{artifact}.{key}.npz", **session.run(fetch, feed))
"""


def test_signatures_run_in_a_session_and_only_strings_need_tensorflow_text(
    folders, static_student, transformer_student, sentences_by_language, tmp_path
):
    texts = [text for texts in sentences_by_language.values() for text in texts[:4]] + [""]
    students = {type(s).__name__: s for s in (static_student, transformer_student)}
    batches = {n: s.vocabulary.encode(texts, s.sequence_length) for n, s in students.items()}
    file = tmp_path / "given.json"
    given = {
        name: {"texts": texts, **{part: values.tolist() for part, values in batch.items()}}
        for name, batch in batches.items()
    }
    file.write_text(json.dumps(given))
    signatures = ("saved_model:serving_default", "saved_model_text:serving_default")
    models = ("saved_model:serving_default", "saved_model_text:serving_default:tokenize")
    requested = [f"{name}:{model}" for name in students for model in models]
    command = [sys.executable, "-c", SERVE, str(folders), str(file), *requested]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["refused False"]
    for name, student in students.items():
        expected = student.encode(texts)
        for signature in signatures:
            found = np.load(f"{file}.{name}.{signature.replace(':', '.')}.npz")
            np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)
        tokens = np.load(f"{file}.{name}.saved_model_text.tokenize.npz")
        assert {part: tokens[part].tolist() for part in tokens} == {
            part: values.tolist() for part, values in batches[name].items()
        }
