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
"""Widths of Matryoshka, besides the whole one."""
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
cell is the mean over the seeds of this mean over languages, ± half the distance between its
highest and its lowest seed; *seconds* is the mean time of the training steps alone.

The losses weigh {" ".join(f"{n}={w:g}" for n, w in Recipe().loss_weights.items())}, also where a
setting leaves some out; when balanced, these are shares. *Squared error* is Reimers' and
Gurevych's recipe: the student's embeddings have no fixed length, and the embedding's weight is
multiplied by d / 2, with which for unit vectors it is the cosine loss. *Guided*:
guide_margin={GUIDE_MARGIN}. *Matryoshka*: widths d, {", ".join(map(str, DIMS))}, each an equal
share of the embedding's weight; embedding and similarity in the teacher's principal axes,
and the start's projection rotated with them.
"""
CUT_CAPTION = """The first components of the embeddings. *Rotated* is the student of the three
losses as it is, its embeddings turned into the teacher's principal axes after training, without
Matryoshka.
"""


def means(figures: dict[str, Any], names: list[str]) -> dict[str, float]:
    return {name: statistics.mean(percentages(figures, *MEANS[name])) for name in names}


def measured(run: dict[str, Any]) -> list[str]:
    """The means that a run has the figures of: a small student has all, a slow one fewer."""
    return [
        name
        for name, (kind, xs) in MEANS.items()
        if any(f.startswith(f"{kind}_{xs[0]}_") for f in run)
    ]


def cell(values: list[float]) -> str:
    """Mean ± half the spread; one seed has none."""
    text = f"{statistics.mean(values):.1f}"
    return text if len(values) == 1 else f"{text} ± {(max(values) - min(values)) / 2:.1f}"


def groups(results: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Runs by (vocabulary, student, steps), and therein by setting, in this file's order."""
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
            lines += [f"## {student}, {words}, {steps:,} steps, cut", "", *rows, ""]
    return "\n".join(lines)
