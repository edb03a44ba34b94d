/** The sentences that are searched, and their vectors. */

import { fetchJson } from "./files.js";

// How long the page may not answer while sentences are embedded.
const PAUSE_AFTER_MS = 12;

export class Corpus {
  /**
   * @param {string} url A `corpus.json`: `{attribution, sentences: [[language, text], ...]}`.
   * @param {number} dim Width of the vectors.
   */
  static async load(url, dim) {
    const content = await fetchJson(url, "collection of sentences");
    return new Corpus(content, dim);
  }

  constructor({ attribution, sentences }, dim) {
    this.attribution = attribution;
    this.sentences = sentences.map(([language, text]) => ({ language, text }));
    this.languages = [...new Set(sentences.map(([language]) => language))];
    this.dim = dim;
    this.size = sentences.length;
    /** Vectors one after another; those of the first `indexed` sentences are there. */
    this.vectors = new Float32Array(this.size * dim);
    this.indexed = 0;
  }

  /** Embeds every sentence; what is done can be searched meanwhile. */
  async index(student, onProgress) {
    let resumed = performance.now();
    for (const { text } of this.sentences) {
      this.vectors.set(await student.embed(text), this.indexed * this.dim);
      this.indexed += 1;
      if (performance.now() - resumed > PAUSE_AFTER_MS) {
        onProgress(this.indexed);
        await new Promise((resolve) => setTimeout(resolve));
        resumed = performance.now();
      }
    }
    onProgress(this.indexed);
  }

  /**
   * @param {Float32Array} query A vector of length 1.
   * @param {string} language Only sentences of this language; "" for all.
   * @returns {{language: string, text: string, cosine: number}[]} The nearest first.
   */
  search(query, language, count) {
    const found = [];
    for (let row = 0; row < this.indexed; row++) {
      if (language && this.sentences[row].language !== language) continue;
      const cosine = this.cosine(query, row);
      if (found.length === count && cosine <= found.at(-1).cosine) continue;
      const place = found.findIndex((other) => other.cosine < cosine);
      found.splice(place < 0 ? found.length : place, 0, { row, cosine });
      found.length = Math.min(found.length, count);
    }
    return found.map(({ row, cosine }) => ({ ...this.sentences[row], cosine }));
  }

  cosine(query, row) {
    const start = row * this.dim;
    let sum = 0;
    for (let i = 0; i < this.dim; i++) sum += query[i] * this.vectors[start + i];
    return sum;
  }
}
