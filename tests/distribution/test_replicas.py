"""Two replicas train the same model as one, and log the same values."""

from __future__ import annotations

import pytest
from distribution_cases import CASES

QUICK = ["three losses", "labels, global_clipnorm"]
SLOW = [name for name in CASES if name not in QUICK]


@pytest.fixture(scope="session")
def quick(differences):
    return differences(QUICK)


@pytest.fixture(scope="session")
def slow(differences):
    return differences(SLOW)


def assert_equal(found, tolerance):
    assert found["names"], "one replica and two log different terms"
    assert found["moved"] > 50 * tolerance, "the training changes too little to show a difference"
    for part in ("weights", "optimizer", "logs"):
        assert found[part] <= tolerance, part


@pytest.mark.parametrize("name", QUICK)
def test_two_replicas_equal_one(quick, name):
    assert_equal(quick[name], CASES[name].tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_two_replicas_equal_one_in_every_kind_of_training(slow, name):
    assert_equal(slow[name], CASES[name].tolerance)
