/** An exported student in LiteRT.js: embeds texts. */

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

import { fetchChecked, fetchJson, PREPARE } from "./files.js";
import { Problem } from "./problem.js";
import { loadTokenizer, TOKENIZER_FILES } from "./tokenizer.js";

const FORMAT_VERSION = 1;
const RUNTIME = "./runtime/wasm/";

export class Student {
  /**
   * Loads the runtime, the tokenizer and the model.
   *
   * @param {string} folder The folder with `export.json`, ending with a slash.
   * @param {string} file Name of the model in the folder.
   * @param {(step: string) => void} onStep Called before each step.
   * @throws {Problem} If a file is missing or damaged, or the browser cannot run the model.
   */
  static async load(folder, file, onStep) {
    onStep("Loading the student");
    const manifest = await readManifest(folder);
    const read = (name) => fetchChecked(folder, name, manifest);
    const tokenize = await loadTokenizer(manifest, read);
    const bytes = await read(file);
    onStep("Starting the runtime");
    await startRuntime();
    onStep("Compiling the model");
    const model = await compile(bytes, file);
    return new Student(manifest, file, tokenize, model);
  }

  constructor(manifest, file, tokenize, model) {
    this.manifest = manifest;
    this.tokenize = tokenize;
    this.model = model;
    this.name = manifest.name;
    this.dim = manifest.embedding_dim;
    this.modelBytes = manifest.files[file].bytes;
    this.tokenizerBytes = manifest.files[TOKENIZER_FILES[manifest.vocabulary.kind]].bytes;
    this.signatures = Object.entries(manifest.signatures).sort(([, a], [, b]) => a - b);
  }

  /** @returns {Promise<Float32Array>} The embedding of a text, normalized to length 1. */
  async embed(text) {
    const ids = this.tokenize(text);
    // The shortest signature that holds the text. All signatures share the weights.
    const [name, length] = this.signatures.find(([, tokens]) => tokens >= ids.length);
    const tokenIds = new Int32Array(length).fill(this.manifest.vocabulary.pad_id);
    tokenIds.set(ids);
    const inputs = {
      token_ids: new Tensor(tokenIds, [1, length]),
      padding_mask: new Tensor(new Int32Array(length).fill(1, 0, ids.length), [1, length]),
    };
    const outputs = await this.model.run(name, inputs);
    const vector = Float32Array.from(await outputs.embedding.data());
    // WebAssembly memory is not garbage-collected.
    for (const tensor of [...Object.values(inputs), ...Object.values(outputs)]) tensor.delete();
    return unit(vector);
  }
}

function unit(vector) {
  const length = Math.hypot(...vector);
  return length > 0 ? vector.map((value) => value / length) : vector;
}

async function readManifest(folder) {
  const manifest = await fetchJson(`${folder}export.json`, "student");
  if (manifest.format_version !== FORMAT_VERSION) {
    throw new Problem(
      `This page supports students of format ${FORMAT_VERSION}, ` +
        `but this student has format ${manifest.format_version}.`,
      "Export the student and prepare this page with the same version of kdkeras.",
    );
  }
  return manifest;
}

async function startRuntime() {
  if (typeof WebAssembly !== "object") {
    throw new Problem(
      "This browser does not support WebAssembly, which the model needs.",
      "Use a current browser. Some browsers disable WebAssembly in their strictest mode: allow it " +
        "for this page.",
    );
  }
  try {
    await loadLiteRt(RUNTIME);
  } catch (error) {
    throw new Problem("The runtime LiteRT.js did not start.", PREPARE, { cause: error });
  }
}

async function compile(bytes, file) {
  try {
    return await loadAndCompile(bytes, { accelerator: "wasm" });
  } catch (error) {
    throw new Problem(
      `LiteRT.js cannot run ${file}.`,
      "Export the student with “--format tflite_int8” and prepare this page with that folder.",
      { cause: error },
    );
  }
}
