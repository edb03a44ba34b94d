"""The examples in the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_example_of_stages_trains_in_its_stages():
    text = (DOCS / "choosing.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(example, "docs/choosing.md", "exec"), names)  # noqa: S102
    logs = names["distiller"].history.history
    assert len(logs["loss"]) == 3
    # The first stage has one term of weight 1, divided by its own running size.
    assert 0.9 < logs["loss"][0] < 1.1
    assert logs["embedding"][2] < logs["embedding"][0]
    assert {"weight_embedding", "weight_similarity", "weight_ranking"} <= set(logs)
