"""Copies separate in training, unless nothing tells them apart."""

from __future__ import annotations

import numpy as np
import pytest
from growth_students import train

from kdkeras.growth import GrowthPlan, HyperCloning, Lemon, Net2Wider, grow

SIZES = {"hidden_dim": 32, "intermediate_dim": 48}
BREAKING = {
    "default": {},
    "unequal_shares": HyperCloning(shares="unequal", noise=0.0),
    "lemon": Lemon(),
}


def columns(model):
    """What writes a feed-forward unit, and what writes a unit of the width."""
    block = model.blocks[0]
    return [
        dense.kernel.value.numpy() for dense in (block.intermediate_dense, block.feedforward_dense)
    ]


def apart(model, copies):
    """Largest distance of a column from its copy's, relative to the spread of the kernel."""
    return [
        max(np.abs(kernel[:, i] - kernel[:, j]).max() for i, j in pairs) / kernel.std()
        for kernel, pairs in zip(columns(model), copies, strict=True)
    ]


def copies_of(model):
    """Which columns are alike at the start."""
    return [
        [
            (i, j)
            for i in range(kernel.shape[1])
            for j in range(i)
            if np.array_equal(kernel[:, i], kernel[:, j])
        ]
        for kernel in columns(model)
    ]


SLOW = {"lemon", "unequal_shares"}
CASES = [
    pytest.param(operators, id=name, marks=[pytest.mark.slow] * (name in SLOW))
    for name, operators in BREAKING.items()
]


@pytest.mark.parametrize("operators", CASES)
def test_copies_separate_in_a_few_steps(trained, lessons, operators):
    grown = grow(trained, GrowthPlan(sizes=SIZES, operators=operators))
    copies = copies_of(grown)
    assert [len(pairs) for pairs in copies] == [24, 16]
    train(grown, lessons, 8, rate=1e-3)
    assert min(apart(grown, copies)) > 0.005


def test_copies_with_equal_shares_and_no_noise_never_separate(trained, lessons):
    grown = grow(trained, GrowthPlan(sizes=SIZES, operators=HyperCloning(noise=0.0)))
    copies = copies_of(grown)
    train(grown, lessons, 8, rate=1e-3)
    # Sums in another order differ in their last bits, and Adam makes small numbers large.
    assert max(apart(grown, copies)) < 1e-3


@pytest.mark.slow
def test_net2wider_breaks_the_symmetry_of_the_units_it_copies(trained, lessons):
    grown = grow(trained, GrowthPlan(sizes={"intermediate_dim": 36}, operators=Net2Wider()))
    copies = copies_of(grown)
    assert len(copies[0]) == 12 and copies[1] == []
    train(grown, lessons, 8, rate=1e-3)
    kernel = columns(grown)[0]
    distance = [np.abs(kernel[:, i] - kernel[:, j]).max() for i, j in copies[0]]
    assert min(distance) / kernel.std() > 0.001
