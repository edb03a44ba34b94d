"""Pairs of matrices with E F = I, and which functions the pair of each operator preserves."""

from __future__ import annotations

import numpy as np
import oracles_growth
import pytest
from contracts import assert_one_line
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkeras.errors import InputError
from kdkeras.growth import (
    AdvancedKnowledge,
    Chain,
    HyperCloning,
    Lemon,
    Net2Wider,
    ZeroPadding,
)
from kdkeras.growth.axis_map import ELEMENTWISE, LINEAR, NORMALIZED, ROWS, AxisMap
from kdkeras.growth.operators import WidthOperator

OPERATORS = [
    Net2Wider(),
    Net2Wider(shares="unequal", noise=0.0),
    Net2Wider(replacement=True, noise=0.5),
    Net2Wider(noise=0.0),
    AdvancedKnowledge(),
    HyperCloning(),
    HyperCloning(shares="unequal", noise=0.3),
    Lemon(),
    ZeroPadding(),
    ZeroPadding(random_readers=False),
]
operators = st.sampled_from(OPERATORS)
kinds = st.sampled_from([LINEAR, ELEMENTWISE, NORMALIZED])
sizes = st.integers(1, 7)


def pair_of(operator, kind, size, new_size, seed=0):
    return operator.pair(kind, size, new_size, np.random.default_rng(seed))


def larger(operator, size, more):
    """A size that the operator supports."""
    return size * (1 + more) if isinstance(operator, HyperCloning) else size + more


@settings(deadline=None, max_examples=40)
@given(operators, kinds, sizes, sizes, st.integers(0, 99))
def test_contract_inverts_expand_for_every_operator(operator, kind, size, more, seed):
    pairs = operator.pairs(kind, size, larger(operator, size, more), np.random.default_rng(seed))
    for pair in pairs:
        product = pair.expand.toarray() @ pair.contract.toarray()
        np.testing.assert_allclose(product, np.eye(size), atol=1e-12)
        assert pair.expand.shape == (size, larger(operator, size, more))


@settings(deadline=None, max_examples=40)
@given(st.tuples(operators, operators, operators), kinds, sizes, sizes, st.integers(0, 99))
def test_composition_is_associative_and_invertible(chosen, kind, size, more, seed):
    maps, current = [], size
    for operator in chosen:
        maps.append(pair_of(operator, kind, current, larger(operator, current, more), seed))
        current = maps[-1].new_size
    a, b, c = maps
    left, right = a.then(b).then(c), a.then(b.then(c))
    for name in ("expand", "contract"):
        one, other = (getattr(x, name).toarray() for x in (left, right))
        np.testing.assert_allclose(one, other, atol=1e-12)
    np.testing.assert_allclose((left.expand @ left.contract).toarray(), np.eye(size), atol=1e-11)
    # The grown weight is the product F_3 F_2 F_1 W E_1 E_2 E_3.
    w = np.random.default_rng(seed).normal(size=(size, size))
    stepwise = w
    for pair in maps:
        stepwise = pair.contract @ stepwise @ pair.expand
    np.testing.assert_allclose(left.contract @ w @ left.expand, stepwise, atol=1e-11)


