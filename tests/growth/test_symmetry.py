"""Copies diverge in training, unless their shares are equal and there is no noise."""

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
    """Kernels that write the feed-forward units, and the hidden units."""
    block = model.blocks[0]
    return [
        dense.kernel.value.numpy() for dense in (block.intermediate_dense, block.feedforward_dense)
    ]


def largest_distance(model, copies):
    """Largest distance of two copies, relative to the standard deviation of the kernel."""
    return [
        max(np.abs(kernel[:, i] - kernel[:, j]).max() for i, j in pairs) / kernel.std()
        for kernel, pairs in zip(columns(model), copies, strict=True)
    ]


def copies_of(model):
    """Pairs of equal columns at the start."""
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
def test_copies_diverge_in_a_few_steps(trained, lessons, operators):
    grown = grow(trained, GrowthPlan(sizes=SIZES, operators=operators))
    copies = copies_of(grown)
    assert [len(pairs) for pairs in copies] == [24, 16]
    train(grown, lessons, 8, rate=1e-3)
    assert min(largest_distance(grown, copies)) > 0.005


def test_copies_with_equal_shares_and_no_noise_stay_equal(trained, lessons):
    grown = grow(trained, GrowthPlan(sizes=SIZES, operators=HyperCloning(noise=0.0)))
    copies = copies_of(grown)
    train(grown, lessons, 8, rate=1e-3)
    # Sums in another order differ by rounding, which Adam amplifies.
    assert max(largest_distance(grown, copies)) < 1e-3


@pytest.mark.slow
def test_random_copies_diverge(trained, lessons):
    grown = grow(trained, GrowthPlan(sizes={"intermediate_dim": 36}, operators=Net2Wider()))
    copies = copies_of(grown)
    assert len(copies[0]) == 12 and copies[1] == []
    train(grown, lessons, 8, rate=1e-3)
    kernel = columns(grown)[0]
    distance = [np.abs(kernel[:, i] - kernel[:, j]).max() for i, j in copies[0]]
    assert min(distance) / kernel.std() > 0.001
