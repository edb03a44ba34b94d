/**
 * Embeds texts with MediaPipe's TextEmbedder in headless Chromium and prints the embeddings as JSON.
 *
 *     node mediapipe.mjs ../../out/mediapipe/embedder.tflite < texts.json
 *
 * texts.json is an array of strings. The file is from `kdkeras export --format mediapipe`:
 * embedder.tflite or embedder.task. CHROMIUM is the path of the browser. The network is not used.
 */

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { json } from "node:stream/consumers";

import puppeteer from "puppeteer-core";

const RUNTIME = fileURLToPath(new URL("node_modules/@mediapipe/tasks-text", import.meta.url));
const TYPES = { ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm" };
const PATIENCE_MS = 120_000;

/** The code that a page needs for MediaPipe's package. It runs in the browser. */
async function embedAll(texts) {
  const { FilesetResolver, TextEmbedder } = await import("/runtime/text_bundle.mjs");
  const files = await FilesetResolver.forTextTasks("/runtime/wasm");
  const embedder = await TextEmbedder.createFromOptions(files, {
    baseOptions: { modelAssetPath: "/model" },
  });
  const vectors = texts.map((text) => embedder.embed(text).embeddings[0].floatEmbedding);
  embedder.close();
  return vectors.map((vector) => Array.from(vector));
}

/** Serves the model, the runtime and an empty page. */
function serve(model) {
  const server = createServer((request, response) => {
    const path = new URL(request.url, "http://localhost").pathname;
    try {
      if (path === "/model") return response.end(readFileSync(model));
      if (!path.startsWith("/runtime/")) {
        return response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html>");
      }
      const file = join(RUNTIME, normalize(path.slice("/runtime".length)));
      const type = TYPES[extname(file)] ?? "application/octet-stream";
      return response.writeHead(200, { "content-type": type }).end(readFileSync(file));
    } catch {
      return response.writeHead(404).end();
    }
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

const [model] = process.argv.slice(2);
const texts = await json(process.stdin);
const server = await serve(model);
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
  protocolTimeout: PATIENCE_MS,
});
try {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  console.log(JSON.stringify(await page.evaluate(embedAll, texts)));
} finally {
  await browser.close();
  server.close();
}
