"""Inputs that losses on logits refuse."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_one_line

from kdkeras.errors import InputError
from kdkeras.losses import (
    DecoupledDistillation,
    LogitMSE,
    SoftTargets,
    TokenLogitMSE,
    TokenSoftTargets,
    TokenTopKSoftTargets,
    TopKSoftTargets,
    top_k_targets,
)

FLAT, TOKENS, LABEL = np.ones((2, 5)), np.ones((2, 3, 5)), np.array([0, 1])
TOP = {"top_indices": np.zeros((2, 2), int), "top_rest": np.zeros(2)}
REFUSED = {
    "tokens in soft targets": (
        lambda: SoftTargets(name="kl")(TOKENS, TOKENS), "`kl`", "(2, 3, 5)", "TokenSoftTargets"
    ),
    "tokens in mse": (lambda: LogitMSE()(TOKENS, TOKENS), "(B, V)", "TokenLogitMSE"),
    "tokens in decoupled": (
        lambda: DecoupledDistillation()(TOKENS, TOKENS, label=LABEL), "(B, V)", "TokenSoftTargets"
    ),
    "sentences in tokens": (lambda: TokenSoftTargets()(FLAT, FLAT), "(B, T, V)", "use SoftTargets"),
    "a vector": (lambda: SoftTargets()(FLAT[0], FLAT[0]), "(5,)"),
    "other classes": (
        lambda: SoftTargets()(FLAT, FLAT[:, :4]), "(2, 5)", "(2, 4)", "same vocabulary"
    ),
    "other tokens": (
        lambda: TokenSoftTargets()(TOKENS, TOKENS[:, :2]), "(2, 3, 5)", "(2, 2, 5)"
    ),
    "no mask": (
        lambda: TokenSoftTargets()(TOKENS, TOKENS), "'padding_mask'", "padding_mask=None"
    ),
    "mask of other tokens": (
        lambda: TokenLogitMSE()(TOKENS, TOKENS, padding_mask=np.ones((2, 4))),
        "(2, 4)",
        "tokens (2, 3)",
    ),
    "mask of another rank": (
        lambda: TokenLogitMSE()(TOKENS, TOKENS, padding_mask=np.ones((2, 3, 1))), "(2, 3, 1)"
    ),
    "one-hot label": (
        lambda: DecoupledDistillation()(FLAT, FLAT, label=np.eye(5)[:2]), "(2, 5)", "argmax"
    ),
    "label in a column": (
        lambda: DecoupledDistillation()(FLAT, FLAT, label=LABEL[:, None]), "label (2, 1) int64"
    ),
    "label that is no int": (
        lambda: DecoupledDistillation()(FLAT, FLAT, label=LABEL / 1.0), "label (2,) float32"
    ),
    "rest of other tokens": (
        lambda: TokenTopKSoftTargets()(
            TOKENS, TOKENS, top_indices=np.zeros((2, 3, 5), int), top_rest=np.zeros((2, 1))
        ),
        "rest (2, 1)",
    ),
    "unknown number of classes": (
        lambda: tf.function(SoftTargets(), autograph=False).get_concrete_function(
            *[tf.TensorSpec([2, None], tf.float32)] * 2
        ),
        "must know the number of classes",
        "(2, None)",
        "Dense",
    ),
    "k above V": (lambda: top_k_targets(FLAT, 6), "`k` must be from 1", "k=6", "Use 5 or less"),
    "k of 0": (lambda: top_k_targets(FLAT, 0), "`k` must be from 1", "k=0"),
    "no temperature": (lambda: top_k_targets(FLAT, 2, ()), "`temperatures`", "(1.0,)"),
    "temperature of 0": (lambda: top_k_targets(FLAT, 2, (1.0, 0.0)), "must be positive"),
    "more kept than the student has": (
        lambda: TopKSoftTargets()(FLAT, FLAT[:, :4], **TOP), "`k` must be", "(2, 5)", "(2, 4)"
    ),
    "kept tokens": (
        lambda: TopKSoftTargets()(TOKENS, TOKENS, **TOP), "TokenTopKSoftTargets"
    ),
    "kept sentences": (lambda: TokenTopKSoftTargets()(FLAT, FLAT, **TOP), "use TopKSoftTargets"),
    "indices that are no ints": (
        lambda: TopKSoftTargets()(FLAT[:, :2], FLAT, **{**TOP, "top_indices": FLAT[:, :2]}),
        "float32",
        "top_k_targets",
    ),
    "other indices than logits": (
        lambda: TopKSoftTargets()(FLAT[:, :3], FLAT, **TOP), "logits (2, 3), indices (2, 2)"
    ),
    "rest of another rank": (
        lambda: TopKSoftTargets()(FLAT[:, :2], FLAT, **{**TOP, "top_rest": np.zeros((2, 1))}),
        "rest (2, 1)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_do_not_match_are_refused_in_one_line(case):
    act, *parts = REFUSED[case]
    with pytest.raises(InputError) as error:
        act()
    assert_one_line(str(error.value), *parts)
