"""TFLite files in LiteRT's CompiledModel, the successor of the Interpreter."""

import numpy as np
import pytest
from ai_edge_litert.compiled_model import CompiledModel

from kdkeras.export import LiteStudent
from kdkeras.export.tokenizer import padded
from tests.export.conftest import TFLITE


def _compiled(path, signature, inputs):
    """Runs one signature and returns its output."""
    model = CompiledModel.from_file(str(path))
    buffers = {name: model.create_input_buffer_by_name(signature, name) for name in inputs}
    for name, values in inputs.items():
        buffers[name].write(np.ascontiguousarray(values))
    output = model.create_output_buffer_by_name(signature, "embedding")
    model.run_by_name(signature, buffers, {"embedding": output})
    (width,) = model.get_output_tensor_details(signature)["embedding"]["shape"][1:]
    return output.read(int(width), np.float32)


@pytest.mark.parametrize("item", TFLITE)
def test_compiled_model_equals_the_interpreter(exported, sentences_by_language, item):
    student, folder = exported
    texts = [sentences_by_language[code][0] for code in ("de", "ru", "ja", "ar", "hi")] + [""]
    expected = LiteStudent(folder, item).encode(texts)
    for text, vector in zip(texts, expected, strict=True):
        row = student.vocabulary.encode([text], student.sequence_length)
        ids = row["token_ids"][0, : row["padding_mask"].sum()].tolist()
        length = 16 if len(ids) <= 16 else 37
        found = _compiled(folder / item.path, f"embed_{length}", padded([ids], 0, length))
        np.testing.assert_allclose(found, vector, atol=2e-6)
