"""Truncated encoders."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import assert_one_line
from tatoeba_sentences import ENGLISH, GERMAN

from kdkeras.errors import InputError
from kdkeras.evaluation import TranslationEvaluator, TruncatedEncoder


class Table:
    """A sentence and its translation agree in components 0 to 2 and are opposed in 3 to 5."""

    def encode(self, texts):
        rows = []
        for text in texts:
            side, sign = (GERMAN, 1) if text in GERMAN else (ENGLISH, -1)
            vector = np.random.default_rng(side.index(text)).normal(size=3)
            rows.append([*vector, *(5 * sign * vector)])
        return np.array(rows)


def test_evaluators_use_the_first_components_only():
    evaluate = TranslationEvaluator("pairs", GERMAN[:10], ENGLISH[:10])
    assert evaluate(TruncatedEncoder(Table(), 3))["pairs_accuracy"] == 1.0
    assert evaluate(TruncatedEncoder(Table(), 6)) == evaluate(Table())
    assert evaluate(Table())["pairs_accuracy"] < 0.5


def test_width_out_of_range_is_rejected():
    with pytest.raises(InputError) as error:
        TruncatedEncoder(Table(), 0)
    assert_one_line(str(error.value), "`dim` must be at least 1", "dim=0")
    with pytest.raises(InputError) as error:
        TruncatedEncoder(Table(), 7).encode(GERMAN[:2])
    assert_one_line(str(error.value), "width of the embeddings, 6", "dim=7")
