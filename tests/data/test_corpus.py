"""Reading corpora: formats, cleaning, merging, counting and errors."""

from __future__ import annotations

import gzip
import unicodedata

import pytest

from kdkeras.data import SentenceGroup, read_corpus
from kdkeras.errors import InputError

# Rows of Tatoeba.
GERMAN = [
    ("Go.", "Geh."),
    ("I'm cold.", "Mir ist kalt."),
    ("Tom won.", "Tom hat gewonnen."),
    ("I like it.", "Ich mag das."),
]
FRENCH = [("Go.", "Va !"), ("I'm cold.", "J'ai froid."), ("Tom won.", "Tom a gagné.")]


def tsv(path, rows):
    text = "".join("\t".join(row) + "\n" for row in rows)
    data = text.encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(files, **arguments):
    return read_corpus(files, min_pairs=1, **arguments)


@pytest.mark.parametrize("name", ["en-de.tsv", "en-de.tsv.gz", "tatoeba.en-de.tsv"])
def test_tsv_is_read_with_the_languages_of_its_name(tmp_path, name):
    groups, report = read(tsv(tmp_path / name, GERMAN))
    assert groups[0] == SentenceGroup("Go.", "en", ("Geh.",), ("de",))
    assert (report.rows, report.kept, report.groups, report.pairs) == (4, 4, 4, {"de": 4})


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("side", ["en", "de"])
def test_moses_corpus_is_found_by_either_side(tmp_path, ending, side):
    for column, language in enumerate(("en", "de")):
        tsv(tmp_path / f"corpus.en-de.{language}{ending}", [(row[column],) for row in GERMAN])
    groups, _ = read(tmp_path / f"corpus.en-de.{side}{ending}")
    assert [(g.source, g.translations[0]) for g in groups] == GERMAN
    assert {(g.source_language, g.languages) for g in groups} == {("en", ("de",))}


def test_both_sides_of_a_moses_corpus_are_read_once(tmp_path):
    for column, language in enumerate(("en", "de")):
        tsv(tmp_path / f"c.en-de.{language}", [(row[column],) for row in GERMAN])
    _, report = read([tmp_path / "c.en-de.en", tmp_path / "c.en-de.de"])
    assert report.rows == 4


def test_given_languages_override_the_name(tmp_path):
    tsv(tmp_path / "pairs.txt", GERMAN)
    tsv(tmp_path / "europarl.en", [(source,) for source, _ in GERMAN])
    tsv(tmp_path / "europarl.de", [(translation,) for _, translation in GERMAN])
    for path in ("pairs.txt", "europarl"):
        groups, report = read([(tmp_path / path, "en", "de")])
        assert groups[3] == SentenceGroup("I like it.", "en", ("Ich mag das.",), ("de",))
        assert report.pairs == {"de": 4}


def test_folder_stands_for_its_tsv_files(tmp_path):
    tsv(tmp_path / "en-de.tsv", GERMAN)
    tsv(tmp_path / "en-fr.tsv.gz", FRENCH)
    (tmp_path / "README").write_text("not a corpus")
    assert read(tmp_path)[1].pairs == {"de": 4, "fr": 3}


def test_duplicates_are_merged_into_groups(tmp_path):
    files = [
        tsv(tmp_path / "en-de.tsv", [*GERMAN, ("Go.", "Geht!"), ("Go.", "Geh.")]),
        tsv(tmp_path / "en-fr.tsv", FRENCH),
    ]
    groups, report = read(files)
    assert groups[0] == SentenceGroup("Go.", "en", ("Geh.", "Geht!", "Va !"), ("de", "de", "fr"))
    assert (report.groups, report.kept, report.dropped["duplicate"]) == (4, 8, 1)
    assert report.rows == report.kept + sum(report.dropped.values())


