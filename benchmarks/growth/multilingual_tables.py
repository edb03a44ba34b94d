"""Table and plot of `multilingual.py`. The plot needs `pip install "kdkeras[plots]"`."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results import spread

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from static_student import STS, TWELVE, percentages  # noqa: E402

STATIC, ON, GROWN = "static", "on", "grown"
BLOCKS, DROP, RANDOM = "blocks", "drop", "random"
STARTS = {
    ON: "the static student, trained further",
    GROWN: "grown from the static student",
    BLOCKS: "random layers on the static student's table",
    DROP: "layer drop from the teacher",
    RANDOM: "random weights",
}
COLORS = {ON: "C7", GROWN: "C1", BLOCKS: "C4", DROP: "C2", RANDOM: "C0"}
PUD = ["de", "es", "fr", "ru", "zh"]
FIGURES = {
    "STS across": ("across", STS),
    "Tatoeba 12": ("tatoeba", TWELVE),
    f"PUD {len(PUD)}": ("pud", PUD),
}

Runs = Sequence[dict[str, Any]]


def means(point: dict[str, Any]) -> dict[str, float]:
    """Returns the figures of a measurement, means over languages, times 100."""
    return {
        name: statistics.mean(percentages(point, kind, languages))
        for name, (kind, languages) in FIGURES.items()
    }


def table(runs: Runs) -> str:
    """Returns a table with one row per start and budget, means over the seeds."""
    lines = [
        f"| layers | start | steps | 10^12 FLOPs | {' | '.join(FIGURES)} | seeds |",
        "|---" * (len(FIGURES) + 5) + "|",
    ]
    for run in runs:
        if run["start"] == STATIC:
            point = run["points"][0]
            cells = " | ".join(f"{value:.1f}" for value in means(point).values())
            lines.append(
                f"| 0 | the static student | {point['steps']:,} | {point['flops'] / 1e12:.2f} "
                f"| {cells} | 1 |"
            )
    trained = [run for run in runs if run["start"] != STATIC]
    for layers in sorted({run["layers"] for run in trained}):
        budgets = {p["steps"] for run in trained if run["layers"] == layers for p in run["points"]}
        for steps in sorted(budgets):
            for start, name in STARTS.items():
                points = points_of(trained, layers, start, steps)
                if not points:
                    continue
                found = [means(point) for point in points]
                cells = " | ".join(spread([one[n] for one in found], 1) for n in FIGURES)
                lines.append(
                    f"| {layers} | {name} | {steps:,} | {points[0]['flops'] / 1e12:.2f} "
                    f"| {cells} | {len(points)} |"
                )
    return "\n".join(lines) + "\n"


def points_of(runs: Runs, layers: int, start: str, steps: int) -> list[dict[str, Any]]:
    return [
        point
        for run in runs
        if run["layers"] == layers and run["start"] == start
        for point in run["points"]
        if point["steps"] == steps
    ]


def plot(runs: Runs, path: Path) -> None:
    """Plots each figure against the cost of the main run; dashed: the static student."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    trained = [run for run in runs if run["start"] != STATIC]
    static = next(run for run in runs if run["start"] == STATIC)["points"][0]
    depths = sorted({run["layers"] for run in trained} - {0})
    figure, panes = plt.subplots(
        len(depths),
        len(FIGURES),
        figsize=(4 * len(FIGURES), 3.2 * len(depths)),
        squeeze=False,
        constrained_layout=True,
    )
    for row, layers in zip(panes, depths, strict=True):
        for pane, name in zip(row, FIGURES, strict=True):
            for run in trained:
                if run["layers"] != layers:
                    continue
                spent = [point["flops"] / 1e12 for point in run["points"]]
                values = [means(point)[name] for point in run["points"]]
                first = run["seed"] == min(r["seed"] for r in trained)
                label = STARTS[run["start"]] if first else None
                pane.plot(spent, values, COLORS[run["start"]], marker=".", label=label)
            pane.axhline(means(static)[name], color="C7", ls="--", lw=1, label="static student")
            pane.set_title(f"{name}, {layers} layers", fontsize=10)
            pane.set_xlabel("main run, $10^{12}$ FLOPs")
            pane.grid(alpha=0.3)
    panes[0][0].legend(fontsize=7)
    part = path.with_name("part-" + path.name)
    figure.savefig(part, dpi=110)
    plt.close(figure)
    part.replace(path)
