"""The settings of `ablation.py`, and the tables of its results."""

from __future__ import annotations

import os
import platform
import statistics
from typing import Any

from static_student import FURTHER, STS, TWELVE, percentages

from kdkeras.recipe import Recipe

START = "start"
MSE = "embedding_mse"
RANKING = "ranking"
SETTINGS = {
    START: "none: the start, untrained",
    MSE: "embedding alone, squared error",
    "embedding": "embedding alone, cosine",
    "similarity": "embedding + similarity",
    RANKING: "embedding + similarity + ranking",
    "guided": "the three, ranking guided by the teacher",
    "matryoshka": "the three, embedding as Matryoshka (default)",
    "balanced": "the three, balanced by RunningMagnitude",
}
GUIDE_MARGIN = 0.1
DIMS = [256, 128, 64, 32]
"""Widths of Matryoshka in addition to the full width."""
PUD = "ar cs de es fi fr gl hi id is it ja ko pl pt ru sv th tr zh".split()
MEANS = {
    "STS across": ("across", STS),
    "STS within": ("within", [*STS, "en"]),
    "Tatoeba 12": ("tatoeba", TWELVE),
    "Tatoeba 16": ("tatoeba", FURTHER),
    "PUD 20": ("pud", PUD),
}
CUT_TITLES = {
    RANKING: SETTINGS[RANKING],
    f"{RANKING}_rotated": "the same, rotated",
    "matryoshka": SETTINGS["matryoshka"],
}
CUT_MEANS = [name for name in MEANS if name.startswith(("STS across", "Tatoeba"))]

CAPTION = f"""Spearman x 100 (STS) and accuracy in % (retrieval), means over languages: *STS
across* 10 (English sentence 1, foreign sentence 2), *STS within* the same and English, *Tatoeba*
the 12 and the 16 further languages of `static_student.py` against English, *PUD* English against
20 (of which gl and is are in no training pair). Retrieval is the mean of both directions. Each
cell is the mean over the seeds of this mean over languages, ± half the difference between the
highest and the lowest seed; *seconds* is the mean duration of the training steps only.

The loss weights are {" ".join(f"{n}={w:g}" for n, w in Recipe().loss_weights.items())}, also where
a row omits some; with balancing they are shares. *Squared error* is the recipe of Reimers and
Gurevych (2020): the student's embeddings have no fixed length, and the embedding's weight is
multiplied by d / 2, with which it equals the cosine loss for unit vectors. *Guided*:
guide_margin={GUIDE_MARGIN}. *Matryoshka*: widths d, {", ".join(map(str, DIMS))}, each with an equal
share of the embedding's weight; the rotation to the teacher's principal axes is inside the loss.
"""
CUT_CAPTION = """Truncated embeddings. *Rotated* is the student of the three losses, rotated to
the teacher's principal axes after training, without Matryoshka.
"""


def means(figures: dict[str, Any], names: list[str]) -> dict[str, float]:
    return {name: statistics.mean(percentages(figures, *MEANS[name])) for name in names}


def measured(run: dict[str, Any]) -> list[str]:
    """Returns the names of the means whose figures a run contains; slow students have fewer."""
    return [
        name
        for name, (kind, xs) in MEANS.items()
        if any(f.startswith(f"{kind}_{xs[0]}_") for f in run)
    ]


def cell(values: list[float]) -> str:
    """Returns the mean ± half the range; a single value has no range."""
    text = f"{statistics.mean(values):.1f}"
    return text if len(values) == 1 else f"{text} ± {(max(values) - min(values)) / 2:.1f}"


def groups(results: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Groups runs by (vocabulary, student, steps), then by setting in the order of `SETTINGS`."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for setting in SETTINGS:
        for run in results:
            if run["setting"] == setting:
                group = found.setdefault((run["vocabulary"], run["student"], run["steps"]), {})
                group.setdefault(setting, []).append(run)
    return found


def losses_table(group: dict[str, list[dict[str, Any]]]) -> list[str]:
    names = measured(next(iter(group.values()))[0])
    lines = [f"| losses | {' | '.join(names)} | seconds | seeds |", "|---" * (len(names) + 3) + "|"]
    for setting, runs in group.items():
        found = [means(run, names) for run in runs]
        cells = [cell([one[name] for one in found]) for name in names]
        seconds = statistics.mean(run["seconds"] for run in runs)
        lines.append(f"| {SETTINGS[setting]} | {' | '.join(cells)} | {seconds:.0f} | {len(runs)} |")
    return lines


def cut_table(group: dict[str, list[dict[str, Any]]]) -> list[str]:
    found: dict[str, list[dict[str, Any]]] = {}
    for runs in group.values():
        for run in runs:
            for name, by_width in run["cut"].items():
                found.setdefault(name, []).append(by_width)
    if not found:
        return []
    first = next(iter(found.values()))[0]
    dims, figures = list(first), list(next(iter(first.values())))
    lines = [f"| figure | losses | {' | '.join(dims)} |", "|---" * (len(dims) + 2) + "|"]
    for figure in figures:
        for name, seeds in found.items():
            cells = " | ".join(cell([one[dim][figure] for one in seeds]) for dim in dims)
            lines.append(f"| {figure} | {CUT_TITLES[name]} | {cells} |")
    return lines


def table(results: list[dict[str, Any]]) -> str:
    lines = [f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "", CAPTION]
    found = groups(results)
    for (words, student, steps), group in found.items():
        lines += [f"## {student}, {words}, {steps:,} steps", "", *losses_table(group), ""]
    lines.append(CUT_CAPTION)
    for (words, student, steps), group in found.items():
        if rows := cut_table(group):
            lines += [f"## {student}, {words}, {steps:,} steps, truncated", "", *rows, ""]
    return "\n".join(lines)
