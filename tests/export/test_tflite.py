import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from kdkeras.export import ExportFormat
from kdkeras.export.flatbuffer import share_quantization
from kdkeras.export.tflite import write_tflite
from tests.export.conftest import TFLITE

FILES = [item.path for item in TFLITE]
EXACT, SMALL = "model.float32.tflite", "model.int8.tflite"


def _read(path):
    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


def _operations(model):
    """Yields the name of each operation with the shapes of its inputs."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            shapes = [tuple(graph.tensors[i].shape) for i in operator.inputs if i >= 0]
            yield names[max(code.builtinCode, code.deprecatedBuiltinCode)], shapes


def _tables(model, student):
    """Returns the tensor of the token table in each signature."""
    rows = student.vocabulary_size
    return [
        tensor
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.shape is not None and len(tensor.shape) == 2
        if tensor.shape[0] == rows and tensor.shape[1] > 1
    ]


@pytest.mark.parametrize("file", FILES)
def test_only_builtin_operations_are_used(exported, file):
    _, folder = exported
    used = {name for name, _ in _operations(_read(folder / file))}
    assert not used & {"CUSTOM", "DELEGATE", "STABLEHLO_COMPOSITE"}
    assert not _read(folder / file).operatorCodes[0].customCode


# The int8 rows of a static student are gathered as int8, because EMBEDDING_LOOKUP
# is slower for int8 than for float32. A float16 table is dequantized as a whole.
READERS = {
    ("StaticStudent", SMALL): {"GATHER"},
    ("StaticStudent", "model.int8_weight_only.tflite"): {"GATHER"},
    ("StaticStudent", "model.float16.tflite"): {"DEQUANTIZE", "EMBEDDING_LOOKUP"},
    ("TransformerStudent", "model.float16.tflite"): {"DEQUANTIZE", "EMBEDDING_LOOKUP"},
}


@pytest.mark.parametrize("file", FILES)
def test_table_is_read_by_one_operation(exported, file):
    student, folder = exported
    model = _read(folder / file)
    table = tuple(_tables(model, student)[0].shape)
    readers = {name for name, shapes in _operations(model) if table in shapes}
    assert readers == READERS.get((type(student).__name__, file), {"EMBEDDING_LOOKUP"})


@pytest.mark.parametrize("file", FILES)
def test_token_weights_of_a_static_student_are_in_its_table(folders, static_student, file):
    operations = list(_operations(_read(folders / "StaticStudent" / file)))
    assert "EXP" not in {name for name, _ in operations}
    lookups = [shapes for name, shapes in operations if name == "EMBEDDING_LOOKUP"]
    assert all((static_student.vocabulary_size, 1) not in shapes for shapes in lookups)


@pytest.mark.parametrize("file", [SMALL, "model.int8_weight_only.tflite"])
def test_int8_table_has_one_scale_per_row(folders, transformer_student, file):
    student = transformer_student
    tables = _tables(_read(folders / "TransformerStudent" / file), student)
    assert len(tables) == 2  # One reference per signature.
    for table in tables:
        assert table.type == schema.TensorType.INT8
        assert len(table.quantization.scale) == student.vocabulary_size
        assert table.quantization.quantizedDimension == 0
        assert len(np.unique(table.quantization.scale)) > student.vocabulary_size / 2


@pytest.mark.parametrize("file", FILES)
def test_signatures_have_fixed_shapes_and_names(exported, file):
    student, folder = exported
    interpreter = Interpreter(str(folder / file))
    assert sorted(interpreter.get_signature_list()) == ["embed_16", "embed_37"]
    for length in (16, 37):
        runner = interpreter.get_signature_runner(f"embed_{length}")
        inputs = runner.get_input_details()
        assert {n: (d["shape"].tolist(), d["dtype"]) for n, d in inputs.items()} == {
            "token_ids": ([1, length], np.int32),
            "padding_mask": ([1, length], np.int32),
        }
        output = runner.get_output_details()["embedding"]
        assert output["shape"].tolist() == [1, student.output_dim]
        assert output["dtype"] == np.float32


# The two formats of ai-edge-quantizer are made in the same way.
@pytest.mark.parametrize(
    "item", [item for item in TFLITE if item != ExportFormat.TFLITE_INT8_WEIGHT_ONLY]
)
def test_signatures_share_the_weights(folders, transformer_student, tmp_path, item):
    write_tflite(transformer_student, tmp_path / "one", [37], item)
    one = (tmp_path / "one").stat().st_size
    two = (folders / "TransformerStudent" / item.path).stat().st_size
    # More signatures add operations and names, but no second table.
    table = transformer_student.token_embedding.table.shape
    assert 0 < two - one <= 30_000 < table[0] * table[1] / 2


def test_int8_file_is_at_most_40_percent_of_float32(exported):
    # 1 byte instead of 4 per value, and 12 bytes per row of 64 values for its scale.
    _, folder = exported
    exact, small = ((folder / file).stat().st_size for file in (EXACT, SMALL))
    assert small <= 0.4 * exact


def test_size_of_each_format_follows_from_its_bits(exported):
    """Bytes per value: 4, 2, 1 and 1/2; int4 has two more bytes per block of 32 values."""
    student, folder = exported
    rows, width = student.token_embedding.table.shape
    rest = 1.15 * 4 * (student.count_params() - rows * width) + 60_000
    for item, row in (
        ("float32", 4 * width),
        ("float16", 2 * width),
        ("int8", width + 12),
        ("int8_weight_only", width + 12),
        ("int4", width // 2 + 2 * (width // 32)),
    ):
        size = (folder / f"model.{item}.tflite").stat().st_size
        assert rows * width * row / (width + 12) / 3 < size < rows * row + rest, item


def _without_sharing(path):
    """A file like the converter's, with the parameters once per signature."""
    import flatbuffers

    model = _read(path)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_sharing_parameters_keeps_results_bit_identical(folders):
    folder = folders / "TransformerStudent"
    unshared = _without_sharing(folder / "model.int8.tflite")
    shared = share_quantization(unshared)
    assert len(shared) < 0.95 * len(unshared)
    inputs = {
        "token_ids": np.arange(16, dtype=np.int32)[None] * 100,
        "padding_mask": (np.arange(16) < 11).astype(np.int32)[None],
    }
    vectors = [
        Interpreter(model_content=content).get_signature_runner("embed_16")(**inputs)["embedding"]
        for content in (unshared, shared)
    ]
    assert vectors[0].tobytes() == vectors[1].tobytes()


@pytest.mark.parametrize("file", [SMALL, "model.int4.tflite"])
def test_weights_are_aligned(exported, file):
    _, folder = exported
    model = schema.Model.GetRootAs((folder / file).read_bytes(), 0)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    places = [b._tab.Vector(b._tab.Offset(4)) for b in buffers if b.DataLength()]
    assert len(places) > 3
    assert [place % 16 for place in places] == [0] * len(places)
