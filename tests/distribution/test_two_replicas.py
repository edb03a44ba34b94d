"""Properties of two replicas: the strategy, dropout, an unsupported option, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kdkeras
from kdkeras.__main__ import main

SAMPLE = Path(kdkeras.__file__).parent / "sample"


@pytest.fixture(scope="module")
def found(run_python):
    return json.loads(run_python("run_two_replicas.py").splitlines()[-1])


def test_the_strategy_has_two_virtual_replicas_and_is_unique(found):
    assert found["replicas"] == 2
    assert found["same"]


def test_each_replica_has_its_own_dropout_mask(found):
    one, two = found["masks of Keras"]
    assert one == two, "Keras now gives each replica its own seed: remove differ_by_replica"
    one, two = np.array(found["masks"])
    assert 0.2 < np.mean(one != two) < 0.8


def test_gradient_accumulation_is_refused_and_its_alternative_named(found):
    assert "gradient_accumulation_steps=2" in found["accumulation"]
    assert "micro_batches=2" in found["accumulation"]
    assert "\n" not in found["accumulation"]


def in_process(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.slow
def test_distill_on_two_replicas_gives_the_student_of_one(run_module, tmp_path):
    sentences = ["Guten Morgen.", "Where is the station?", "ありがとう"]
    vectors = []
    for run, more in (
        (in_process, []),
        (run_module, ["--strategy", "mirrored", "--replicas", "2"]),
    ):
        output = tmp_path / f"{len(more)}.keras"
        run(
            "distill", SAMPLE / "distillation_set", "--vocabulary", SAMPLE / "vocabulary",
            "--student", "static_128", "--steps", "20", "--batch-size", "64",
            "--output", output, *more,
        )  # fmt: skip
        vectors.append(kdkeras.load(output).encode(sentences))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)
