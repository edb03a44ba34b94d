"""What a width is worth, by any evaluator."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import assert_one_line
from tatoeba_sentences import ENGLISH, GERMAN

from kdkeras.errors import InputError
from kdkeras.evaluation import TranslationEvaluator, TruncatedEncoder


class Table:
    """Sentence and translation have equal first three components; the rest, larger, are opposed."""

    def encode(self, texts):
        sides = [(1, GERMAN) if text in GERMAN else (-1, ENGLISH) for text in texts]
        rows = [
            np.random.default_rng(side.index(text)).normal(size=3)
            for text, (_, side) in zip(texts, sides, strict=True)
        ]
        return np.array(
            [[*row, *(5 * sign * row)] for row, (sign, _) in zip(rows, sides, strict=True)]
        )


def test_evaluators_see_the_first_components_alone():
    evaluate = TranslationEvaluator("pairs", GERMAN[:10], ENGLISH[:10])
    assert evaluate(TruncatedEncoder(Table(), 3))["pairs_accuracy"] == 1.0
    assert evaluate(TruncatedEncoder(Table(), 6)) == evaluate(Table())
    assert evaluate(Table())["pairs_accuracy"] < 0.5


def test_widths_that_are_not_there_are_refused():
    with pytest.raises(InputError) as error:
        TruncatedEncoder(Table(), 0)
    assert_one_line(str(error.value), "`dim` must be at least 1", "dim=0")
    with pytest.raises(InputError) as error:
        TruncatedEncoder(Table(), 7).encode(GERMAN[:2])
    assert_one_line(str(error.value), "width of the embeddings, 6", "dim=7")
