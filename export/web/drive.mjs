/**
 * Operates the page in headless Chromium and prints the results as JSON.
 *
 *     node drive.mjs < job.json
 *
 * job.json has these keys: `url`, the address of the site; `queries`, a list of
 * `{text, language}` to type; `texts`, additional texts to embed; `vectors`, the file for the
 * embeddings (float32: all sentences, then all texts); `broken`, name to `{url, withoutWebAssembly}`
 * of pages that should show an error; `screenshot` (optional), the file for an image of the page with
 * the first query. CHROMIUM is the path of the browser.
 */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { json } from "node:stream/consumers";

import puppeteer from "puppeteer-core";

const AXE = createRequire(import.meta.url).resolve("axe-core");
// Without these flags, Chromium contacts other servers at the start, e.g. for updates.
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const PATIENCE_MS = 200_000;
const PHONE = { width: 390, height: 844, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const DESK = { width: 960, height: 900, deviceScaleFactor: 1 };

/** Opens a page and adds the address of every request to `requests`. */
async function open(browser, url, requests, prepare) {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  await page.setViewport(DESK);
  page.on("request", (request) => requests.add(request.url()));
  if (prepare) await page.evaluateOnNewDocument(prepare);
  await page.goto(url);
  return page;
}

/** Types a query letter by letter and returns the results. */
async function type(page, { text, language }) {
  await page.select("#language", language);
  await page.$eval("#query", (box) => {
    box.value = "";
    box.dispatchEvent(new Event("input"));
  });
  await page.type("#query", text);
  await page.waitForFunction(() => !document.querySelector("#found").hidden);
  await settled(page);
  return page.$$eval("#found li", (items) =>
    items.map((item) => ({
      text: item.querySelector(".sentence").textContent,
      language: item.querySelector(".sentence").lang,
      cosine: Number(item.querySelector(".cosine").textContent),
    })),
  );
}

/** Waits until the results of the last search are shown. */
function settled(page) {
  return page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 100)));
}

/** Returns the page's embeddings of its sentences and of additional texts, as raw float32. */
async function vectors(page, texts) {
  const base64 = await page.evaluate(async (more) => {
    const { student, corpus } = await (await import("./app.js")).ready;
    const rows = [corpus.vectors];
    for (const text of more) rows.push(await student.embed(text));
    const bytes = new Uint8Array(await new Blob(rows).arrayBuffer());
    let binary = "";
    for (let i = 0; i < bytes.length; i += 32768) {
      binary += String.fromCharCode(...bytes.subarray(i, i + 32768));
    }
    return btoa(binary);
  }, texts);
  return Buffer.from(base64, "base64");
}

/** Returns the violated rules of axe-core, in light and in dark mode. */
async function violations(page) {
  await page.addScriptTag({ path: AXE });
  const found = [];
  for (const value of ["light", "dark"]) {
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value }]);
    const broken = await page.evaluate(async () =>
      (await globalThis.axe.run()).violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`),
    );
    found.push(...broken.map((rule) => `${value}: ${rule}`));
  }
  await page.emulateMediaFeatures([]);
  return found;
}

/** Uses only the keyboard to move from the input to the first result and to search for it. */
async function keyboard(page) {
  await page.focus("#query");
  await page.keyboard.press("Tab");
  const second = await page.evaluate(() => document.activeElement.id);
  await page.keyboard.press("Tab");
  const sentence = await page.evaluate(
    () => document.activeElement.querySelector(".sentence")?.textContent,
  );
  await page.keyboard.press("Enter");
  await settled(page);
  return { second, sentence, query: await page.$eval("#query", (box) => box.value) };
}

async function costs(page) {
  return page.$$eval("#cost div", (pairs) =>
    Object.fromEntries(
      pairs.map((pair) => [
        pair.querySelector("dt").textContent,
        pair.querySelector("dd").textContent,
      ]),
    ),
  );
}

async function use(browser, job) {
  const requests = new Set();
  const page = await open(browser, job.url, requests);
  const started = performance.now();
  await page.waitForFunction(() => {
    const shown = (id) => !document.getElementById(id).hidden;
    return shown("problem") || (shown("cost") && !shown("loading"));
  });
  const problem = await page.$eval("#problem", (section) => section.hidden || section.innerText);
  if (problem !== true) throw new Error(`The page shows an error: ${problem}`);
  const result = { seconds: (performance.now() - started) / 1000, found: [] };
  for (const query of job.queries) result.found.push(await type(page, query));
  result.costs = await costs(page);
  if (job.screenshot) {
    await type(page, job.queries[0]);
    await page.evaluate(() => document.activeElement.blur());
    await page.screenshot({ path: job.screenshot });
  }
  result.violations = await violations(page);
  result.keyboard = await keyboard(page);
  await page.waitForFunction(() => document.getElementById("announcement").textContent);
  result.announced = await page.$eval("#announcement", (region) => region.textContent);
  writeFileSync(job.vectors, await vectors(page, job.texts));
  await page.setViewport(PHONE);
  result.overflow = await page.evaluate(() => document.body.scrollWidth - window.innerWidth);
  await page.close();
  return { ...result, requests: [...requests] };
}

async function explanation(browser, { url, withoutWebAssembly }) {
  const hide = withoutWebAssembly ? () => delete globalThis.WebAssembly : undefined;
  const page = await open(browser, url, new Set(), hide);
  await page.waitForFunction(() => !document.getElementById("problem").hidden);
  const said = await page.evaluate(() => ({
    message: document.getElementById("problem-message").textContent,
    advice: document.getElementById("problem-advice").textContent,
    role: document.getElementById("problem").getAttribute("role"),
    formHidden: document.getElementById("search").hidden,
  }));
  await page.close();
  return said;
}

const job = await json(process.stdin);
const profile = mkdtempSync(join(tmpdir(), "kdkeras-chromium-"));
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  userDataDir: profile,
  args: FLAGS,
});
try {
  const result = await use(browser, job);
  result.browser = await browser.version();
  result.explanations = {};
  for (const [name, broken] of Object.entries(job.broken)) {
    result.explanations[name] = await explanation(browser, broken);
  }
  console.log(JSON.stringify(result));
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
