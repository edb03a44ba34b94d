"""The notebook runs as a user would run it, and is kept without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "colab" / "quickstart.ipynb"

RESULTS = """
import json
print("RESULTS", json.dumps({
    "accuracy": dict(zip(languages, accuracy)),
    "losses": [entry["loss"] for entry in result.history],
    "cosine": float(cosines.min()),
    "files": sorted(path.name for path in artifacts.folder.iterdir()),
}))
"""


def read_notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def cell_with(notebook, text):
    return next(cell for cell in notebook.cells if text in cell.source)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colab")
    notebook = read_notebook()
    parameters = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    parameters.source += '\nSTUDENT = "static_128"\nEPOCHS = 2'
    notebook.cells.append(nbformat.v4.new_code_cell(RESULTS))
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(folder)}}
    ).execute()
    printed = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    return notebook, json.loads(printed.removeprefix("RESULTS"))


def test_notebook_trains_a_student_that_finds_translations_in_every_language(executed):
    _, results = executed
    assert results["losses"][-1] < results["losses"][0]
    assert len(results["accuracy"]) >= 12
    assert min(results["accuracy"].values()) > 60


def test_notebook_exports_what_keras_computes(executed):
    _, results = executed
    assert {"model.float32.tflite", "model.int8.tflite", "tokenizer"} <= set(results["files"])
    assert results["cosine"] > 0.99


def test_notebook_draws_its_plot_and_installs_nothing_here(executed):
    notebook, _ = executed
    plot = cell_with(notebook, "plt.subplots").outputs
    assert any("image/png" in output.get("data", {}) for output in plot)
    assert cell_with(notebook, "%pip install").outputs == []


def test_notebook_is_kept_without_outputs():
    for cell in read_notebook().cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
