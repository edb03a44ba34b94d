/** The part of Protocol Buffers that SentencePiece models need. */

const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

function varint(bytes, at) {
  let value = 0;
  for (let factor = 1; ; factor *= 128) {
    const byte = bytes[at++];
    if (byte === undefined) throw new RangeError("ends within a number");
    value += (byte & 127) * factor;
    if (byte < 128) return [value, at];
  }
}

/**
 * Yields `[field number, value]` for the fields of a message. Values are numbers, or bytes for
 * strings and nested messages. 32-bit fields are read as floats; 64-bit fields are skipped.
 *
 * @param {Uint8Array} bytes
 * @throws {RangeError} If the bytes are not a message.
 */
export function* fields(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  while (at < bytes.length) {
    let key, value;
    [key, at] = varint(bytes, at);
    const number = Math.floor(key / 8);
    const type = key % 8;
    if (type === VARINT) {
      [value, at] = varint(bytes, at);
    } else if (type === BYTES) {
      let length;
      [length, at] = varint(bytes, at);
      if (at + length > bytes.length) throw new RangeError("ends within a field");
      value = bytes.subarray(at, at + length);
      at += length;
    } else if (type === FIXED32) {
      value = view.getFloat32(at, true);
      at += 4;
    } else if (type === FIXED64) {
      at += 8;
      continue;
    } else {
      throw new RangeError(`has a field of type ${type}`);
    }
    yield [number, value];
  }
}
