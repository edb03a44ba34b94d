"""Evaluation files, good and bad."""

from __future__ import annotations

import gzip

import pytest
from tatoeba_sentences import PAIRS

from kdkeras import InputError, data
from kdkeras.evaluation import EmbeddingSimilarityEvaluator, TranslationEvaluator


def write(path, rows):
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


@pytest.mark.parametrize("name", ["de-en.test.tsv", "de-en.test.tsv.gz"])
def test_similarity_files_are_read(tmp_path, name):
    rows = [(*pair, score / 2) for score, pair in enumerate(PAIRS)]
    evaluator = EmbeddingSimilarityEvaluator.from_tsv(write(tmp_path / name, rows))
    assert evaluator.name == "de_en_test"
    assert list(zip(evaluator.sentences1, evaluator.sentences2, strict=True)) == PAIRS
    assert evaluator.scores.tolist() == [score / 2 for score in range(12)]


def test_retrieval_files_are_read(tmp_path):
    evaluator = TranslationEvaluator.from_tsv(write(tmp_path / "deu-eng.tsv.gz", PAIRS))
    assert evaluator.name == "deu_eng"
    assert list(zip(evaluator.foreign, evaluator.english, strict=True)) == PAIRS
    assert (
        TranslationEvaluator.from_tsv(tmp_path / "deu-eng.tsv.gz", name="tatoeba_deu").name
        == "tatoeba_deu"
    )


def test_blank_lines_do_not_shift_the_pairs(tmp_path):
    path = write(tmp_path / "de.tsv", [PAIRS[0], (), PAIRS[1]])
    assert TranslationEvaluator.from_tsv(path).english == [PAIRS[0][1], PAIRS[1][1]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(*PAIRS[0], 3), PAIRS[1]], "sentence<TAB>sentence<TAB>score.*line 2"),
        ([(*PAIRS[0], 3), (*PAIRS[1], "high")], "line 2: 'high'"),
        ([(*PAIRS[0], "nan")], "finite number.*line 1: 'nan'"),
        ([(PAIRS[0][0], "", 3)], "line 1"),
        ([], "at least one row"),
    ],
    ids=["no score", "a word", "nan", "empty sentence", "empty file"],
)
def test_bad_similarity_rows_are_named(tmp_path, rows, message):
    path = write(tmp_path / "bad.tsv", rows)
    with pytest.raises(InputError, match=message) as caught:
        EmbeddingSimilarityEvaluator.from_tsv(path)
    assert str(path) in str(caught.value)


def test_a_row_without_a_tab_is_named(tmp_path):
    path = write(tmp_path / "bad.tsv", [PAIRS[0], ("Es besteht noch Hoffnung.",)])
    with pytest.raises(InputError, match="foreign<TAB>English.*line 2: 'Es besteht"):
        TranslationEvaluator.from_tsv(path)


def test_missing_and_wrongly_encoded_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"exist and be readable.*absent\.tsv"):
        TranslationEvaluator.from_tsv(tmp_path / "absent.tsv")
    (tmp_path / "latin.tsv").write_bytes("Er übernahm die Unkosten.\tHe".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8.*line 1"):
        EmbeddingSimilarityEvaluator.from_tsv(tmp_path / "latin.tsv")


def test_the_bundled_held_out_files_are_read_as_the_data_stage_reads_them():
    folder = data.sample_folder() / "held_out"
    pairs = data.read_translation_pairs(folder)
    assert len(pairs) >= 12
    for language, (foreign, english) in pairs.items():
        evaluator = TranslationEvaluator.from_tsv(
            folder / f"{language}.tsv", name=f"held_out_{language}"
        )
        assert (evaluator.foreign, evaluator.english) == (list(foreign), list(english))
