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


@pytest.fixture(scope="module")
def texts(sentences_by_language):
    assert len(sentences_by_language) >= 25
    return [text for texts in sentences_by_language.values() for text in texts[:10]]


@pytest.fixture(scope="module")
def bad(sentences):
    return {name: replaced(text) for name, text in bad_texts(sentences).items()}


@pytest.fixture(scope="module")
def embeddings(exported, texts, bad):
    """Embeddings of `texts` and `bad`: of Keras, and of both files in the browser."""
    student, folder = exported
    manifest = json.loads((folder / "export.json").read_text())
    every = [*texts, *bad.values()]
    in_browser = {
        name: embed(folder / manifest["artifacts"][name]["path"], every)
        for name in ("mediapipe_float32", "mediapipe")
    }
    return {"keras": student.encode(every), **in_browser}


def test_embeddings_in_the_browser_equal_keras_in_every_language(embeddings, texts):
    count = len(texts)
    expected, float32, int8 = (
        embeddings[name][:count] for name in ("keras", "mediapipe_float32", "mediapipe")
    )
    np.testing.assert_allclose(float32, expected, rtol=0, atol=1e-5)
    assert cosines(int8, expected).min() > 0.999
    assert np.abs(int8 - expected).max() > 1e-6  # The files differ.


def test_malformed_text_has_the_embedding_of_keras(embeddings, bad):
    found, expected = (embeddings[name][-len(bad) :] for name in ("mediapipe_float32", "keras"))
    differences = np.abs(found - expected).max(axis=1)
    assert {name: d for name, d in zip(bad, differences, strict=True) if not d <= 1e-5} == {}
