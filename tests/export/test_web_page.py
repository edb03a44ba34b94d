"""The web page in headless Chromium."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from edge_tools import chromium, node, require

from kdkeras.export import LiteStudent, export_student

ROOT = Path(__file__).parents[2]
WEB = ROOT / "export" / "web"
RELEASED = ROOT / "savedmodels" / "static-multilingual-28"
SCREENSHOT = ROOT / "docs" / "images" / "web-search.png"
# If this variable is set, the test updates the screenshot of the README.
UPDATE = "KDKERAS_UPDATE_SCREENSHOT"

# German queries and the held-out Japanese sentences that they should find.
GERMAN_TO_JAPANESE = {
    "Bring mir meinen Regenschirm.": "私の傘持ってきて。",
    "Heute arbeite ich zu Hause.": "今日は在宅ワークです。",
    "Ich lerne zu Hause Französisch.": "家でフランス語の勉強しよっと。",
    "Er trinkt jeden Tag viel Milch.": "彼は毎日牛乳をたくさん飲みます。",
}
ODD = ["", " ", "\0", "word " * 10_000, "👩‍🚀🚀", "ꙮ𐍈𒀀", "a\0b", "x" * 3000]
# Name of a damaged site to a part of the page's message and of its advice.
BROKEN = {
    "no student": ("The student is missing", "prepare.py"),
    "no model": ("model.int8.tflite is missing", "prepare.py"),
    "changed model": ("model.int8.tflite differs from the exported file", "prepare.py"),
    "no runtime": ("LiteRT.js did not start", "prepare.py"),
    "newer format": ("format 1, but this student has format 99", "same version"),
    "no model at all": ("LiteRT.js cannot run model.int8.tflite", "--format tflite_int8"),
    "no WebAssembly": ("does not support WebAssembly", "current browser"),
    "opened as a file": ("opened as a file", "python -m http.server"),
}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Seen:
    """The results of one visit of the page."""

    result: dict
    corpus: list
    vectors: np.ndarray
    folder: Path


def prepare(folder, site, *more):
    installed = (WEB / "node_modules" / "puppeteer-core").is_dir()
    require(installed, f"The page's packages must be installed: npm ci in {WEB}.")
    command = [sys.executable, str(WEB / "prepare.py"), str(folder), "--output", str(site), *more]
    subprocess.run(command, check=True)
    return site


def drive(job):
    environment = {**os.environ, "CHROMIUM": chromium()}
    result = subprocess.run(
        [node(), str(WEB / "drive.mjs")],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder and the address at which a web server serves it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    root = tmp_path_factory.mktemp("served")
    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield root, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def visit(served, name, folder, tmp_path, *more, **job):
    root, address = served
    site = prepare(folder, root / name, *more)
    corpus = json.loads((site / "corpus.json").read_text("utf-8"))["sentences"]
    job = {"url": f"{address}/{name}/", "texts": ODD, "broken": {}, **job}
    job["vectors"] = str(tmp_path / "vectors")
    result = drive(job)
    vectors = np.fromfile(job["vectors"], np.float32).reshape(len(corpus) + len(ODD), -1)
    return Seen(result=result, corpus=corpus, vectors=vectors, folder=folder)


def damaged_sites(root, address):
    """Copies of the site, each with one defect."""
    jobs = {}
    for name in BROKEN:
        folder = name.replace(" ", "-")
        if name not in ("no WebAssembly", "opened as a file"):
            shutil.copytree(root / "site", root / folder)
        jobs[name] = {"url": f"{address}/{folder}/"}
    jobs["no WebAssembly"] = {"url": f"{address}/site/", "withoutWebAssembly": True}
    jobs["opened as a file"] = {"url": (root / "site" / "index.html").as_uri()}
    shutil.rmtree(root / "no-student" / "student")
    shutil.rmtree(root / "no-runtime" / "runtime" / "wasm")
    (root / "no-model" / "student" / "model.int8.tflite").unlink()
    model = root / "changed-model" / "student" / "model.int8.tflite"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    # A file that matches export.json but is not a model.
    student = root / "no-model-at-all" / "student"
    manifest = json.loads((student / "export.json").read_text())
    file = "tokenizer/sentencepiece.model"
    shutil.copyfile(student / file, student / "model.int8.tflite")
    manifest["files"]["model.int8.tflite"] = manifest["files"][file]
    (student / "export.json").write_text(json.dumps(manifest))
    newer = root / "newer-format" / "student" / "export.json"
    newer.write_text(json.dumps({**manifest, "format_version": 99}))
    return jobs


@pytest.fixture(scope="module")
def seen(served, tmp_path_factory):
    """A visit of the released student's page: queries, errors and embeddings."""
    root, address = served
    prepare(RELEASED, root / "site")
    queries = [{"text": t, "language": i} for t in GERMAN_TO_JAPANESE for i in ("", "ja")]
    screenshot = str(SCREENSHOT) if os.environ.get(UPDATE) else None
    return visit(
        served,
        "site",
        RELEASED,
        tmp_path_factory.mktemp("seen"),
        queries=queries,
        screenshot=screenshot,
        broken=damaged_sites(root, address),
    )


