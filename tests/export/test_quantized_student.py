"""Quantization-aware training computes what the exported file computes."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from kdkeras.export import LiteStudent
from kdkeras.export.saved_model import float32_student
from kdkeras.layers.fake_quantization import quantized_kernel, quantized_rows


@pytest.fixture
def rounding(exported):
    """The student, with fake quantization switched off after the test, and its folder."""
    student, folder = exported
    yield student, folder
    student.fake_quantization = None


def _cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_fake_quantized_student_equals_the_exported_file(rounding, sentences_by_language, scheme):
    student, folder = rounding
    texts = [text for texts in sentences_by_language.values() for text in texts[:4]] + [""]
    found = LiteStudent(folder, f"tflite_{scheme}").encode(texts)
    exact = _cosines(found, student.encode(texts))
    student.fake_quantization = scheme
    rounded = _cosines(found, student.encode(texts))
    assert rounded.min() > 0.9999
    # The difference is a tenth of that without fake quantization, or less.
    assert 1 - rounded.mean() < 0.1 * (1 - exact.mean())


def test_switching_fake_quantization_off_restores_the_embeddings(rounding, few_pairs):
    student, _ = rounding
    texts = few_pairs["ja"][0][:5]
    before = student.encode(texts)
    student.fake_quantization = "int4"
    assert np.abs(student.encode(texts) - before).max() > 1e-3
    student.fake_quantization = None
    np.testing.assert_array_equal(student.encode(texts), before)


def test_exports_use_the_float32_weights_of_a_fake_quantized_student(rounding, few_pairs):
    student, _ = rounding
    texts = few_pairs["ar"][0][:5]
    expected = student.encode(texts)
    assert float32_student(student) is student
    student.fake_quantization = "int4"
    exact = float32_student(student)
    assert exact.fake_quantization is None
    np.testing.assert_allclose(exact.encode(texts), expected, atol=2e-6)


def _weight(path, shape):
    """Dequantizes a tensor of a file, with scales per row or per block."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    tensor = next(t for t in graph.tensors if t.shape is not None and tuple(t.shape) == shape)
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    if tensor.type == schema.TensorType.INT4:
        low, high = (data << 4).view(np.int8) >> 4, data.view(np.int8) >> 4
        values = np.stack([low, high], 1).reshape(shape)
    else:
        values = data.view(np.int8).reshape(shape)
    if tensor.quantization.details is None:
        scales = np.asarray(tensor.quantization.scale)[:, None]
    else:
        scales = model.buffers[graph.tensors[tensor.quantization.details.scales].buffer].data
        scales = np.asarray(scales, np.uint8).view(np.float16).astype(np.float32)
        scales = np.repeat(scales.reshape(shape[0], -1), shape[1] * shape[0] // scales.size, 1)
    return values * scales


def test_int4_table_of_the_file_equals_the_fake_quantized_table(exported):
    student, folder = exported
    table = student.token_embedding.table.numpy()
    if student.token_weight is not None:
        table = table * np.exp(student.token_weight.table.numpy())
    written = _weight(folder / "model.int4.tflite", table.shape)
    np.testing.assert_allclose(written, quantized_rows(table, "int4"), atol=1e-7)
    assert np.abs(written - table).max() > 1e-3


def test_int8_kernel_of_the_file_equals_the_fake_quantized_kernel(exported):
    student, folder = exported
    kernel = student.projection.kernel.numpy()
    for file in ("model.int4.tflite", "model.int8.tflite"):
        written = _weight(folder / file, kernel.T.shape)
        # The converter may round halves in the other direction.
        np.testing.assert_allclose(written.T, quantized_kernel(kernel), atol=1e-6)
