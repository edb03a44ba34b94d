import hashlib
import json
import resource
import sys

import numpy as np
import pytest

from kdkeras.errors import InputError, MissingExtraError
from kdkeras.export import ExportFormat, LiteStudent, export_student
from kdkeras.students import StaticStudent


def test_folder_contains_every_artifact(exported):
    _, folder = exported
    assert {path.name for path in folder.iterdir()} - {"parity.json"} == {
        "saved_model",
        "saved_model_text",
        "model.float32.tflite",
        "model.float16.tflite",
        "model.int8.tflite",
        "model.int8_weight_only.tflite",
        "model.int4.tflite",
        "tokenizer",
        "export.json",
    }


def test_default_formats_need_no_extra_and_progress_counts_them(
    static_student, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ai_edge_quantizer", None)
    calls = []
    artifacts = export_student(
        static_student,
        tmp_path / "out",
        sequence_lengths=(),
        progress=lambda *call: calls.append(call),
    )
    assert [str(item) for item in artifacts.formats] == [
        "saved_model",
        "saved_model_text",
        "tflite_float32",
        "tflite_int8",
    ]
    assert calls == [
        ("Exporting, saved_model", 0, 4),
        ("Exporting, saved_model_text", 1, 4),
        ("Exporting, model.float32.tflite", 2, 4),
        ("Exporting, model.int8.tflite", 3, 4),
        ("Exporting", 4, 4),
    ]


@pytest.mark.parametrize("item", ["tflite_int4", "tflite_int8_weight_only"])
def test_missing_quantizer_is_refused_before_anything_is_written(
    static_student, tmp_path, monkeypatch, item
):
    monkeypatch.setitem(sys.modules, "ai_edge_quantizer", None)
    with pytest.raises(MissingExtraError, match=r'pip install "kdkeras\[quantize\]"'):
        export_student(static_student, tmp_path / "out", formats=["saved_model", item])
    assert not list(tmp_path.iterdir())


def test_missing_onnx_writer_is_refused_before_anything_is_written(
    static_student, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(MissingExtraError, match=r'pip install "kdkeras\[onnx\]"'):
        export_student(static_student, tmp_path / "out", formats=["saved_model", "onnx"])
    assert not list(tmp_path.iterdir())


def test_int4_table_of_odd_width_is_refused(unigram, tmp_path):
    student = StaticStudent(unigram.size, 8, 33, sequence_length=16, vocabulary=unigram)
    with pytest.raises(InputError, match=r"even width, .*Received: width 33\. Omit 'tflite_int4'"):
        export_student(student, tmp_path / "out", formats="tflite_int4")
    assert not list(tmp_path.iterdir())


def test_manifest_describes_the_student(exported):
    student, folder = exported
    manifest = json.loads((folder / "export.json").read_text())
    assert manifest["student"]["class"] == type(student).__name__
    assert type(student)(**manifest["student"]["config"]).get_config() == student.get_config()
    assert manifest["signatures"] == {"embed_16": 16, "embed_37": 37}
    assert manifest["embedding_dim"] == student.output_dim
    assert manifest["normalized"] is student.normalize
    assert manifest["vocabulary"] == {
        "kind": student.vocabulary.kind,
        "size": student.vocabulary.size,
        "fingerprint": student.vocabulary.fingerprint,
        "pad_id": 0,
        "unknown_id": student.vocabulary.unknown_id,
    }


def test_manifest_lists_checksum_and_size_of_every_file(exported):
    _, folder = exported
    manifest = json.loads((folder / "export.json").read_text())
    found = {
        str(path.relative_to(folder)): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("export.json", "parity.json")
    }
    assert manifest["files"] == found
    int8 = manifest["artifacts"]["tflite_int8"]
    assert int8["bytes"] == (folder / int8["path"]).stat().st_size
    assert int8["needs"] == {"ai-edge-litert": "2.1"}


def test_unknown_format_is_refused_with_a_list_of_known_ones(static_student, tmp_path):
    with pytest.raises(InputError, match=r"'saved_model_text', .*Received: \['coreml'\]"):
        export_student(static_student, tmp_path / "out", formats=["coreml", "saved_model"])
    assert not list(tmp_path.iterdir())


def test_student_without_vocabulary_is_refused(tmp_path):
    with pytest.raises(InputError, match="must have a vocabulary"):
        export_student(StaticStudent(20, 4, 8), tmp_path / "out")


def test_vocabulary_of_another_size_is_refused(vocabulary, wordpiece, tmp_path):
    student = StaticStudent(vocabulary.size, 4, 8, vocabulary=vocabulary)
    object.__setattr__(student, "_vocabulary_holder", (wordpiece,))
    with pytest.raises(InputError, match=f"{wordpiece.size} tokens, {vocabulary.size} rows"):
        export_student(student, tmp_path / "out")


@pytest.mark.parametrize("length", [0, 38])
def test_sequence_length_out_of_range_is_refused(static_student, tmp_path, length):
    with pytest.raises(InputError, match=rf"between 1 and the student's 37 .*Received: \[{length}"):
        export_student(static_student, tmp_path / "out", sequence_lengths=(16, length))


def test_existing_folder_is_replaced_only_with_overwrite(static_student, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="must not exist yet"):
        export_student(static_student, tmp_path, formats="tflite_int8")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    artifacts = export_student(static_student, tmp_path, formats="tflite_int8", overwrite=True)
    assert not (tmp_path / "note.txt").exists()
    assert (tmp_path / "export.json").exists()
    # The default lengths, and that of the student.
    assert artifacts.sequence_lengths == (16, 32, 37)
    assert artifacts.formats == (ExportFormat.TFLITE_INT8,)
    assert artifacts.path("tflite_int8").is_file()
    assert not artifacts.path("tflite_float32").exists()


@pytest.mark.parametrize("item", ["saved_model", "tflite_int8"])
def test_full_disk_leaves_nothing_behind(static_student, tmp_path, item):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit of 100 kB per file fails in the same way as a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            InputError, match=r"must be writable.*\(File too large\).*nothing was changed"
        ):
            export_student(static_student, tmp_path / "out", formats=item, sequence_lengths=())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_half_precision_student_is_exported_in_float32(static_student, unigram, tmp_path):
    half = StaticStudent(
        unigram.size, 48, 64, sequence_length=37, vocabulary=unigram, dtype="mixed_bfloat16"
    )
    half.set_weights(static_student.get_weights())
    export_student(half, tmp_path / "out", formats="tflite_float32", sequence_lengths=())
    texts = ["Guten Morgen.", "Wo ist der Bahnhof?"]
    embeddings = LiteStudent(tmp_path / "out").encode(texts)
    np.testing.assert_allclose(embeddings, static_student.encode(texts), atol=1e-6)
    # With bfloat16 arithmetic, the difference would be larger.
    assert np.abs(half.encode(texts) - static_student.encode(texts)).max() > 1e-4
