"""Exports a trained student to savedmodels/, verifies it by language and writes its model card.

    python scripts/release_student.py RUNS/static/mixed-65536/student.keras \
        --name static-multilingual-28 --held-out DATA/bitext/tatoeba \
        --results RUNS/static/results.json --run mixed:65536

Use it only for students that were trained on the corpora named in the card below.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

LIMIT_MB = 25


def main() -> None:
    """Exports and verifies the student and writes the card; the maximum size is 25 MB."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student", type=Path, help="trained student, .keras")
    parser.add_argument("--name", required=True, help="name of the released student")
    parser.add_argument(
        "--held-out",
        type=Path,
        required=True,
        help="folder of the Tatoeba test sets, {iso}-eng.tsv.gz",
    )
    parser.add_argument("--results", type=Path, required=True, help="results.json of the run")
    parser.add_argument("--run", required=True, help="key of the run in results.json")
    parser.add_argument(
        "--output", type=Path, default=Path("savedmodels"), help="default savedmodels"
    )
    arguments = parser.parse_args()

    from static_student import LANGUAGES, STS

    import kdkeras
    from kdkeras import export
    from kdkeras.data.text_files import read_translations
    from kdkeras.export import TrainingData

    student = kdkeras.load(arguments.student)
    files = {lang: arguments.held_out / f"{iso}-eng.tsv.gz" for lang, iso in LANGUAGES.items()}
    pairs = {language: read_translations(path) for language, path in files.items()}
    folder = arguments.output / arguments.name
    export.export_student(
        student, folder, formats=["tflite_int8"], overwrite=True, name=arguments.name
    )
    parity = export.verify(folder, student, pairs)
    results = json.loads(arguments.results.read_text())[arguments.run]
    trained = {language: results[f"tatoeba_{language}_accuracy"] for language in LANGUAGES}
    across = " · ".join(f"{x} {100 * results[f'across_{x}_spearman']:.1f}" for x in STS)
    export.write_model_card(
        folder,
        teacher="sentence-transformers/all-MiniLM-L6-v2",
        license="apache-2.0",
        training_data=[
            TrainingData(
                name="tatoeba",
                description="782,000 pairs of everyday sentences in 28 languages and English.",
                license="CC BY 2.0 FR",
                attribution="© the contributors of [tatoeba.org](https://tatoeba.org), through "
                "[manythings.org/anki](https://www.manythings.org/anki/) and OPUS.",
            ),
            TrainingData(
                name="tico19",
                description="19,000 pairs of medical and news sentences in nine languages.",
                license="CC0",
                attribution="TICO-19, the Translation Initiative for COVID-19.",
            ),
        ],
        accuracy={"trained": trained},
        parity=parity,
        details={
            "losses": " ".join(results["losses"]),
            "pairs per step": 256,
            "training time in seconds": results["seconds"],
            "STS across languages, Spearman x 100": across,
        },
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    if size > LIMIT_MB:
        sys.exit(
            f"A released student must have at most {LIMIT_MB} MB. Received: {size:.1f} MB. "
            "Use a smaller vocabulary."
        )
    sys.stderr.write(f"{folder}: {size:.1f} MB\n")


if __name__ == "__main__":
    main()
