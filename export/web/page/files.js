/** Fetches and checks the files of the page, with clear error messages. */

import { Problem } from "./problem.js";

export const PREPARE = "Run “python export/web/prepare.py FOLDER” again and serve the folder it writes.";

/**
 * @param {string} url
 * @param {string} what Description of the file, as in “The … is missing”.
 * @returns {Promise<Uint8Array>}
 * @throws {Problem} If the server does not have the file or does not respond.
 */
export async function fetchBytes(url, what) {
  let response;
  try {
    response = await fetch(url);
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
  } catch (error) {
    throw new Problem(
      `The ${what} could not be loaded: the connection failed.`,
      "Check that the server is running, then reload the page.",
      { cause: error },
    );
  }
  throw new Problem(`The ${what} is missing (${url}, status ${response.status}).`, PREPARE);
}

/** Fetches JSON; see `fetchBytes`. */
export async function fetchJson(url, what) {
  const bytes = await fetchBytes(url, what);
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new Problem(`The ${what} is damaged (${url} is not JSON).`, PREPARE, { cause: error });
  }
}

/**
 * Fetches a file of the student and compares it with `export.json`.
 *
 * Browsers compute checksums only over https and on localhost. Otherwise, only the size is compared.
 *
 * @throws {Problem} If the file is missing or differs from the exported file.
 */
export async function fetchChecked(folder, file, manifest) {
  const bytes = await fetchBytes(folder + file, `student's file ${file}`);
  const record = manifest.files[file];
  const same =
    record !== undefined &&
    record.bytes === bytes.length &&
    (!globalThis.crypto?.subtle || record.sha256 === (await sha256(bytes)));
  if (!same) {
    throw new Problem(
      `The student's file ${file} differs from the exported file: it is damaged ` +
        "or belongs to another student.",
      PREPARE,
    );
  }
  return bytes;
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