def test_text_is_normalized_to_nfc_and_stripped(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Tom a gagné.")
    groups, report = read(tsv(tmp_path / "en-fr.tsv", [*FRENCH, (" Tom won. ", decomposed + " ")]))
    assert groups[2].translations == ("Tom a gagné.",)
    assert report.dropped["duplicate"] == 1


def test_byte_order_mark_carriage_return_and_further_columns_are_ignored(tmp_path):
    path = tmp_path / "en-de.tsv"
    path.write_bytes("\ufeffGo.\tGeh.\tCC-BY 2.0\r\nI'm cold.\tMir ist kalt.\r\n".encode())
    assert [(g.source, g.translations) for g in read(path)[0]] == [
        ("Go.", ("Geh.",)),
        ("I'm cold.", ("Mir ist kalt.",)),
    ]


def test_empty_and_over_long_rows_are_dropped_and_counted(tmp_path):
    rows = [*GERMAN, ("Hi.", ""), (" ", "Hallo."), ("",), ("Run!", "Lauf! " * 40)]
    _, report = read(tsv(tmp_path / "en-de.tsv", rows), max_characters=100)
    assert report.dropped == {"empty": 3, "over_long": 1, "duplicate": 0, "excluded": 0}
    assert (report.rows, report.kept) == (8, 4)
    assert report.to_dict()["dropped"]["over_long"] == 1


@pytest.mark.parametrize(
    "row",
    [("Go.", "x"), ("x", "Geh."), ("0.5", "x", "Go."), ("Geh. ",)],
    ids=["source", "translation", "third column", "one column"],
)
def test_exclude_removes_pairs_that_share_either_side(tmp_path, row):
    test_set = tsv(tmp_path / "test.tsv.gz", [row])
    groups, report = read(tsv(tmp_path / "en-de.tsv", GERMAN), exclude=[test_set])
    assert "Go." not in {group.source for group in groups}
    assert (report.dropped["excluded"], report.kept) == (1, 3)


def test_exclude_compares_normalized_text(tmp_path):
    test_set = tsv(tmp_path / "t.tsv", [(unicodedata.normalize("NFD", " Tom a gagné."),)])
    _, report = read(tsv(tmp_path / "en-fr.tsv", FRENCH), exclude=[test_set])
    assert report.dropped["excluded"] == 1


def refusal(call, *arguments, **keywords):
    """Returns the message of the error that a call must raise."""
    with pytest.raises(InputError) as error:
        call(*arguments, **keywords)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_file_is_named(tmp_path):
    message = refusal(read, tmp_path / "en-de.tsv")
    assert str(tmp_path / "en-de.tsv") in message
    assert "No such file" in message


def test_missing_exclude_file_is_named(tmp_path):
    path = tsv(tmp_path / "en-de.tsv", GERMAN)
    assert "test.tsv" in refusal(read, path, exclude=[tmp_path / "test.tsv"])


def test_row_without_tab_is_named_with_its_line(tmp_path):
    path = tsv(tmp_path / "en-de.tsv", [*GERMAN, ("Hello!",)])
    assert f"{path}, line 5: 'Hello!'" in refusal(read, path)


def test_wrong_encoding_is_named_with_its_line(tmp_path):
    path = tmp_path / "en-fr.tsv"
    path.write_bytes("Go.\tVa !\nTom won.\tTom a gagné.\n".encode("latin-1"))
    message = refusal(read, path)
    assert f"{path}, line 2 (byte 0xe9)" in message


@pytest.mark.parametrize("damage", ["truncated", "not gzip"])
def test_damaged_gzip_is_named(tmp_path, damage):
    path = tsv(tmp_path / "en-de.tsv.gz", GERMAN * 500)
    path.write_bytes(path.read_bytes()[:-20] if damage == "truncated" else b"Go.\tGeh.\n")
    assert str(path) in refusal(read, path)


@pytest.mark.parametrize("rows", [[], [("", "Geh.")]])
def test_empty_corpus_is_rejected(tmp_path, rows):
    message = refusal(read, tsv(tmp_path / "en-de.tsv", rows))
    assert "at least one pair" in message
    assert f"{len(rows)} rows" in message


def test_language_with_too_few_pairs_is_named(tmp_path):
    files = [tsv(tmp_path / "en-de.tsv", GERMAN), tsv(tmp_path / "en-fr.tsv", FRENCH)]
    message = refusal(read_corpus, files, min_pairs=4)
    assert "fr (3)" in message
    assert "de (" not in message
    assert refusal(read_corpus, files).count("min_pairs=10") == 1


def test_moses_sides_of_different_length_are_rejected(tmp_path):
    tsv(tmp_path / "c.en-de.en", [(source,) for source, _ in GERMAN])
    tsv(tmp_path / "c.en-de.de", [(translation,) for _, translation in GERMAN[:3]])
    assert "c.en-de.de ends after line 3" in refusal(read, tmp_path / "c.en-de.en")


def test_moses_side_missing_is_named(tmp_path):
    tsv(tmp_path / "c.en-de.en", [(source,) for source, _ in GERMAN])
    assert "without c.en-de.de in the same folder" in refusal(read, tmp_path / "c.en-de.en")


@pytest.mark.parametrize("name", ["german.tsv", "c.en-de.fr", "en-de.csv"])
def test_name_without_languages_is_rejected(tmp_path, name):
    assert "must contain its languages" in refusal(read, tsv(tmp_path / name, GERMAN))


def test_folder_without_corpus_and_no_files_are_rejected(tmp_path):
    assert "must contain files named like" in refusal(read, tmp_path)
    assert "needs at least one file" in refusal(read, [])
