"""Two replicas give the model and the logs of one."""

from __future__ import annotations

import pytest
from distribution_cases import CASES

# What the others build on; the rest of the table is marked slow.
QUICK = [
    "all losses",
    "an empty replica",
    "labels, uneven",
    "global_clipnorm",
]
SLOW = [name for name in CASES if name not in QUICK]


@pytest.fixture(scope="session")
def quick(differences):
    return differences(QUICK)


@pytest.fixture(scope="session")
def slow(differences):
    return differences(SLOW)


def assert_equal(found, tolerance):
    assert found["names"], "one replica logs other terms than two"
    assert found["moved"] > 50 * tolerance, "too little was trained to tell"
    for part in ("weights", "optimizer", "logs"):
        assert found[part] <= tolerance, part


@pytest.mark.parametrize("name", QUICK)
def test_two_replicas_equal_one(quick, name):
    assert_equal(quick[name], CASES[name].tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_two_replicas_equal_one_in_every_way_to_train(slow, name):
    assert_equal(slow[name], CASES[name].tolerance)
