"""`--help` is fast and complete."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from kdkeras.__main__ import main
from kdkeras.cli.parser import COMMANDS, build_parser
from kdkeras.recipe import Recipe


def test_help_takes_less_than_half_a_second():
    # CPU time: the machine may be busy.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "kdkeras", "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert output.stdout.startswith("usage: kdkeras")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_its_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: kdkeras {name} ")


def test_help_imports_neither_tensorflow_nor_keras_nor_rich():
    code = (
        "import sys\nfrom kdkeras.__main__ import main\n"
        "try:\n    main(['distill', '--help'])\nexcept SystemExit: pass\n"
        "heavy = ('tensorflow', 'keras', 'numpy', 'rich')\n"
        "sys.stderr.write(str([n for n in heavy if n in sys.modules]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stderr == "[]"


def test_help_states_units_and_defaults(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["distill", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    losses = " ".join(f"{name}={value:g}" for name, value in Recipe().loss_weights.items())
    assert f"pairs per step (default: {Recipe.batch_size})" in text
    assert f"(default: {losses})" in text
    assert "None" not in text and "[0, 1]" not in text


def test_every_option_is_explained():
    subparsers = build_parser()._subparsers._group_actions[0].choices
    missing = [
        f"{name} {action.dest}"
        for name, parser in subparsers.items()
        for action in parser._actions
        if not action.help
    ]
    assert missing == []


def test_help_names_all_formats_and_sizes():
    from kdkeras.cli.export import FORMATS
    from kdkeras.export import ExportFormat
    from kdkeras.students import SIZES

    text = build_parser()._subparsers._group_actions[0].choices["distill"].format_help()
    assert sorted(ExportFormat) == sorted(FORMATS)
    assert all(name in text for name in SIZES)


def test_version_is_printed(capsys):
    import kdkeras

    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"kdkeras {kdkeras.__version__}"


def test_another_backend_is_one_line_and_status_2():
    output = subprocess.run(
        [sys.executable, "-m", "kdkeras", "evaluate", "x.keras", "--sts", "y.tsv"],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert output.returncode == 2
    assert output.stderr.count("\n") == 1
    assert output.stderr.startswith("kdkeras: error: ")
    assert "KERAS_BACKEND=jax" in output.stderr and "tensorflow" in output.stderr
