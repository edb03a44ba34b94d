"""Embeds sentences with an exported student, without TensorFlow and kdkeras.

Requires `pip install ai-edge-litert numpy`, and `sentencepiece` or `tokenizers`
for a WordPiece vocabulary (`vocabulary.kind` in export.json).

    python run_litert.py FOLDER "Guten Morgen" "Good morning"
    python run_litert.py FOLDER --json < sentences.txt
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def load_tokenizer(folder: Path, kind: str, sequence_length: int):  # noqa: ANN201
    """Returns a function from a string to its token ids."""
    if kind == "sentencepiece":
        from sentencepiece import SentencePieceProcessor

        pieces = SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
        return lambda text: pieces.encode(text)[:sequence_length]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(sequence_length)  # Keeps [CLS] and [SEP].
    return lambda text: tokenizer.encode(text).ids


def well_formed(text: str) -> str:
    """Truncates a text at its first NUL and replaces invalid UTF-8 by U+FFFD."""
    return text.partition("\0")[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def read_lines() -> list[str]:
    """Returns the lines of standard input, which end only at newlines."""
    text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape").removesuffix("\n")
    return [line.removesuffix("\r") for line in text.split("\n")] if text else []


def embed(folder: Path, file: str, sentences: list[str]) -> np.ndarray:
    """Returns one embedding per sentence: float32 `(len(sentences), embedding_dim)`."""
    manifest = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    vocabulary = manifest["vocabulary"]
    tokenize = load_tokenizer(folder / "tokenizer", vocabulary["kind"], manifest["sequence_length"])
    interpreter = Interpreter(str(folder / file), num_threads=1)
    rows = []
    for sentence in sentences:
        ids = tokenize(well_formed(sentence))
        # The shortest signature that holds the sentence. All signatures share the weights.
        length, name = min((n, s) for s, n in manifest["signatures"].items() if n >= len(ids))
        token_ids = np.full((1, length), vocabulary["pad_id"], np.int32)
        token_ids[0, : len(ids)] = ids
        padding_mask = np.zeros((1, length), np.int32)
        padding_mask[0, : len(ids)] = 1
        run = interpreter.get_signature_runner(name)
        rows.append(run(token_ids=token_ids, padding_mask=padding_mask)["embedding"][0])
    return np.array(rows)


def similarities(embeddings: np.ndarray) -> np.ndarray:
    """Returns the cosine of every pair of rows."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(lengths, 1e-12)
    return unit @ unit.T


def main() -> None:
    """Parses the arguments and prints a similarity matrix or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder that `kdkeras export` wrote")
    parser.add_argument(
        "sentences", nargs="*", help="sentences (default: the lines of standard input)"
    )
    parser.add_argument(
        "--file", default="model.int8.tflite", help="model in the folder (default: %(default)s)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one {text, embedding} object per line instead of cosines",
    )
    arguments = parser.parse_args()
    for needed in ("export.json", arguments.file):
        if not (arguments.folder / needed).is_file():
            parser.error(
                f"`folder` must contain {needed}. Received: {arguments.folder}. "
                "Pass a folder that `kdkeras export` wrote."
            )
    # Invalid UTF-8 is embedded and printed as U+FFFD.
    sentences = [well_formed(text) for text in arguments.sentences or read_lines()]
    embeddings = embed(arguments.folder, arguments.file, sentences)
    if arguments.json:
        for text, embedding in zip(sentences, embeddings.tolist(), strict=True):
            print(json.dumps({"text": text, "embedding": embedding}, ensure_ascii=False))
        return
    for text, row in zip(sentences, similarities(embeddings), strict=True):
        print(" ".join(f"{value:6.3f}" for value in row), " ", text)


if __name__ == "__main__":
    main()
