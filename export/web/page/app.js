/** The page: loads the student, embeds the sentences and searches while the user types. */

import { Corpus } from "./corpus.js";
import { fetchJson } from "./files.js";
import { Problem } from "./problem.js";
import { Student } from "./student.js";

const RESULTS = 8;
const EXAMPLES = 4;
// Long enough not to interrupt a screen reader after every letter.
const ANNOUNCE_AFTER_MS = 700;

const element = (id) => document.getElementById(id);
const languageNames = new Intl.DisplayNames(["en"], { type: "language" });
const integer = new Intl.NumberFormat("en");

/** Resolves when all sentences are embedded. */
export const ready = start();
ready.catch(explain);

async function start() {
  const settings = await fetchJson("site.json", "page settings");
  const student = await Student.load("student/", settings.model, showStep);
  const corpus = await Corpus.load("corpus.json", student.dim);
  const search = connectSearch(student, corpus);
  showPage(student, corpus);
  element("query").focus();
  await corpus.index(student, (count) => {
    showStep(`Embedding ${integer.format(corpus.size)} sentences`, count / corpus.size);
  });
  element("loading").hidden = true;
  await search();
  return { student, corpus };
}

/** Shows a loading step and, if it is known, the finished fraction in [0, 1]. */
function showStep(step, done) {
  element("step").textContent = step;
  if (done === undefined) element("progress").removeAttribute("value");
  else element("progress").value = done;
}

function showPage(student, corpus) {
  for (const language of corpus.languages) {
    element("language").append(new Option(languageNames.of(language), language));
  }
  showExamples(corpus);
  element("model-size").textContent = megabytes(student.modelBytes);
  element("tokenizer-size").textContent = megabytes(student.tokenizerBytes);
  element("runtime-size").textContent = megabytes(runtimeBytes());
  element("sentences").textContent = integer.format(corpus.size);
  element("attribution").textContent = corpus.attribution;
  for (const id of ["search", "examples", "cost"]) element(id).hidden = false;
}

/** Shows one sentence from each of a few languages; a click searches for it. */
function showExamples(corpus) {
  const every = Math.max(1, Math.floor(corpus.languages.length / EXAMPLES));
  const languages = corpus.languages.filter((_, i) => i % every === 0).slice(0, EXAMPLES);
  const list = element("examples").querySelector("ul");
  for (const language of languages) {
    const { text } = corpus.sentences.find((sentence) => sentence.language === language);
    list.append(item(searchButton({ language, text })));
  }
}

/** Searches after every change. Returns the search function. */
function connectSearch(student, corpus) {
  let latest = 0;
  async function search() {
    const text = element("query").value;
    const turn = ++latest;
    element("examples").hidden = Boolean(text.trim());
    element("found").hidden = !text.trim();
    if (!text.trim()) return;
    const started = performance.now();
    const vector = await student.embed(text);
    const embedded = performance.now();
    if (turn !== latest) return;
    const found = corpus.search(vector, element("language").value, RESULTS);
    element("embedding-time").textContent = milliseconds(embedded - started);
    element("search-time").textContent = milliseconds(performance.now() - embedded);
    showFound(found);
  }
  const searchOrExplain = () => search().catch(explain);
  element("query").addEventListener("input", searchOrExplain);
  element("language").addEventListener("change", searchOrExplain);
  element("search").addEventListener("submit", (event) => event.preventDefault());
  return search;
}

let announcing;

function showFound(found) {
  const items = found.map((sentence) => {
    const entry = item(searchButton(sentence));
    const meter = document.createElement("span");
    meter.className = "cosine";
    meter.style.setProperty("--cosine", Math.max(0, sentence.cosine));
    meter.title = "Cosine similarity to your sentence, at most 1";
    meter.textContent = sentence.cosine.toFixed(2);
    entry.append(meter);
    return entry;
  });
  element("found").querySelector("ol").replaceChildren(...items);
  clearTimeout(announcing);
  announcing = setTimeout(() => announce(found), ANNOUNCE_AFTER_MS);
}

function announce([best]) {
  element("announcement").textContent = best
    ? `Nearest, in ${languageNames.of(best.language)}: ${best.text}`
    : "No sentences are embedded yet.";
}

function searchButton({ language, text }) {
  const button = document.createElement("button");
  const sentence = document.createElement("span");
  const name = document.createElement("span");
  button.type = "button";
  sentence.lang = language;
  sentence.dir = "auto";
  sentence.className = "sentence";
  sentence.textContent = text;
  name.className = "language";
  name.textContent = languageNames.of(language);
  button.append(sentence, name);
  button.addEventListener("click", () => {
    element("query").value = text;
    element("query").dispatchEvent(new Event("input"));
    element("query").focus();
  });
  return button;
}

function item(content) {
  const entry = document.createElement("li");
  entry.append(content);
  return entry;
}

function explain(error) {
  const problem =
    error instanceof Problem
      ? error
      : new Problem("An unexpected error occurred.", "Reload the page.", { cause: error });
  for (const id of ["loading", "search", "examples", "found", "cost"]) element(id).hidden = true;
  element("problem-message").textContent = problem.message;
  element("problem-advice").textContent = problem.advice;
  if (problem.cause) {
    const { cause } = problem;
    element("problem-details").textContent = String(cause.message ?? cause.type ?? cause);
    element("problem-details").parentElement.hidden = false;
  }
  element("problem").hidden = false;
}

/** Size of the WebAssembly runtime that this browser loaded, in bytes. */
function runtimeBytes() {
  const loaded = performance.getEntriesByType("resource");
  return loaded
    .filter(({ name }) => new URL(name).pathname.includes("/runtime/"))
    .reduce((sum, { decodedBodySize }) => sum + decodedBodySize, 0);
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function milliseconds(value) {
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
}
