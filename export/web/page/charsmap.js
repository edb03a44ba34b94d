/** The normaliser inside a SentencePiece model: a map from spellings to their replacement. */

const utf8 = new TextEncoder();
const text = new TextDecoder();

/** A character's UTF-8 length by its first byte. */
function width(byte) {
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

/**
 * Reads the compiled map: the size of a double-array trie (Darts-clone), the
 * trie, and the replacements, each ending with a zero byte.
 */
export class Charsmap {
  /** @param {Uint8Array} blob `precompiled_charsmap`; may be empty. */
  constructor(blob) {
    this.trie = new Uint32Array(0);
    this.replacements = new Uint8Array(0);
    if (blob.length === 0) return;
    const size = new DataView(blob.buffer, blob.byteOffset).getUint32(0, true);
    this.trie = new Uint32Array(Uint8Array.from(blob.subarray(4, 4 + size)).buffer);
    this.replacements = blob.subarray(4 + size);
  }

  /** Splits a text into the replacements of its longest known spellings. */
  *pieces(input) {
    const bytes = utf8.encode(input);
    for (let at = 0; at < bytes.length; ) {
      const [length, value] = this.longest(bytes, at);
      if (length) {
        const end = this.replacements.indexOf(0, value);
        yield text.decode(this.replacements.subarray(value, end));
        at += length;
      } else {
        const next = at + width(bytes[at]);
        yield text.decode(bytes.subarray(at, next));
        at = next;
      }
    }
  }

  /** Length in bytes and value of the longest spelling at a place; length 0 if none. */
  longest(bytes, at) {
    const found = [0, 0];
    const { trie } = this;
    if (trie.length === 0) return found;
    // A unit holds a label (8 bits), whether a value follows (1), and an offset (21, and 1
    // that shifts it by 8).
    const offset = (unit) => (unit >>> 10) << ((unit & 0x200) >>> 6);
    let node = offset(trie[0]);
    for (let i = at; i < bytes.length; i++) {
      node ^= bytes[i];
      const unit = trie[node];
      if ((unit & 0x800000ff) >>> 0 !== bytes[i]) break;
      node ^= offset(unit);
      if ((unit >>> 8) & 1) {
        found[0] = i + 1 - at;
        found[1] = trie[node] & 0x7fffffff;
      }
    }
    return found;
  }
}
