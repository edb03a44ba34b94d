"""The examples in the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import keras

DOCS = Path(__file__).parents[1] / "docs"


def run_example(section):
    """Runs the one example of a section; returns its names."""
    text = (DOCS / "choosing.md").read_text("utf-8")
    part = text.partition(f"{section}\n")[2].partition("\n##")[0]
    (example,) = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    names = {}
    exec(compile(example, "docs/choosing.md", "exec"), names)  # noqa: S102
    return names


def test_the_example_of_stages_trains_in_its_stages():
    keras.utils.set_random_seed(0)
    names = run_example("## Stages")
    logs = names["distiller"].history.history
    assert len(logs["loss"]) == 3
    # The first stage has one term of weight 1, divided by what it was a little before.
    assert 0.8 < logs["loss"][0] < 1.0
    assert logs["embedding"][2] < logs["embedding"][0]
    assert len(logs["ranking"]) == 2 and logs["weight_similarity"][1] == 0.0


def test_the_example_with_kerass_own_distiller_trains_both_ways():
    names = run_example("### With Keras' own Distiller")
    for distiller in (names["stock"], names["ours"]):
        assert int(distiller.optimizer.iterations) == 2
