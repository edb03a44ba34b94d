"""A trainable student can be rebuilt from the TFLite file of a static student."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import TFLITE
from contracts import assert_one_line

import kdkeras
from kdkeras.errors import InputError
from kdkeras.export import LiteStudent
from kdkeras.export.formats import ExportFormat

# Rows and kernels are rounded to 11, 8 or 4 bits.
MIN_COSINE = {"float32": 0.999999, "float16": 0.99999, "int8": 0.999, "int4": 0.97}


def folder_with(artifacts, source, destination):
    """A copy of an exported folder that lists only some artifacts."""
    folder = shutil.copytree(source, destination)
    manifest = json.loads((folder / "export.json").read_text())
    manifest["artifacts"] = {name: manifest["artifacts"][name] for name in artifacts}
    (folder / "export.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("item", TFLITE, ids=str)
def test_rebuilt_student_computes_the_embeddings_of_the_file(
    item, folders, static_student, few_pairs, tmp_path
):
    folder = folder_with([item], folders / "StaticStudent", tmp_path / "copy")
    student = kdkeras.from_preset(folder)
    texts = [text for foreign, english in few_pairs.values() for text in (*foreign, *english)]
    embeddings = student.encode(texts)
    # The inputs of dense layers are rounded at run time in some files.
    assert (embeddings * LiteStudent(folder).encode(texts)).sum(1).min() > 0.9995
    assert (embeddings * static_student.encode(texts)).sum(1).min() > MIN_COSINE[item.precision]
    assert len(student.trainable_weights) == 3


def test_rebuilding_reads_the_most_precise_file(folders, static_student, few_pairs, tmp_path):
    names = [ExportFormat.TFLITE_INT4, ExportFormat.TFLITE_FLOAT32]
    folder = folder_with(names, folders / "StaticStudent", tmp_path / "copy")
    texts = few_pairs["ja"][0]
    expected = static_student.encode(texts)
    np.testing.assert_allclose(kdkeras.from_preset(folder).encode(texts), expected, atol=1e-5)


def test_only_static_students_with_a_tflite_file_can_be_rebuilt(folders, tmp_path):
    with pytest.raises(InputError) as error:
        kdkeras.from_preset(folders / "TransformerStudent")
    assert_one_line(str(error.value), "a TransformerStudent", "kdkeras.load", "`.keras` file")
    folder = folder_with(["saved_model"], folders / "StaticStudent", tmp_path / "copy")
    with pytest.raises(InputError) as error:
        kdkeras.from_preset(folder)
    assert_one_line(str(error.value), "with saved_model.", "tflite_float32")


def test_rebuilding_refuses_a_changed_file(folders, tmp_path):
    folder = shutil.copytree(folders / "StaticStudent", tmp_path / "copy")
    path = folder / "model.float32.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=r"model\.float32\.tflite must be the file"):
        kdkeras.from_preset(folder)
