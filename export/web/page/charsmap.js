/** The normalizer of a SentencePiece model: a map from strings to their replacements. */

const utf8 = new TextEncoder();
const text = new TextDecoder();

/** Length of a character in UTF-8, from its first byte. */
function width(byte) {
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

/**
 * Reads the compiled map: the size of a double-array trie (Darts-clone), the trie, and the
 * replacements, each of which ends with a zero byte.
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

  /** Splits a text into the longest strings of the map and yields their replacements. */
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

  /** Returns length in bytes and value of the longest match at a position; length 0 if none. */
  longest(bytes, at) {
    const found = [0, 0];
    const { trie } = this;
    if (trie.length === 0) return found;
    // A unit contains a label (8 bits), a flag for a value (1 bit), and an offset (21 bits, and
    // 1 bit that shifts it by 8).
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
