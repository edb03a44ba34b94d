"""Exported files in MediaPipe's npm package, in headless Chromium."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from edge_tools import chromium, node, require
from runtimes import bad_texts, cosines, make_student, replaced

from kdkeras.export import export_student

WEB = Path(__file__).parents[2] / "export" / "web"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["static, mixed", "transformer, wordpiece"])
def exported(request, tmp_path_factory):
    kind, name = request.param.split(", ")
    student = make_student(kind, request.getfixturevalue(name))
    folder = tmp_path_factory.mktemp("web") / "out"
    export_student(student, folder, ("mediapipe", "mediapipe_float32"), sequence_lengths=())
    return student, folder


def embed(path, texts):
    installed = (WEB / "node_modules" / "@mediapipe" / "tasks-text").is_dir()
    require(installed, f"MediaPipe's npm package must be installed: npm ci in {WEB}.")
    result = subprocess.run(
        [node(), str(WEB / "mediapipe.mjs"), str(path)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CHROMIUM": chromium()},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return np.array(json.loads(result.stdout), np.float32)


def test_embeddings_in_the_browser_equal_keras_in_every_language(exported, sentences_by_language):
    student, folder = exported
    manifest = json.loads((folder / "export.json").read_text())
    texts = [text for texts in sentences_by_language.values() for text in texts[:10]]
    assert len(sentences_by_language) >= 25
    expected = student.encode(texts)
    float32, int8 = (
        embed(folder / manifest["artifacts"][name]["path"], texts)
        for name in ("mediapipe_float32", "mediapipe")
    )
    np.testing.assert_allclose(float32, expected, rtol=0, atol=1e-5)
    assert cosines(int8, expected).min() > 0.999
    assert np.abs(int8 - expected).max() > 1e-6  # The files differ.


def test_malformed_text_has_the_embedding_of_keras(exported, sentences_by_language):
    student, folder = exported
    sentences = [text for texts in sentences_by_language.values() for text in texts]
    bad = {name: replaced(text) for name, text in bad_texts(sentences).items()}
    manifest = json.loads((folder / "export.json").read_text())
    path = folder / manifest["artifacts"]["mediapipe_float32"]["path"]
    found, expected = embed(path, list(bad.values())), student.encode(list(bad.values()))
    differ = {
        name: float(np.abs(a - b).max())
        for name, a, b in zip(bad, found, expected, strict=True)
        if np.abs(a - b).max() > 1e-5
    }
    assert differ == {}
