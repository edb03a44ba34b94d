"""The arithmetic and the data of the growth benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks/growth"


@pytest.fixture(autouse=True)
def benchmark_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def test_a_training_step_costs_three_forward_passes_per_row():
    import costs

    # A body of 1000 that counts a head of 100 once; the head runs for 3 tokens.
    forward = costs.forward_pass(1000, 100, 3)

    assert forward == 1200
    assert costs.training(forward, rows=4, steps=10) == 3 * 1200 * 4 * 10


def test_the_target_is_interpolated_between_two_measurements():
    import costs

    # From 3.0 at 10 to 1.0 at 20: 1.5 lies three quarters of the way.
    assert costs.reached_at([0, 10, 20, 30], [5.0, 3.0, 1.0, 0.5], 1.5) == 17.5


def test_the_first_crossing_counts_if_the_loss_rises_again():
    import costs

    assert costs.reached_at([0, 10, 20, 30], [4.0, 2.0, 3.0, 1.0], 2.0) == 10.0


def test_a_target_below_every_loss_is_never_reached():
    import costs

    assert costs.reached_at([0, 10], [4.0, 2.0], 1.9) is None
    assert costs.saving(None, 100.0) is None


def test_the_whole_cost_of_the_small_run_is_counted():
    import language_model_tables as tables

    scratch = {"flops": [0, 50, 100], "losses": [6.0, 5.0, 4.0]}
    small = {"flops": [0, 15], "losses": [6.0, 5.0]}
    grown = {"flops": [0, 20, 40], "losses": [5.0, 4.5, 3.5]}

    # 4.0 is half way between the measurements at 20 and 40.
    found = tables.savings(grown, scratch, small)

    assert found == {"given": pytest.approx(0.70), "counted": pytest.approx(0.55)}


def test_packed_rows_hold_the_sentences_in_order_with_boundaries():
    import masked_text

    rows = masked_text.packed([[1, 2, 3], [4], [5, 6]], boundary=9, length=4)

    assert rows.tolist() == [[1, 2, 3, 9], [4, 9, 5, 6]]


def test_labels_are_the_masked_tokens_and_never_a_boundary():
    import masked_text

    rows = np.random.default_rng(1).integers(50, size=(200, 16)).astype(np.int32)
    rows[:, 7] = 51
    masked = masked_text.mask(rows, predictions=3, mask_id=50, boundary=51, seed=0)

    restored = masked.token_ids.copy()
    np.put_along_axis(restored, masked.positions, masked.labels, axis=1)
    np.testing.assert_array_equal(restored, rows)
    assert not np.any(masked.positions == 7)
    hidden = np.take_along_axis(masked.token_ids, masked.positions, axis=1) == 50
    assert hidden.mean() == pytest.approx(0.8, abs=0.05)


def test_held_out_sentences_are_not_trained_on():
    import masked_text

    sentences = [f"{number}" for number in range(500)]
    train, held_out = masked_text.split(sentences)

    assert len(held_out) == 10
    assert not set(train) & set(held_out)
