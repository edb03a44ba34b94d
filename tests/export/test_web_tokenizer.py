"""The tokenizers of the web page, in Node, compared with the Python libraries."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from edge_tools import node

from kdkeras.export.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "export" / "web" / "tokenize.mjs"
RELEASED = ROOT / "savedmodels" / "static-multilingual-28" / "tokenizer"
SEQUENCE_LENGTH = 40
ODD = {
    "nothing": "",
    "spaces": "  \t \n\u3000 ",
    "ten thousand words": "word " * 10_000,
    "one long word": "x" * 500,
    "long Thai": "\u0e01\u0e33" * 60,
    "NUL": "a\0b \0",
    "half a character": "Köln \ud83d ok \ude00",
    "invisible": "\u200ba\u200b \ufeffb\u00ad",
    "emoji": "👨‍👩‍👧 🏳️‍🌈😀 ok",
    "unknown script": "ꙮ𐍈𐍈 a𐍈 𒀀𒀁",
    "decomposed": "e\u0301 A\u030a \u1112\u1161\u11ab",
    "compatibility": "ﬁne Ⅷ ㌕ ﷺ １２ ａｂ ～",
    "case": "İstanbul ẞ ß Σς TOM",
    "signs": "a.b,c!? «d»—e ▁ f▁ \ufffd $5+3=8 [SEP] ##a",
    "new punctuation": "a\u1b4eb \U00011be1",
}


@pytest.fixture(params=["released", "sentencepiece", "wordpiece"])
def student(request, tmp_path):
    """A folder with a tokenizer and `export.json`, and the kind of the vocabulary."""
    if request.param == "released":
        folder, kind = RELEASED, "sentencepiece"
    else:
        names = {"sentencepiece": "unigram", "wordpiece": "wordpiece"}
        vocabulary = request.getfixturevalue(names[request.param])
        folder, kind = tmp_path / "tokenizer", str(vocabulary.kind)
        vocabulary.save(folder)
    manifest = {"sequence_length": SEQUENCE_LENGTH, "vocabulary": {"kind": kind}}
    (tmp_path / "export.json").write_text(json.dumps(manifest))
    if not (tmp_path / "tokenizer").exists():
        (tmp_path / "tokenizer").symlink_to(folder)
    return tmp_path, kind


def page_ids(folder, texts):
    command = [node(), str(SCRIPT), str(folder)]
    result = subprocess.run(
        command, input=json.dumps(texts), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_ids_equal_those_of_the_python_libraries(student, sentences, held_out):
    folder, kind = student
    texts = [*sentences, *ODD.values()]
    for foreign, english in held_out.values():
        texts += [*foreign, *english]
    expected = load_tokenizer(folder / "tokenizer", kind, SEQUENCE_LENGTH)(texts)
    found = page_ids(folder, texts)
    assert len(found) == len(texts) > 5000
    different = [t for t, a, b in zip(texts, found, expected, strict=True) if a != b]
    assert different == []


def test_damaged_sentencepiece_model_is_refused(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    model = (RELEASED / "sentencepiece.model").read_bytes()
    (tmp_path / "tokenizer" / "sentencepiece.model").write_bytes(model[: len(model) // 2])
    manifest = {"sequence_length": 8, "vocabulary": {"kind": "sentencepiece"}}
    (tmp_path / "export.json").write_text(json.dumps(manifest))
    command = [node(), str(SCRIPT), str(tmp_path)]
    result = subprocess.run(command, input="[]", capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert (
        "sentencepiece.model is not a SentencePiece model: it ends within a field." in result.stderr
    )
