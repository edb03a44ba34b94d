/** SentencePiece unigram models, with the same ids as Google's `sentencepiece`. */

import { Charsmap } from "./charsmap.js";
import { Problem } from "./problem.js";
import { fields } from "./protobuf.js";

const SPACE = "\u2581"; // ▁
const UNIGRAM = 1;
const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
// The score of an unknown character is that of the least likely piece minus this penalty.
const UNKNOWN_PENALTY = 10;
const utf8 = new TextDecoder();

export class SentencePiece {
  /**
   * @param {Uint8Array} bytes A `sentencepiece.model`.
   * @throws {Problem} If it is not a SentencePiece model, or not of a kind that kdkeras creates.
   */
  constructor(bytes) {
    const model = readModel(bytes);
    Object.assign(this, model.normalizer);
    this.ids = new Map();
    this.scores = new Float32Array(model.pieces.map((piece) => piece.score));
    this.longest = 0;
    let lowest = Infinity;
    model.pieces.forEach(({ text, score, type }, id) => {
      if (type === UNKNOWN) this.unknownId = id;
      if (type !== NORMAL) return;
      this.ids.set(text, id);
      this.longest = Math.max(this.longest, text.length);
      lowest = Math.min(lowest, score);
    });
    this.unknownScore = Math.fround(lowest - UNKNOWN_PENALTY);
  }

  /** @returns {number[]} The token ids of a text; empty if the text has no tokens. */
  encode(text) {
    return this.segment(this.normalize(text));
  }

  /** Applies the rules of the model. Spaces become ▁, one before each word. */
  normalize(text) {
    const space = this.escape ? SPACE : " ";
    let result = "";
    let started = false;
    let afterSpace = this.squeeze;
    for (let piece of this.charsmap.pieces(text)) {
      if (!started && this.squeeze && piece === " ") continue;
      if (!started && this.prefix) result = space;
      started = true;
      if (afterSpace) piece = piece.replace(/^ +/, "");
      if (piece) {
        result += piece.replaceAll(" ", space);
        afterSpace = this.squeeze && piece.endsWith(" ");
      }
    }
    while (this.squeeze && result.endsWith(space)) result = result.slice(0, -1);
    return result;
  }

  /**
   * Finds the most likely segmentation into pieces (Viterbi). Scores are rounded to float32, as
   * in the original, so that ties have the same result.
   */
  segment(text) {
    const best = new Float32Array(text.length + 1);
    const from = new Int32Array(text.length + 1).fill(-1);
    const through = new Int32Array(text.length + 1);
    const offer = (start, end, id, score) => {
      if (from[end] !== -1 && score <= best[end]) return;
      best[end] = score;
      from[end] = start;
      through[end] = id;
    };
    for (let start = 0; start < text.length; ) {
      const next = start + (text.codePointAt(start) > 0xffff ? 2 : 1);
      let single = false;
      const last = Math.min(text.length, start + this.longest);
      for (let end = next; end <= last; end++) {
        const id = this.ids.get(text.slice(start, end));
        if (id === undefined) continue;
        offer(start, end, id, this.scores[id] + best[start]);
        single ||= end === next;
      }
      if (!single) {
        offer(start, next, this.unknownId, Math.fround(this.unknownScore + best[start]));
      }
      start = next;
    }
    const ids = [];
    for (let end = text.length; end > 0; end = from[end]) {
      // Consecutive unknown characters are one unknown piece.
      if (through[end] !== this.unknownId || ids.at(-1) !== this.unknownId) ids.push(through[end]);
    }
    return ids.reverse();
  }
}

/** Parses the parts of `ModelProto` that tokenization needs. */
function readModel(bytes) {
  const model = { pieces: [], normalizer: readNormalizer(new Uint8Array(0)) };
  let type = UNIGRAM;
  try {
    for (const [number, value] of fields(bytes)) {
      if (number === 1) model.pieces.push(readPiece(value));
      if (number === 2) for (const [n, v] of fields(value)) if (n === 3) type = v;
      if (number === 3) model.normalizer = readNormalizer(value);
    }
  } catch (error) {
    throw notAModel(`it ${error.message}`, error);
  }
  if (!model.pieces.some((piece) => piece.type === UNKNOWN)) throw notAModel("it has no pieces");
  const known = [NORMAL, UNKNOWN, CONTROL];
  if (type !== UNIGRAM || !model.pieces.every((piece) => known.includes(piece.type))) {
    throw new Problem(
      "This page supports only SentencePiece unigram models without byte pieces and user-defined " +
        "symbols, but this model is of another kind.",
      "Train the vocabulary with kdkeras, which creates supported models.",
    );
  }
  return model;
}

function readPiece(message) {
  const piece = { text: "", score: 0, type: NORMAL };
  for (const [number, value] of fields(message)) {
    if (number === 1) piece.text = utf8.decode(value);
    if (number === 2) piece.score = value;
    if (number === 3) piece.type = value;
  }
  return piece;
}

function readNormalizer(message) {
  const found = { prefix: true, squeeze: true, escape: true };
  let blob = new Uint8Array(0);
  for (const [number, value] of fields(message)) {
    if (number === 2) blob = value;
    if (number === 3) found.prefix = Boolean(value);
    if (number === 4) found.squeeze = Boolean(value);
    if (number === 5) found.escape = Boolean(value);
  }
  return { ...found, charsmap: new Charsmap(blob) };
}

function notAModel(reason, cause) {
  return new Problem(
    `The file tokenizer/sentencepiece.model is not a SentencePiece model: ${reason}.`,
    "Export the student again and prepare this page with the new folder.",
    { cause },
  );
}
