"""`kdkeras check-tpu` checks the training step of the user's student and losses."""

from __future__ import annotations

import pytest

from kdkeras.__main__ import main
from kdkeras.data import sample_folder

SMALL = ["--batch-size", "8", "--sequence-length", "16", "--precision", "bfloat16"]
UNTRAINED = ["--vocabulary", str(sample_folder() / "vocabulary"), "--output-dim", "32"]


def test_a_trained_student_passes(command, student):
    result = command("check-tpu", student[0], "--losses", "embedding=2", "ranking=0.5", *SMALL)
    assert result["passed"] == ["bfloat16"]
    assert result["sequence_length"] == 16


def test_an_unsupported_optimizer_is_status_1_and_named_with_its_line(capsys):
    arguments = ["check-tpu", "static_128", *UNTRAINED, "--optimizer", "lazy_adam", *SMALL]
    assert main(arguments) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "in bfloat16. Received: Unique" in line and "optimizers.py:" in line


REFUSED = {
    "size alone": (["tiny"], "without --vocabulary and --output-dim"),
    "vocabulary of a trained student": (["s.keras", *UNTRAINED[:2]], "Omit --vocabulary"),
    "unknown size": (["huge", *UNTRAINED], "'static_256'"),
    "unknown loss": (["static_128", *UNTRAINED, *SMALL, "--losses", "hinge=1"], "'hinge'"),
}


@pytest.mark.parametrize("arguments, message", REFUSED.values(), ids=REFUSED)
def test_arguments_that_do_not_fit_are_refused(arguments, message, capsys):
    assert main(["check-tpu", *arguments]) == 2
    assert message in capsys.readouterr().err
