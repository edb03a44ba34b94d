"""Puts together the folder that a web server serves: the page, the runtime, a student, sentences.

Needs nothing but Python, and `npm ci` run in this folder before.

    python export/web/prepare.py FOLDER
    python -m http.server 8000 --bind 127.0.0.1 --directory export/web/site
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parents[1] / "kdkeras" / "sample" / "held_out"
SAMPLE_ATTRIBUTION = (
    "Sentences © the contributors of tatoeba.org, CC BY 2.0 FR, "
    "through manythings.org/anki and OPUS."
)
PACKAGES = HERE / "node_modules" / "@litertjs"
# In the site, from the package. Of four builds of the runtime LiteRT.js takes the first pair where
# the browser has relaxed SIMD, and the second elsewhere; neither needs threads.
RUNTIME = {
    "core.js": "core/dist/index.js",
    "wasm-utils.js": "wasm-utils/dist/index.js",
    **{
        f"wasm/{name}": f"core/wasm/{name}"
        for build in ("litert_wasm_internal", "litert_wasm_compat_internal")
        for name in (f"{build}.js", f"{build}.wasm")
    },
}
TOKENIZER_FILES = {
    "sentencepiece": "tokenizer/sentencepiece.model",
    "wordpiece": "tokenizer/vocab.txt",
}


def read_corpus(folder: Path) -> list[tuple[str, str]]:
    """Returns `(language, sentence)` of `{language}.tsv` files of `foreign<TAB>English` rows."""
    foreign, english = [], []
    for path in sorted(folder.glob("*.tsv")):
        for row in path.read_text(encoding="utf-8").splitlines():
            sentence, translation = row.split("\t")[:2]
            foreign.append((path.stem, sentence))
            english.append(("en", translation))
    return list(dict.fromkeys(foreign + english))


def write_site(site: Path, arguments: argparse.Namespace, files: list[str]) -> None:
    """Fills an empty folder."""
    shutil.copytree(HERE / "page", site, dirs_exist_ok=True)
    for name, source in RUNTIME.items():
        target = site / "runtime" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGES / source, target)
    for name in files:
        target = site / "student" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.folder / name, target)
    corpus = {"attribution": arguments.attribution, "sentences": read_corpus(arguments.sentences)}
    (site / "corpus.json").write_text(json.dumps(corpus, ensure_ascii=False), encoding="utf-8")
    (site / "site.json").write_text(json.dumps({"model": arguments.file}), encoding="utf-8")


def main() -> None:
    """Reads the arguments, checks them, writes the site whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `kdkeras export` wrote")
    parser.add_argument(
        "--file", default="model.int8.tflite", help="model in the folder (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=HERE / "site", help="folder to write")
    parser.add_argument(
        "--sentences", type=Path, default=SAMPLE, help="folder of {language}.tsv files to search"
    )
    parser.add_argument(
        "--attribution", help="who wrote the sentences, and their licence; the page shows it"
    )
    arguments = parser.parse_args()
    if arguments.attribution is None and arguments.sentences == SAMPLE:
        arguments.attribution = SAMPLE_ATTRIBUTION
    if arguments.attribution is None:
        parser.error("`--attribution` must go with --sentences. Received: none.")
    if not (arguments.folder / "export.json").is_file():
        parser.error(f"`folder` must hold export.json. Received: {arguments.folder}.")
    manifest = json.loads((arguments.folder / "export.json").read_text(encoding="utf-8"))
    files = ["export.json", arguments.file, TOKENIZER_FILES[manifest["vocabulary"]["kind"]]]
    for name in files:
        if not (arguments.folder / name).is_file():
            parser.error(f"`folder` must hold {name}. Received: {arguments.folder}.")
    if not all((PACKAGES / source).is_file() for source in RUNTIME.values()):
        parser.error(f"LiteRT.js must be installed. Received: {PACKAGES}. Run npm ci in {HERE}.")
    if not any(arguments.sentences.glob("*.tsv")):
        parser.error(f"`--sentences` must hold .tsv files. Received: {arguments.sentences}.")
    replace_site(arguments, files)


def replace_site(arguments: argparse.Namespace, files: list[str]) -> None:
    """Writes beside the output, then renames; replaces only what this script wrote."""
    output = arguments.output.resolve()
    if output.exists() and not (output / "site.json").is_file():
        raise SystemExit(
            "prepare.py: error: `--output` must be new, or a site that this script wrote. "
            f"Received: {output}."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".site-") as temporary:
        site = Path(temporary) / "site"
        write_site(site, arguments, files)
        if output.exists():
            os.replace(output, Path(temporary) / "old")
        os.replace(site, output)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size / 1e6:.1f} MB\n")
    print(f"python -m http.server 8000 --bind 127.0.0.1 --directory {output}")


if __name__ == "__main__":
    main()
