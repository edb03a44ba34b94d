"""Computes the reference embeddings of the teacher tests with sentence-transformers.

It needs an environment with torch and sentence-transformers (tested with 2.13
and 6.2), which kdkeras does not need. It writes

* `tests/teachers/tiny_bert/{mean,cls}/`: two very small, randomly initialized
  BERT sentence encoders, saved by sentence-transformers. `mean` has mean
  pooling and normalization; `cls` has CLS pooling, a Dense module,
  normalization and another epsilon.
* `tests/teachers/tiny_vectors.json`: their embeddings of real sentences, and
  those of `mean` with max pooling and without normalization.
* `tests/teachers/reference_vectors.json`: the embeddings of all-MiniLM-L6-v2
  of the same sentences and of sentences of the bundled sample.

The trainer of the tokenizer breaks ties randomly, so every run creates other
tiny encoders: commit all files together.

    python scripts/make_reference_vectors.py --teacher all-MiniLM-L6-v2 --sentences en-de.tsv.gz
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

TESTS = Path(__file__).parents[1] / "tests" / "teachers"
VOCABULARY_SIZE = 600


def read_sentences(path: Path) -> tuple[list[str], list[str]]:
    """Returns both sides of a parallel file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t")[:2] for line in file]
    return [row[0] for row in rows], [row[1] for row in rows]


def choose(english: list[str], german: list[str]) -> list[str]:
    """Returns a dozen sentences of various lengths, and two long ones.

    The last one is longer than 256 tokens.
    """
    by_length = sorted(set(english), key=lambda text: (len(text), text))
    places = np.linspace(0, len(by_length) - 1, 10).astype(int)
    chosen = [by_length[place] for place in places] + german[1000:60000:25000]
    return [*chosen, " ".join(by_length[-3:]), " ".join(by_length[-12:])]


def train_tokenizer(sentences: list[str]) -> tokenizers.Tokenizer:
    """Returns a BERT WordPiece tokenizer."""
    tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(sentences, vocab_size=VOCABULARY_SIZE, show_progress=False)
    return tokenizer


def make_tiny(folder: Path, tokenizer: tokenizers.Tokenizer, kind: str, seed: int) -> None:
    """Saves a tiny sentence encoder."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        # Large enough for a measurable difference between gelu and its approximation.
        initializer_range=0.4,
        layer_norm_eps=1e-7 if kind == "cls" else 1e-12,
    )
    with tempfile.TemporaryDirectory() as name:
        transformers.BertModel(config).save_pretrained(name)
        tokenizer.save_model(name)
        transformers.BertTokenizerFast(vocab=str(Path(name) / "vocab.txt")).save_pretrained(name)
        transformer = Transformer(name, max_seq_length=48)
        modules = [transformer, Pooling(32, kind)]
        modules += [Dense(32, 24), Normalize()] if kind == "cls" else [Normalize()]
        model = SentenceTransformer(modules=modules, device="cpu")
        with torch.no_grad():
            for key, value in model[0].named_parameters():
                if "LayerNorm" in key or "bias" in key:
                    value.add_(torch.randn_like(value) * 0.2)
        shutil.rmtree(folder, ignore_errors=True)
        model.save(str(folder))
    for extra in folder.glob("README.md"):
        extra.unlink()


def rounded(vectors: np.ndarray) -> list[list[float]]:
    """Returns values with nine digits, which represent every float32 exactly."""
    return [[float(f"{value:.9g}") for value in row] for row in vectors]


def encode(folder: Path, sentences: list[str]) -> list[list[float]]:
    """Returns the embeddings of sentence-transformers."""
    return rounded(SentenceTransformer(str(folder), device="cpu").encode(sentences))


def encode_max(folder: Path, sentences: list[str]) -> list[list[float]]:
    """Returns the embeddings with max pooling and without normalization."""
    modules = [SentenceTransformer(str(folder), device="cpu")[0], Pooling(32, "max")]
    return rounded(SentenceTransformer(modules=modules, device="cpu").encode(sentences))


def main() -> None:
    """Writes all files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument(
        "--sentences", type=Path, required=True, help="English-German corpus, .tsv.gz"
    )
    parser.add_argument(
        "--sample", type=Path, help="text file with sentences of the bundled sample, one per line"
    )
    arguments = parser.parse_args()
    english, german = read_sentences(arguments.sentences)
    sentences = choose(english, german)
    tokenizer = train_tokenizer(english[::10] + german[::20])
    tiny = {}
    for seed, kind in enumerate(("mean", "cls")):
        make_tiny(TESTS / "tiny_bert" / kind, tokenizer, kind, seed)
        tiny[kind] = encode(TESTS / "tiny_bert" / kind, sentences)
    tiny["max"] = encode_max(TESTS / "tiny_bert" / "mean", sentences)
    write(TESTS / "tiny_vectors.json", {"sentences": sentences, "vectors": tiny})
    sample = arguments.sample.read_text("utf-8").splitlines() if arguments.sample else []
    found = encode(arguments.teacher, [*sentences, *sample])
    write(
        TESTS / "reference_vectors.json",
        {
            "model": "sentence-transformers/all-MiniLM-L6-v2",
            "sentences": sentences,
            "vectors": found[: len(sentences)],
            "sample_sentences": sample,
            "sample_vectors": found[len(sentences) :],
        },
    )


def write(path: Path, content: dict[str, object]) -> None:
    """Writes JSON with one embedding per line."""
    text = json.dumps(content, ensure_ascii=False).replace("], [", "],\n[")
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
