/** Converts a text to the token ids of a student. */

import { Problem } from "./problem.js";
import { SentencePiece } from "./sentencepiece.js";
import { WordPiece } from "./wordpiece.js";

/** Kind of vocabulary to its file. */
export const TOKENIZER_FILES = {
  sentencepiece: "tokenizer/sentencepiece.model",
  wordpiece: "tokenizer/vocab.txt",
};

/**
 * @param {object} manifest The student's `export.json`.
 * @param {(file: string) => Uint8Array | Promise<Uint8Array>} read Reads a file of the student.
 * @returns {Promise<(text: string) => number[]>} Token ids, truncated at the same token as in all artifacts.
 */
export async function loadTokenizer(manifest, read) {
  const { kind } = manifest.vocabulary;
  const limit = manifest.sequence_length;
  const file = TOKENIZER_FILES[kind];
  if (file === undefined) {
    throw new Problem(
      `This page does not support vocabularies of kind “${kind}”.`,
      "Export the student and prepare this page with the same version of kdkeras.",
    );
  }
  const bytes = await read(file);
  if (kind === "wordpiece") {
    const tokenizer = new WordPiece(bytes);
    return (text) => tokenizer.encode(wellFormed(text), limit);
  }
  const tokenizer = new SentencePiece(bytes);
  return (text) => tokenizer.encode(wellFormed(text)).slice(0, limit);
}

/** Truncates a text at its first NUL and replaces lone surrogates by U+FFFD, as all runtimes do. */
function wellFormed(text) {
  return text.split("\0", 1)[0].replace(/\p{Surrogate}/gu, "\ufffd");
}
