"""Creates the sample data of the package, kdkeras/sample/.

    python scripts/make_sample.py --parallel FOLDER --bitext FOLDER --teacher FOLDER

Equal inputs give an equal sample.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import random
from collections import Counter
from pathlib import Path

from kdkeras import teachers
from kdkeras.data import (
    SentenceGroup,
    read_corpus,
    train_vocabulary,
    write_distillation_set,
)
from kdkeras.data.corpus import without_excluded

LANGUAGES = "ar de es fr hi it ja ko pt ru tr uk vi zh".split()
SAMPLE = Path(__file__).parents[1] / "kdkeras" / "sample"
GROUPS = 9_250
HELD_OUT_PAIRS = 120
TRANSLATIONS_PER_LANGUAGE = 2
VOCABULARY_SIZE = 14_000

ATTRIBUTION = """\
# Where this sample comes from

- The sentences are © the contributors of [tatoeba.org](https://tatoeba.org), licensed under
  [CC BY 2.0 FR](https://creativecommons.org/licenses/by/2.0/fr/), through
  [manythings.org/anki](https://www.manythings.org/anki/) (Tab-delimited Bilingual Sentence Pairs)
  and [OPUS](https://opus.nlpl.eu/Tatoeba) (J. Tiedemann, 2012, Parallel Data, Tools and Interfaces
  in OPUS). They were normalized to Unicode NFC, grouped by their English sentence and selected;
  the sentences themselves are unchanged. The text in `distillation_set/` and `held_out/`, and the
  pieces in `vocabulary/`, remain under that license.
- The embeddings in `distillation_set/` were computed with
  [sentence-transformers/all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2)
  (Apache-2.0).

`scripts/make_sample.py` in the source repository creates the sample.
"""


def held_out_pairs(
    groups: list[SentenceGroup], language: str, generator: random.Random
) -> list[tuple[str, str]]:
    """Draws `(foreign, English)` pairs in which each sentence occurs once."""
    pairs = [
        (translation, group.source)
        for group in groups
        for translation, found in zip(group.translations, group.languages, strict=True)
        if found == language and 3 <= len(group.source.split()) <= 16
    ]
    generator.shuffle(pairs)
    chosen: dict[str, str] = {}
    english: set[str] = set()
    for foreign, source in pairs:
        if len(chosen) == HELD_OUT_PAIRS:
            break
        if foreign not in chosen and source.casefold() not in english:
            chosen[foreign] = source
            english.add(source.casefold())
    return sorted(chosen.items())


def write_held_out(groups: list[SentenceGroup], folder: Path, seed: int) -> list[Path]:
    """Writes `{language}.tsv` files and returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for language in LANGUAGES:
        pairs = held_out_pairs(groups, language, random.Random(f"{seed} {language}"))
        path = folder / f"{language}.tsv"
        path.write_text("".join(f"{foreign}\t{source}\n" for foreign, source in pairs))
        paths.append(path)
    return paths


def trimmed(group: SentenceGroup) -> SentenceGroup:
    """Keeps at most `TRANSLATIONS_PER_LANGUAGE` translations per language."""
    seen: Counter[str] = Counter()
    kept = []
    for translation, language in zip(group.translations, group.languages, strict=True):
        seen[language] += 1
        if seen[language] <= TRANSLATIONS_PER_LANGUAGE:
            kept.append((translation, language))
    translations, languages = zip(*kept, strict=True)
    return dataclasses.replace(group, translations=translations, languages=languages)


def choose(groups: list[SentenceGroup], number: int, seed: int) -> list[SentenceGroup]:
    """Chooses the groups with translations in many languages and in rare ones."""
    counts = Counter(language for group in groups for language in set(group.languages))

    def worth(group: SentenceGroup) -> tuple[float, bytes]:
        value = sum(counts[language] ** -0.5 for language in set(group.languages))
        return -value, hashlib.blake2b(f"{seed} {group.source}".encode()).digest()

    return [trimmed(group) for group in sorted(groups, key=worth)[:number]]


def main() -> None:
    """Writes the sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folders = {
        "parallel": "Tatoeba corpora en-{language}.tsv.gz with rows English<TAB>translation",
        "bitext": "Tatoeba test sets, whose sentences are excluded from the sample",
        "teacher": "snapshot of sentence-transformers/all-MiniLM-L6-v2",
    }
    for name, text in folders.items():
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FOLDER", help=text)
    parser.add_argument("--seed", type=int, default=0, help="seed of the selection, default 0")
    arguments = parser.parse_args()
    tests = sorted(arguments.bitext.glob("*.tsv.gz"))
    files = [arguments.parallel / f"en-{language}.tsv.gz" for language in LANGUAGES]
    groups, report = read_corpus(files, exclude=tests)
    print("corpus:", report.to_dict())  # noqa: T201
    held_out = write_held_out(groups, SAMPLE / "held_out", arguments.seed)
    groups = choose(without_excluded(groups, held_out), GROUPS, arguments.seed)
    teacher = teachers.load(str(arguments.teacher))
    dataset = write_distillation_set(groups, teacher, SAMPLE / "distillation_set", overwrite=True)
    print(dataset, dataset.counts)  # noqa: T201
    vocabulary = train_vocabulary(dataset, VOCABULARY_SIZE, seed=arguments.seed)
    vocabulary.save(SAMPLE / "vocabulary", overwrite=True)
    (SAMPLE / "ATTRIBUTION.md").write_text(ATTRIBUTION)
    size = sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file())
    print(vocabulary, f"{size / 1e6:.2f} MB")  # noqa: T201


if __name__ == "__main__":
    main()
