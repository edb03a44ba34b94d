/**
 * Prints the token ids of texts, from the page's tokenizer, one JSON array per line.
 *
 *     node tokenize.mjs FOLDER < texts.json
 *
 * FOLDER is a folder that `kdkeras export` wrote; texts.json is an array of strings.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { json } from "node:stream/consumers";

import { loadTokenizer } from "./page/tokenizer.js";

const [folder] = process.argv.slice(2);
const manifest = JSON.parse(readFileSync(join(folder, "export.json"), "utf8"));
const tokenize = await loadTokenizer(manifest, (file) => readFileSync(join(folder, file)));
for (const text of await json(process.stdin)) {
  console.log(JSON.stringify(tokenize(text)));
}
