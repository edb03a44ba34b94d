"""Charts as inline SVG, colored by the style sheet of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["bar_chart", "line_chart"]

# Left, right, top and bottom margin of the plotting area.
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 12, 36
_BAR = 11
_TICKS = 5


def line_chart(
    series: Mapping[str, Sequence[float]], x_label: str, width: int = 720, height: int = 280
) -> str:
    """Draws one line per series over 1, 2, 3, ...

    Args:
        series: Name to values; values that are not finite leave a gap.
        x_label: Label of the x axis.
        width: Width in pixels, before scaling.
        height: Height in pixels, before scaling.

    Returns:
        An `<svg>` element; the classes `s0`, `s1`, ... color the lines.
    """
    finite = [v for values in series.values() for v in values if math.isfinite(v)] or [0.0]
    count = max((len(values) for values in series.values()), default=1)
    ticks = _ticks(min(0.0, *finite), max(finite))
    low, high = ticks[0], ticks[-1]

    def x(step: int) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * ((step - 1) / max(count - 1, 1))

    def y(value: float) -> float:
        return _TOP + (height - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))

    parts = [_grid_line(y(t), width, _number(t)) for t in ticks]
    steps = sorted({1, count, *(round(1 + (count - 1) * i / _TICKS) for i in range(_TICKS + 1))})
    parts += [_text(x(step), height - 18, "middle", str(step)) for step in steps]
    parts.append(_text((width + _LEFT) / 2, height - 2, "middle", x_label))
    for number, (name, values) in enumerate(series.items()):
        points = [(x(i), y(v)) for i, v in enumerate(values, 1) if math.isfinite(v)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in points)
        parts.append(
            f'<g class="s{number}"><title>{escape(name)}</title>'
            f'<polyline points="{path}"/>{dots}</g>'
        )
    return _svg(parts, width, height, "lines")


def bar_chart(
    series: Mapping[str, Mapping[str, float]],
    labels: Sequence[str],
    maximum: float = 100.0,
    width: int = 720,
) -> str:
    """Draws one horizontal bar per label and series.

    Args:
        series: Name to label to value, in [0, `maximum`]; a missing label leaves
            a gap.
        labels: Labels from top to bottom.
        maximum: Value of a bar of full length.
        width: Width in pixels, before scaling.

    Returns:
        An `<svg>` element; the classes `s0`, `s1`, ... color the bars.
    """
    group = _BAR * len(series) + 10
    height = _TOP + group * len(labels) + 24
    scale = (width - _LEFT - 48) / maximum
    parts = []
    for tick in (0, 25, 50, 75, 100):
        x = _LEFT + tick / 100 * maximum * scale
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - 24}"/>'
        )
        parts.append(_text(x, height - 8, "middle", _number(tick / 100 * maximum)))
    for row, label in enumerate(labels):
        top = _TOP + row * group
        parts.append(_text(_LEFT - 10, top + group / 2 - 1, "end", label))
        for number, (name, values) in enumerate(series.items()):
            if label not in values:
                continue
            y, length = top + number * _BAR, max(values[label] * scale, 1.0)
            parts.append(
                f'<g class="s{number}"><title>{escape(name)}: {values[label]:.1f}</title>'
                f'<rect x="{_LEFT}" y="{y:.1f}" width="{length:.1f}" height="{_BAR - 2}" rx="2"/>'
                "</g>"
            )
            parts.append(_text(_LEFT + length + 5, y + _BAR - 3, "start", f"{values[label]:.1f}"))
    return _svg(parts, width, height, "bars")


def _ticks(low: float, high: float) -> list[float]:
    """Returns round numbers from `low` to `high`, in about `_TICKS` steps."""
    raw = max(high - low, 1e-9) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _grid_line(y: float, width: int, label: str) -> str:
    line = f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(_LEFT - 8, y + 4, "end", label)


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], width: int, height: float, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height:.0f}" role="img">'
        + "".join(parts)
        + "</svg>"
    )