def by_language(seen):
    """Returns the normalized embeddings of the page and of LiteRT per language."""
    texts = [text for _, text in seen.corpus] + ODD
    expected = LiteStudent(seen.folder).encode(texts)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    languages = np.array([language for language, _ in seen.corpus] + ["odd"] * len(ODD))
    return {
        name: (seen.vectors[languages == name], expected[languages == name])
        for name in dict.fromkeys(languages)
    }


@pytest.mark.parametrize("german", GERMAN_TO_JAPANESE)
def test_german_query_finds_the_japanese_sentence(seen, german):
    both = list(GERMAN_TO_JAPANESE).index(german) * 2
    everywhere, in_japanese = seen.result["found"][both : both + 2]
    expected = {"text": GERMAN_TO_JAPANESE[german], "language": "ja"}
    assert {k: in_japanese[0][k] for k in expected} == expected
    assert {item["language"] for item in in_japanese} == {"ja"}
    assert expected in [{k: item[k] for k in expected} for item in everywhere]
    cosines = [item["cosine"] for item in everywhere]
    assert cosines == sorted(cosines, reverse=True)


def test_embeddings_equal_litert_in_every_language(seen, held_out):
    pairs = by_language(seen)
    assert set(pairs) == {*held_out, "en", "odd"}
    assert sum(len(page) for page, _ in pairs.values()) > 3300
    lowest = {name: float((page * lite).sum(1).min()) for name, (page, lite) in pairs.items()}
    assert {name: cosine for name, cosine in lowest.items() if cosine < 0.9999} == {}


def test_transformer_with_wordpiece_equals_litert(served, transformer_student, few_pairs, tmp_path):
    folder = tmp_path / "exported"
    export_student(transformer_student, folder, formats=["tflite_int8"], sequence_lengths=(16,))
    sentences = tmp_path / "sentences"
    sentences.mkdir()
    for language, (foreign, english) in few_pairs.items():
        rows = [f"{a}\t{b}\n" for a, b in zip(foreign, english, strict=True)]
        (sentences / f"{language}.tsv").write_text("".join(rows), "utf-8")
    more = ("--sentences", str(sentences), "--attribution", "tatoeba.org")
    query = {"text": few_pairs["de"][0][3], "language": ""}
    seen = visit(served, "transformer", folder, tmp_path, *more, queries=[query])
    assert seen.result["found"][0][0]["text"] == query["text"]
    for page, lite in by_language(seen).values():
        assert (page * lite).sum(1).min() >= 0.9999


@pytest.mark.parametrize("name", BROKEN)
def test_defect_is_explained_with_advice(seen, name):
    message, advice = BROKEN[name]
    said = seen.result["explanations"][name]
    assert message in said["message"] and advice in said["advice"]
    assert said["role"] == "alert" and said["formHidden"]


def test_no_other_server_is_contacted(seen, served):
    assert len(seen.result["requests"]) > 15
    assert [url for url in seen.result["requests"] if not url.startswith(served[1])] == []


def test_page_shows_latency_and_sizes(seen):
    costs = seen.result["costs"]
    size = (RELEASED / "model.int8.tflite").stat().st_size
    assert costs["model"] == f"{size / 1e6:.1f} MB"
    assert costs["sentences"] == f"{len(seen.corpus):,}"
    assert 0 < float(costs["embedding"].removesuffix(" ms")) < 1000
    assert 5 < float(costs["runtime"].removesuffix(" MB")) < 20


def test_page_is_accessible(seen):
    assert seen.result["violations"] == []
    keyboard = seen.result["keyboard"]
    assert keyboard["second"] == "language"
    assert keyboard["query"] == keyboard["sentence"] is not None
    assert keyboard["sentence"] in seen.result["announced"]


def test_page_fits_the_width_of_a_phone(seen):
    assert seen.result["overflow"] <= 0