@settings(deadline=None, max_examples=40)
@given(operators, sizes, sizes, st.integers(0, 99))
def test_every_operator_preserves_gelu(operator, size, more, seed):
    pair = pair_of(operator, ELEMENTWISE, size, larger(operator, size, more), seed)
    x = np.random.default_rng(seed).normal(size=(3, size))
    through = oracles_growth.gelu(x @ pair.expand) @ pair.contract
    assert pair.keeps(ELEMENTWISE)
    np.testing.assert_allclose(through, oracles_growth.gelu(x), atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(operators, st.integers(2, 6), sizes, st.integers(0, 99))
def test_keeps_tells_whether_a_layer_norm_is_preserved(operator, size, more, seed):
    pair = pair_of(operator, NORMALIZED, size, larger(operator, size, more), seed)
    x = np.random.default_rng(seed).normal(size=(3, size))
    through = oracles_growth.layer_norm(x @ pair.expand) @ pair.contract
    error = np.abs(through - oracles_growth.layer_norm(x)).max()
    assert (error < 1e-8) is np.bool_(pair.keeps(NORMALIZED))


def test_average_padding_preserves_a_pre_norm():
    """With the scaled gamma of the paper, sqrt(d / d')."""
    pair = pair_of(Lemon(), NORMALIZED, 4, 6)
    x = np.random.default_rng(0).normal(size=(3, 4))
    scaled = oracles_growth.layer_norm(x @ pair.expand) * np.sqrt(4 / 6)
    np.testing.assert_allclose(scaled @ pair.contract, oracles_growth.layer_norm(x), atol=1e-9)
    assert not pair.keeps(NORMALIZED)


# ---- by hand ------------------------------------------------------------


def test_hypercloning_is_the_kronecker_product():
    pair = pair_of(HyperCloning(noise=0.0), NORMALIZED, 2, 6)
    np.testing.assert_array_equal(pair.expand.toarray(), np.kron(np.ones((1, 3)), np.eye(2)))
    third = np.kron(np.ones((3, 1)), np.eye(2)) / 3
    np.testing.assert_allclose(pair.contract.toarray(), third)


def test_canceling_noise_sums_to_0_over_the_copies():
    plain, noisy = (
        pair_of(HyperCloning(noise=noise), NORMALIZED, 40, 120).contract.toarray()
        for noise in (0.0, 0.2)
    )
    noise = (noisy - plain).reshape(3, 40, 40)
    np.testing.assert_allclose(noise.sum(axis=0), 0, atol=1e-12)
    # 0.2 of a share of 1/3, reduced by a third of the variance because the noise cancels.
    expected = 0.2 / 3 * np.sqrt(2 / 3) / np.sqrt(40)
    assert noise.std() == pytest.approx(expected, rel=0.05)


def test_net2wider_divides_by_the_number_of_copies():
    pair = pair_of(Net2Wider(noise=0.0, replacement=True), ELEMENTWISE, 3, 9, seed=4)
    e, f = pair.expand.toarray(), pair.contract.toarray()
    np.testing.assert_array_equal(e[:, :3], np.eye(3))
    copies = e.sum(axis=1)
    assert copies.sum() == 9 and len(set(copies)) > 1  # drawn with repetition
    np.testing.assert_allclose(f, (e / copies[:, None]).T)


def test_unequal_shares_are_different_and_sum_to_1():
    f = pair_of(Net2Wider(shares="unequal", noise=0.0), ELEMENTWISE, 2, 6).contract.toarray()
    # 3 copies each: 1/6, 2/6 and 3/6 in some order.
    for unit in range(2):
        np.testing.assert_allclose(np.sort(f[:, unit])[-3:], [1 / 6, 2 / 6, 3 / 6])


def test_lemon_pads_with_averages_before_a_norm_and_with_copies_elsewhere():
    before_norm, elsewhere = (
        pair_of(Lemon(), kind, 2, 5).expand.toarray() for kind in (NORMALIZED, ELEMENTWISE)
    )
    eye = np.eye(2)
    np.testing.assert_array_equal(before_norm, np.hstack([eye, eye, [[0.5], [0.5]]]))
    np.testing.assert_array_equal(elsewhere, np.hstack([eye, eye, [[1.0], [0.0]]]))


def test_zero_padding_writes_zeros_and_reads_at_random():
    main, scores = ZeroPadding().pairs(ELEMENTWISE, 3, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(main.expand.toarray(), np.eye(3, 5))
    np.testing.assert_array_equal(main.contract.toarray()[:3], np.eye(3))
    assert np.abs(main.contract.toarray()[3:]).min() > 0
    # Queries and keys of a new head are copies of another head's.
    np.testing.assert_array_equal(scores.expand.toarray().sum(axis=0), np.ones(5))


def test_a_chain_applies_one_operator_after_the_other():
    chain = Chain(first=HyperCloning(noise=0.0), size=4, second=ZeroPadding(random_readers=False))
    pair = pair_of(chain, ELEMENTWISE, 2, 5)
    eye = np.eye(2)
    np.testing.assert_array_equal(pair.expand.toarray(), np.hstack([eye, eye, np.zeros((2, 1))]))
    np.testing.assert_array_equal(
        pair.contract.toarray(), np.vstack([eye / 2, eye / 2, np.zeros((1, 2))])
    )


def test_turned_maps_preserve_dot_products():
    pair = pair_of(ZeroPadding(), LINEAR, 3, 7)
    turned = pair.turned(2.0)
    q, k = np.random.default_rng(0).normal(size=(2, 4, 3))
    product = (q @ pair.scaled(0.5).expand) @ (k @ turned.expand).T
    np.testing.assert_allclose(product, q @ k.T, atol=1e-12)


@pytest.mark.parametrize(
    ("expand", "kept"),
    [
        (np.eye(2), (LINEAR, ELEMENTWISE, NORMALIZED, ROWS)),
        ([[1, 0, 1, 0], [0, 1, 0, 1]], (LINEAR, ELEMENTWISE, NORMALIZED)),
        ([[1, 0, 1], [0, 1, 0]], (LINEAR, ELEMENTWISE)),
        ([[1, 0, 0], [0, 1, 0]], (LINEAR, ELEMENTWISE, ROWS)),
        ([[1, 0, 0.5], [0, 1, 0.5]], (LINEAR,)),
        ([[2, 0], [0, 1]], (LINEAR,)),
    ],
    ids=["same", "all_twice", "one_twice", "zeros", "average", "scaled"],
)
def test_keeps_depends_on_the_matrices(expand, kept):
    expand = np.array(expand, float)
    pair = AxisMap(expand=expand, contract=np.linalg.pinv(expand))
    kinds = (LINEAR, ELEMENTWISE, NORMALIZED, ROWS)
    assert tuple(kind for kind in kinds if pair.keeps(kind)) == kept


# ---- as data ------------------------------------------------------------


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: repr(o)[:30])
def test_operators_round_trip_through_dicts(operator):
    assert WidthOperator.from_dict(operator.to_dict()) == operator
    chain = Chain(first=operator, size=8, second=ZeroPadding(random_readers=False))
    assert WidthOperator.from_dict(chain.to_dict()) == chain


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: Net2Wider(shares="half"), ["`shares`", "'half'", "'unequal'"]),
        (lambda: HyperCloning(noise=-1.0), ["`noise`", "noise=-1.0"]),
        (lambda: pair_of(HyperCloning(), LINEAR, 4, 10), ["multiple of 4", "10", "8 or 12"]),
        (
            lambda: pair_of(Chain(first=Lemon(), size=9, second=Lemon()), LINEAR, 4, 8),
            ["size=9 between 4 and 8"],
        ),
        (
            lambda: AxisMap(expand=np.eye(2), contract=np.ones((2, 3))),
            ["(2, 3)", "Use (2, 2)"],
        ),
        (
            lambda: AxisMap(expand=np.eye(2), contract=2 * np.eye(2)),
            ["must be the identity", "differs from it by 1.0e+00"],
        ),
        (
            lambda: AxisMap.identity(2).then(AxisMap.identity(3)),
            ["start at the size where the first ends", "2 to 2, then 3 to 3"],
        ),
        (
            lambda: WidthOperator.from_dict({"operator": "Stacking"}),
            ["'Stacking'", "Net2Wider", "ZeroPadding"],
        ),
        (
            lambda: WidthOperator.from_dict({"operator": "Lemon", "sise": 1}),
            ["Lemon has the settings", "'sise'"],
        ),
    ],
)
def test_invalid_operators_are_refused(make, parts):
    with pytest.raises(InputError) as error:
        make()
    assert_one_line(str(error.value), *parts)
