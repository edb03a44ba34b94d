/** The sentences and their embeddings, and the search. */

import { fetchJson } from "./files.js";

// Maximum time without a response to input while sentences are embedded.
const PAUSE_AFTER_MS = 12;

export class Corpus {
  /**
   * @param {string} url A `corpus.json`: `{attribution, sentences: [[language, text], ...]}`.
   * @param {number} dim Width of the embeddings.
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
    /** Embeddings one after another. Those of the first `indexed` sentences are complete. */
    this.vectors = new Float32Array(this.size * dim);
    this.indexed = 0;
  }

  /** Embeds all sentences. Finished ones can be searched before the others are done. */
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
   * @param {Float32Array} query An embedding of length 1.
   * @param {string} language Search only this language; "" for all languages.
   * @returns {{language: string, text: string, cosine: number}[]} The nearest sentences, nearest first.
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
