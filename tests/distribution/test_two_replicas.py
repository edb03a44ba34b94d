"""What only shows with two replicas: the chosen strategy, dropout, refusals, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kdkeras

SAMPLE = Path(kdkeras.__file__).parent / "sample"


@pytest.fixture(scope="module")
def seen(run_python):
    return json.loads(run_python("run_two_replicas.py").splitlines()[-1])


def test_chosen_strategy_has_two_virtual_replicas_and_is_the_only_one(seen):
    assert seen["replicas"] == 2
    assert seen["same"]


def test_each_replica_drops_other_places(seen):
    one, two = seen["masks of Keras"]
    assert one == two, "Keras now gives each replica its own seed: drop differ_by_replica"
    one, two = np.array(seen["masks"])
    assert 0.2 < np.mean(one != two) < 0.8


def test_accumulation_is_refused_and_the_right_way_named(seen):
    assert "gradient_accumulation_steps=2" in seen["accumulation"]
    assert "micro_batches=2" in seen["accumulation"]
    assert "\n" not in seen["accumulation"]


@pytest.mark.slow
def test_distill_with_two_replicas_gives_the_student_of_one(run_module, tmp_path):
    sentences = ["Guten Morgen.", "Where is the station?", "ありがとう"]
    vectors = []
    for more in ([], ["--strategy", "mirrored", "--replicas", "2"]):
        output = tmp_path / f"{len(more)}.keras"
        run_module(
            "distill", SAMPLE / "distillation_set", "--vocabulary", SAMPLE / "vocabulary",
            "--student", "static_128", "--steps", "20", "--batch-size", "64",
            "--output", output, *more,
        )  # fmt: skip
        vectors.append(kdkeras.load(output).encode(sentences))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)
