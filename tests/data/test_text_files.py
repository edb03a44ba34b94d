"""Held-out pairs for retrieval."""

from __future__ import annotations

import unicodedata

import pytest

from kdkeras.data import read_translation_pairs
from kdkeras.errors import InputError


def test_pairs_are_read_by_language_in_order(tmp_path):
    (tmp_path / "de.tsv").write_text("Geh.\tGo.\nMir ist kalt.\tI'm cold.\n")
    (tmp_path / "fr.tsv").write_text(unicodedata.normalize("NFD", "Tom a gagné.") + "\tTom won.\n")
    assert read_translation_pairs(tmp_path) == {
        "de": (["Geh.", "Mir ist kalt."], ["Go.", "I'm cold."]),
        "fr": (["Tom a gagné."], ["Tom won."]),
    }


@pytest.mark.parametrize("row", ["Geh.", "Geh.\t", "\tGo."])
def test_half_a_row_is_named_with_its_line(tmp_path, row):
    (tmp_path / "de.tsv").write_text(f"Geh.\tGo.\n{row}\n")
    with pytest.raises(InputError, match=r"de\.tsv, line 2"):
        read_translation_pairs(tmp_path)


def test_no_file_and_empty_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="must contain files like"):
        read_translation_pairs(tmp_path / "missing")
    (tmp_path / "de.tsv").touch()
    with pytest.raises(InputError, match=r"de\.tsv, empty"):
        read_translation_pairs(tmp_path)
