"""Creates the folder for a web server: the page, the runtime, a student and sentences.

Requires only Python, after `npm ci` in this folder.

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
# Path in the site to path in the package. LiteRT.js has four builds of the runtime. It loads the
# first of these in browsers with relaxed SIMD and the second in others; neither uses threads.
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
    """Writes all files of the site to an empty folder."""
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
    """Parses and checks the arguments and writes the site atomically."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder that `kdkeras export` wrote")
    parser.add_argument(
        "--file", default="model.int8.tflite", help="model in the folder (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=HERE / "site", help="folder to write")
    parser.add_argument(
        "--sentences", type=Path, default=SAMPLE, help="folder of {language}.tsv files to search"
    )
    parser.add_argument(
        "--attribution", help="authors and license of the sentences, shown on the page"
    )
    arguments = parser.parse_args()
    if arguments.attribution is None and arguments.sentences == SAMPLE:
        arguments.attribution = SAMPLE_ATTRIBUTION
    if arguments.attribution is None:
        parser.error("--sentences requires --attribution. Received: none. Add --attribution TEXT.")
    if not (arguments.folder / "export.json").is_file():
        parser.error(
            f"`folder` must contain export.json. Received: {arguments.folder}. "
            "Pass a folder that `kdkeras export` wrote."
        )
    manifest = json.loads((arguments.folder / "export.json").read_text(encoding="utf-8"))
    files = ["export.json", arguments.file, TOKENIZER_FILES[manifest["vocabulary"]["kind"]]]
    for name in files:
        if not (arguments.folder / name).is_file():
            parser.error(
                f"`folder` must contain {name}. Received: {arguments.folder}. "
                "Export the student again, or pass another --file."
            )
    if not all((PACKAGES / source).is_file() for source in RUNTIME.values()):
        parser.error(f"LiteRT.js must be installed. Received: {PACKAGES}. Run npm ci in {HERE}.")
    if not any(arguments.sentences.glob("*.tsv")):
        parser.error(
            f"--sentences must contain .tsv files. Received: {arguments.sentences}. "
            "Pass another folder."
        )
    replace_site(arguments, files)


def replace_site(arguments: argparse.Namespace, files: list[str]) -> None:
    """Writes the site next to the output and renames it; replaces only an earlier site."""
    output = arguments.output.resolve()
    if output.exists() and not (output / "site.json").is_file():
        raise SystemExit(
            "prepare.py: error: --output must be a new folder or a site that this script wrote. "
            f"Received: {output}. Choose another folder."
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
