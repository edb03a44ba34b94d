"""The examples in the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import keras

DOCS = Path(__file__).parents[1] / "docs"


def test_the_example_of_stages_trains_in_its_stages():
    text = (DOCS / "choosing.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    keras.utils.set_random_seed(0)
    names = {}
    exec(compile(example, "docs/choosing.md", "exec"), names)  # noqa: S102
    logs = names["distiller"].history.history
    assert len(logs["loss"]) == 3
    # The first stage has one term of weight 1, divided by what it was a little before.
    assert 0.8 < logs["loss"][0] < 1.0
    assert logs["embedding"][2] < logs["embedding"][0]
    assert len(logs["ranking"]) == 2 and logs["weight_similarity"][1] == 0.0
