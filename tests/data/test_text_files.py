"""Reading lines, rows and translation pairs."""

from __future__ import annotations

import gzip
import unicodedata

import pytest

from kdkeras.data import read_translation_pairs
from kdkeras.data.text_files import read_translations
from kdkeras.errors import InputError

ROWS = "Geh.\tGo.\nMir ist kalt.\tI'm cold.\n"
PAIRS = (["Geh.", "Mir ist kalt."], ["Go.", "I'm cold."])


def write(path, text):
    data = text.encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["de.tsv", "deu-eng.tsv.gz"])
def test_translations_are_aligned(tmp_path, name):
    assert read_translations(write(tmp_path / name, ROWS)) == PAIRS


@pytest.mark.parametrize(
    "text",
    [
        "\n" + ROWS.replace("\n", "\n\n"),
        ROWS.replace("\n", "\tCC BY\n"),
        "\ufeff" + ROWS.replace("\n", "\r\n"),
        unicodedata.normalize("NFD", ROWS).replace("\t", " \t "),
    ],
    ids=["blank lines", "third column", "Windows", "NFD and spaces"],
)
def test_variants_of_a_file_give_equal_translations(tmp_path, text):
    assert read_translations(write(tmp_path / "de.tsv", text)) == PAIRS


def test_text_is_normalized_to_nfc(tmp_path):
    path = write(tmp_path / "fr.tsv", unicodedata.normalize("NFD", "Tom a gagné.\tTom won.\n"))
    assert read_translations(path) == (["Tom a gagné."], ["Tom won."])


@pytest.mark.parametrize("row", ["Geh.", "Geh.\t", "\tGo."])
def test_incomplete_row_is_rejected_with_its_line(tmp_path, row):
    path = write(tmp_path / "de.tsv", f"{ROWS}{row}\n")
    with pytest.raises(InputError, match="`foreign<TAB>English`.*line 3: ") as error:
        read_translations(path)
    assert str(path) in str(error.value) and repr(row) in str(error.value)


def test_missing_empty_and_wrongly_encoded_files_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"exist and be readable.*absent\.tsv"):
        read_translations(tmp_path / "absent.tsv")
    with pytest.raises(InputError, match=r"at least one row.*de\.tsv, empty"):
        read_translations(write(tmp_path / "de.tsv", "\n"))
    (tmp_path / "latin.tsv").write_bytes("Er übernahm die Unkosten.\tHe".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8.*line 1"):
        read_translations(tmp_path / "latin.tsv")


def test_folder_is_read_by_language(tmp_path):
    write(tmp_path / "de.tsv", ROWS)
    write(tmp_path / "fr.tsv.gz", "Va !\tGo.\n")
    write(tmp_path / "README.md", "not a file of translations")
    assert read_translation_pairs(tmp_path) == {"de": PAIRS, "fr": (["Va !"], ["Go."])}


def test_folder_without_files_is_rejected(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="must contain files like"):
            read_translation_pairs(folder)
