/** WordPiece tokenization of kdkeras' vocabularies, which lowercase only ASCII letters. */

import { Problem } from "./problem.js";

const LONGEST_WORD = 100; // bytes
const SPACE = /[\t\n\f\r ]+/u;
// ASCII symbols, Unicode punctuation and ideographs, which are separate tokens. Punctuation that
// was added to Unicode after the version in mobile runtimes is treated as letters, as they do.
const ALONE = new RegExp(
  "(?![\\u1B4E\\u1B4F\\u1B7F\\u{10D6E}\\u{113D4}\\u{113D5}\\u{113D7}\\u{113D8}\\u{11BE1}" +
    "\\u{16D6D}-\\u{16D6F}\\u{1E5FF}])" +
    "[!-/:-@\\[-`{-~\\p{P}\\u4E00-\\u9FFF\\u3400-\\u4DBF\\u{20000}-\\u{2A6DF}" +
    "\\u{2A700}-\\u{2B73F}\\u{2B740}-\\u{2B81F}\\u{2B820}-\\u{2CEAF}\\uF900-\\uFAFF" +
    "\\u{2F800}-\\u{2FA1F}]",
  "gu",
);
const utf8 = new TextEncoder();

export class WordPiece {
  /**
   * @param {Uint8Array} bytes A `vocab.txt` with one token per line.
   * @throws {Problem} If a required special token is missing.
   */
  constructor(bytes) {
    const tokens = new TextDecoder().decode(bytes).replace(/\n$/, "").split("\n");
    this.ids = new Map(tokens.map((token, id) => [token, id]));
    [this.unknown, this.start, this.end] = ["[UNK]", "[CLS]", "[SEP]"].map((token) => {
      if (this.ids.has(token)) return this.ids.get(token);
      throw new Problem(
        `The file tokenizer/vocab.txt is not a WordPiece vocabulary: ${token} is missing.`,
        "Export the student again and prepare this page with the new folder.",
      );
    });
  }

  /**
   * @param {number} limit Maximum number of tokens, including `[CLS]` and `[SEP]`.
   * @returns {number[]} The token ids of a text.
   */
  encode(text, limit) {
    const lower = text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
    const words = lower
      .split(SPACE)
      .flatMap((part) => part.replace(ALONE, " $& ").split(" "))
      .filter(Boolean);
    const ids = words.flatMap((word) => this.segment(word));
    return [this.start, ...ids.slice(0, Math.max(limit - 2, 0)), this.end];
  }

  /** Greedily takes the longest known prefix; the word is unknown if there is none. */
  segment(word) {
    if (utf8.encode(word).length > LONGEST_WORD) return [this.unknown];
    const ids = [];
    for (let start = 0; start < word.length; ) {
      const mark = start ? "##" : "";
      let end = word.length;
      while (end > start && !this.ids.has(mark + word.slice(start, end))) end--;
      if (end === start) return [this.unknown];
      ids.push(this.ids.get(mark + word.slice(start, end)));
      start = end;
    }
    return ids;
  }
}
