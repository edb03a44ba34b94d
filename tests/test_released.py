"""Students in savedmodels/ load by name and have the stated quality."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import kdkeras
from kdkeras.evaluation import TranslationEvaluator

FOLDER = Path(__file__).parents[1] / "savedmodels"
RELEASED = sorted(path.parent.name for path in FOLDER.glob("*/export.json"))


def test_released_student_exists():
    assert "static-multilingual-28" in RELEASED


@pytest.mark.parametrize("name", RELEASED)
def test_released_student_finds_translations(name, held_out):
    student = kdkeras.load(name)
    foreign, english = held_out["ja"]
    evaluator = TranslationEvaluator("held_out_ja", foreign, english)
    # The model card states 89.8 % for 1,000 pairs; 120 candidates are easier.
    assert evaluator(student)["held_out_ja_accuracy"] > 0.9


@pytest.mark.parametrize("name", RELEASED)
def test_released_vectors_have_length_one(name, held_out):
    vectors = kdkeras.load(name).encode(held_out["ar"][0][:20])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", RELEASED)
def test_from_preset_rebuilds_the_released_student(name, sentences_by_language):
    student, lite = kdkeras.from_preset(name), kdkeras.load(name)
    rounding = student.clone()
    # The file rounds the inputs of the projection at run time.
    rounding.fake_quantization = "int8"
    for language, texts in sentences_by_language.items():
        expected = lite.encode(texts[:20])
        assert (student.encode(texts[:20]) * expected).sum(axis=1).mean() > 0.9999, language
        assert (rounding.encode(texts[:20]) * expected).sum(axis=1).min() > 0.99999, language


@pytest.mark.parametrize("name", RELEASED)
def test_released_student_is_small_and_has_a_card(name):
    size = sum(path.stat().st_size for path in (FOLDER / name).rglob("*") if path.is_file())
    assert size <= 25e6
    assert (FOLDER / name / "MODEL_CARD.md").read_text("utf-8").startswith("---\nlicense:")


def test_changed_byte_is_refused(tmp_path):
    copy = shutil.copytree(FOLDER / RELEASED[0], tmp_path / "copy")
    model = copy / "model.int8.tflite"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(bytes(data))
    with pytest.raises(kdkeras.InputError, match="model.int8.tflite"):
        kdkeras.load(copy)


def test_unknown_name_is_refused():
    with pytest.raises(kdkeras.InputError, match="no-such-student"):
        kdkeras.load("no-such-student")
