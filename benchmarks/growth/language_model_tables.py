"""Table and plot of `language_model.py`. The plot needs `pip install "kdkeras[plots]"`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from costs import reached_at, saving
from results import spread

SCRATCH, SMALL = "scratch", "small"
GROWN = {
    "function": "grown, function preserved, Adam's moments mapped",
    "fresh": "grown, function preserved, new moments",
    "knowledge": "grown, AKI and stacking, new moments",
}
NAMES = {SCRATCH: "large, from random weights", SMALL: "small, from random weights", **GROWN}
COLORS = {SCRATCH: "C0", SMALL: "C7", "function": "C1", "fresh": "C2", "knowledge": "C3"}

Runs = Sequence[dict[str, Any]]


def savings(run: dict[str, Any], scratch: dict[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """Returns the saved fraction of the cost until the final loss from scratch is reached.

    Returns:
        `given`: without the cost of the small model; `counted`: with it. None if the loss was
        not reached.
    """
    whole, before = scratch["flops"][-1], small["flops"][-1]
    cost = reached_at(run["flops"], run["losses"], scratch["losses"][-1])
    return {
        "given": saving(cost, whole),
        "counted": saving(None if cost is None else cost + before, whole),
    }


def groups(runs: Runs, way: str) -> list[dict[int, dict[str, Any]]]:
    """Groups the runs of one method by number of steps, increasing, and then by seed."""
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for run in runs:
        if run["way"] == way:
            found.setdefault(run["planned"], {})[run["seed"]] = run
    return [dict(sorted(found[planned].items())) for planned in sorted(found)]


def by_seed(runs: Runs, way: str) -> dict[int, dict[str, Any]]:
    """Returns the longest runs of a method by seed."""
    return (groups(runs, way) or [{}])[-1]


def percent(values: list[float | None]) -> str:
    reached = [100 * value for value in values if value is not None]
    if not reached:
        return "not reached"
    missing = len(values) - len(reached)
    return spread(reached, 1) + (f" (not reached: {missing})" if missing else "")


def table(runs: Runs) -> str:
    """Returns a table with one row per method, means over the seeds."""
    lines = [
        "| run | rate | steps | 10^12 FLOPs | first loss | final loss "
        "| saved, small model given, % | saved, small model counted, % | seeds |",
        "|---" * 9 + "|",
    ]
    scratch, small = by_seed(runs, SCRATCH), by_seed(runs, SMALL)
    for way in NAMES:
        for found in groups(runs, way):
            lines.append(row(way, found, scratch, small))
    return "\n".join(lines) + "\n"


def row(way: str, found: dict[int, Any], scratch: dict[int, Any], small: dict[int, Any]) -> str:
    first = next(iter(found.values()))
    cells = ["", ""]
    if way in GROWN:
        pairs = [savings(run, scratch[seed], small[seed]) for seed, run in found.items()]
        cells = [percent([pair[name] for pair in pairs]) for name in ("given", "counted")]
    losses = [spread([run["losses"][place] for run in found.values()], 3) for place in (0, -1)]
    return (
        f"| {NAMES[way]} | {first['rate']:g} | {first['planned']:,} "
        f"| {first['flops'][-1] / 1e12:.2f} | {' | '.join([*losses, *cells])} | {len(found)} |"
    )


def seeds_table(runs: Runs) -> str:
    """Returns a table with one row per seed: the final losses and the savings."""
    lines = [
        "| seed | small | from scratch | grown | steps grown | saved, given, % | counted, % |",
        "|---" * 7 + "|",
    ]
    scratch, small = by_seed(runs, SCRATCH), by_seed(runs, SMALL)
    for seed, one in scratch.items():
        for found in groups(runs, "function"):
            if seed not in found:
                continue
            run = found[seed]
            saved = savings(run, one, small[seed])
            cells = [percent([saved[name]]) for name in ("given", "counted")]
            losses = [r["losses"][-1] for r in (small[seed], one, run)]
            lines.append(
                f"| {seed} | {' | '.join(f'{loss:.3f}' for loss in losses)} "
                f"| {run['planned']} | {' | '.join(cells)} |"
            )
    return "\n".join(lines) + "\n"


def plot(runs: Runs, path: Path) -> None:
    """Plots the held-out loss against the cost, without and with that of the small model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, constrained_layout=True)
    small = by_seed(runs, SMALL)
    for pane, counted in zip(panes, (False, True), strict=True):
        for way, name in NAMES.items():
            for number, (seed, run) in enumerate(by_seed(runs, way).items()):
                before = small[seed]["flops"][-1] if counted and way in GROWN else 0
                spent = [(flops + before) / 1e12 for flops in run["flops"]]
                label = name if number == 0 else None
                pane.plot(spent, run["losses"], COLORS[way], lw=1.2, alpha=0.8, label=label)
        for run in by_seed(runs, SCRATCH).values():
            pane.axhline(run["losses"][-1], color=COLORS[SCRATCH], lw=0.6, ls=":")
        pane.set_title("small model counted" if counted else "small model given")
        pane.set_xlabel("training cost, $10^{12}$ FLOPs")
        pane.grid(alpha=0.3)
    panes[0].set_ylabel("held-out loss, nats per masked token")
    panes[0].legend(fontsize=8)
    part = path.with_name("part-" + path.name)
    figure.savefig(part, dpi=110)
    plt.close(figure)
    part.replace(path)
