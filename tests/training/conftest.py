"""A small distillation set of real sentences, with its vocabulary."""

from __future__ import annotations

import pytest

from kdkeras.data import sample_folder, train_vocabulary, write_distillation_set


@pytest.fixture(scope="session")
def small_set(tiny_teacher, tmp_path_factory):
    """Two languages of the bundled held-out pairs, English as the source."""
    folder = tmp_path_factory.mktemp("small")
    files = []
    for language in ("de", "ru"):
        rows = (sample_folder() / "held_out" / f"{language}.tsv").read_text("utf-8").splitlines()
        swapped = ["\t".join(reversed(row.split("\t"))) for row in rows]
        files.append(folder / f"en-{language}.tsv")
        files[-1].write_text("\n".join(swapped) + "\n", "utf-8")
    return write_distillation_set(files, tiny_teacher, folder / "set")


@pytest.fixture(scope="session")
def small_vocabulary(small_set):
    return train_vocabulary(small_set, size=600)
