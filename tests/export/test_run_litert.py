"""`export/run_litert.py` in a process that cannot import TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runtimes import bad_texts

from kdkeras.strings import well_formed

SCRIPT = Path(__file__).parents[2] / "export" / "run_litert.py"

# The finder makes imports of these packages fail, as if they were not installed.
BLOCKED = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_text", "keras", "kdkeras", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _run(*arguments, text=None):
    command = [sys.executable, "-I", "-c", BLOCKED, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        errors="surrogateescape",
    )


@pytest.mark.parametrize(
    ("file", "min_cosine"), [("model.float32.tflite", 0.999999), ("model.int8.tflite", 0.999)]
)
def test_sentences_from_stdin_have_the_embeddings_of_keras(
    exported, held_out, long_text, file, min_cosine
):
    student, folder = exported
    texts = [*held_out["ar"][0][:3], *held_out["zh"][0][:3], "", long_text]
    result = _run(folder, "--json", "--file", file, text="\n".join(texts))
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == texts
    embeddings, expected = np.array([row["embedding"] for row in rows]), student.encode(texts)
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((embeddings * expected).sum(1) / lengths).min() > min_cosine


def test_arguments_print_a_similarity_matrix(folders, static_student):
    texts = ["Guten Morgen.", "Good morning."]
    result = _run(folders / "StaticStudent", *texts, "--file", "model.float32.tflite")
    cosine = float(np.prod(static_student.encode(texts), axis=0).sum())
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["1.000", f"{cosine:.3f}"],
        [f"{cosine:.3f}", "1.000"],
    ]


def test_folder_without_an_export_is_refused_in_one_line(tmp_path):
    result = _run(tmp_path, "Hallo.")
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert f"must contain export.json. Received: {tmp_path}." in last


def test_malformed_text_has_the_embedding_of_keras(exported, sentences):
    student, folder = exported
    # One text per line, as bytes; JavaScript's surrogates have no UTF-8 form.
    texts = [text.replace("\n", " ") for text in bad_texts(sentences).values()]
    texts = [text for text in texts if "\ud83d" not in text]
    result = _run(folder, "--json", "--file", "model.float32.tflite", text="\n".join(texts))
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.split("\n")[:-1]]
    assert [row["text"] for row in rows] == [well_formed(text) for text in texts]
    found = np.array([row["embedding"] for row in rows])
    np.testing.assert_allclose(found, student.encode(texts), atol=1e-5)


def test_arguments_that_are_not_utf8_have_the_embedding_of_keras(folders, static_student):
    text = "Grüße aus Köln".encode("latin-1").decode("utf-8", "surrogateescape")
    result = _run(folders / "StaticStudent", text, "--json", "--file", "model.float32.tflite")
    row = json.loads(result.stdout)
    assert row["text"] == "Gr\ufffd\ufffde aus K\ufffdln"
    np.testing.assert_allclose(row["embedding"], static_student.encode([text])[0], atol=1e-5)
