"""Two worker processes train the same model as one device; only the first one writes."""

from __future__ import annotations

import json

import numpy as np
import pytest

import kdkeras
from kdkeras import data, evaluation

# Three processes that use all cores.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def both(run_workers, folder):
    run_workers("run_worker.py", lambda i: [folder / f"{i}.json", folder, "sample"])
    return [json.loads((folder / f"{i}.json").read_text()) for i in range(2)]


@pytest.fixture(scope="module")
def one_device(run_python, folder):
    run_python("run_worker.py", folder / "alone.json", folder)
    return json.loads((folder / "alone.json").read_text())


@pytest.mark.parametrize("optimizer", ["clipped", "FusedAdam", "LazyAdam", "queue"])
def test_two_workers_equal_one(both, one_device, optimizer):
    expected = one_device[optimizer]
    for found in (worker[optimizer] for worker in both):
        for part in ("weights", "memory"):
            for one, other in zip(found[part], expected[part], strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
        assert sorted(found["logs"]) == sorted(expected["logs"])
        for name, value in expected["logs"].items():
            # Adjacent float32 values near 10 differ by 1e-6.
            np.testing.assert_allclose(
                found["logs"][name], value, rtol=1e-6, atol=1e-6, err_msg=name
            )
        np.testing.assert_allclose(
            sorted(found["predicted"]), sorted(expected["predicted"]), rtol=0, atol=1e-6
        )


def test_only_the_chief_writes(both, folder):
    assert [worker["chief"] for worker in both] == [True, False]
    assert (folder / "chief" / "state.json").is_file()
    assert not (folder / "other").exists()
    assert json.loads((folder / "chief" / "state.json").read_text())["step"] == 8


def test_callbacks_log_the_same_on_both_workers(both, folder):
    assert both[0]["sample"] == both[1]["sample"]
    held_out = data.sample_folder() / "held_out" / "de.tsv"
    evaluator = evaluation.TranslationEvaluator.from_tsv(held_out, "de")
    expected = evaluator(kdkeras.load(folder / "student.keras"))
    for name, value in expected.items():
        assert both[0]["sample"][name][-1] == pytest.approx(value, abs=1e-6)
    assert both[0]["sample"]["loss"][-1] < both[0]["sample"]["loss"][0]
