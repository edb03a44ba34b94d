import json
import shutil

import numpy as np
import pytest
from runtimes import bad_texts

import kdkeras
from kdkeras.errors import InputError
from kdkeras.export import LiteStudent
from kdkeras.export.formats import ExportFormat


@pytest.fixture
def copy(folders, tmp_path):
    folder = tmp_path / "savedmodels" / "tiny-student"
    shutil.copytree(folders / "StaticStudent", folder)
    return folder


def test_int8_is_the_default(exported):
    student, folder = exported
    lite = LiteStudent(folder)
    assert lite.artifact is ExportFormat.TFLITE_INT8
    assert (lite.output_dim, lite.normalize) == (student.output_dim, student.normalize)
    assert lite.sequence_length == student.sequence_length


def test_shortest_sufficient_signature_is_used(exported, long_text):
    student, folder = exported
    lite = LiteStudent(folder)
    lite.encode(["Hallo."])
    assert list(lite._runners) == [16]
    lite.encode([long_text])
    assert list(lite._runners) == [16, 37]


def test_released_student_is_found_by_name(copy, monkeypatch, static_student):
    monkeypatch.chdir(copy.parents[1])
    lite = kdkeras.load("tiny-student")
    texts = ["Wo ist der Bahnhof?"]
    assert float(np.sum(lite.encode(texts) * static_student.encode(texts))) > 0.999


def test_unknown_name_is_refused_with_the_searched_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"Received: nowhere\. Looked for export\.json in nowhere"):
        kdkeras.load("nowhere")


@pytest.mark.parametrize("file", ["model.int8.tflite", "tokenizer/sentencepiece.model"])
def test_changed_file_is_refused(copy, file):
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(InputError, match=f"{file} must be the file that was exported"):
        LiteStudent(copy)


def test_missing_artifact_is_refused_with_a_list_of_existing_ones(copy):
    manifest = json.loads((copy / "export.json").read_text())
    del manifest["artifacts"]["tflite_float32"]
    (copy / "export.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"has \['tflite_int8'.*\].*artifact='tflite_float32'"):
        LiteStudent(copy, "tflite_float32")


def test_other_format_version_is_refused(copy):
    manifest = json.loads((copy / "export.json").read_text())
    (copy / "export.json").write_text(json.dumps({**manifest, "format_version": 2}))
    with pytest.raises(InputError, match="format_version 1. Received: 2"):
        LiteStudent(copy)


def test_single_string_is_refused(copy):
    with pytest.raises(InputError, match=r"Write \[text\]"):
        LiteStudent(copy).encode("Hallo.")


def test_malformed_text_has_the_embedding_of_keras(exported, sentences):
    student, folder = exported
    bad = bad_texts(sentences)
    found = LiteStudent(folder, "tflite_float32").encode(list(bad.values()))
    differences = np.abs(found - student.encode(list(bad.values()))).max(axis=1)
    assert {text: d for text, d in zip(bad, differences, strict=True) if not d < 1e-5} == {}
