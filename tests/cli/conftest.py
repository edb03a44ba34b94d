"""One small project, made by the commands themselves, that the tests share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdkeras.__main__ import main

TEACHERS = Path(__file__).parents[1] / "teachers" / "tiny_bert"


def held_out_folder():
    from kdkeras.data import sample_folder

    return sample_folder() / "held_out"


@pytest.fixture(scope="session")
def command(request):
    """Runs a command in this process; gives its result."""

    def run(*arguments):
        import contextlib
        import io

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([*map(str, arguments), "--json"])
        assert status == 0, err.getvalue()
        return json.loads(out.getvalue())

    return run


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="session")
def corpus(project):
    """Real sentences: the bundled held-out pairs, English first."""
    files = []
    for language in ("de", "ru"):
        rows = (held_out_folder() / f"{language}.tsv").read_text("utf-8").splitlines()
        swapped = ["\t".join(reversed(row.split("\t"))) for row in rows]
        files.append(project / f"en-{language}.tsv")
        files[-1].write_text("\n".join(swapped) + "\n", "utf-8")
    return files


@pytest.fixture(scope="session")
def targets(command, corpus, project):
    folder = project / "set"
    result = command("targets", *corpus, "--teacher", TEACHERS / "mean", "--output", folder)
    return folder, result


@pytest.fixture(scope="session")
def vocabulary(command, targets, project):
    folder = project / "vocabulary"
    result = command("vocabulary", targets[0], "--size", 600, "--output", folder)
    return folder, result


@pytest.fixture(scope="session")
def student(command, targets, vocabulary, project):
    path = project / "student.keras"
    options = ["--student", "static_128", "--batch-size", 16, "--steps", 40]
    result = command(
        *("distill", targets[0], "--vocabulary", vocabulary[0], "--output", path, *options),
        *("--start", "random", "--checkpoint-every", 10),
    )
    return path, result
