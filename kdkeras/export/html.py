"""Elements of the report's HTML page: style sheet, sections, tables and legends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from kdkeras.export.wording import language_name

__all__ = ["document", "language_cell", "legend", "percent_text", "section", "table"]

_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f6f7f9; --paper: #ffffff; --ink: #1b2330; --faint: #5d6878; --line: #dfe3e9;
  --good: #14794a; --bad: #b3261e; --bad-ground: #fdecea;
  --s0: #9aa5b4; --s1: #2563c9; --s2: #d9822b; --s3: #14866d; --s4: #8e4ec6; --s5: #c2417c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #12161c; --paper: #1a2029; --ink: #e6eaf0; --faint: #9aa6b6; --line: #2d3643;
    --good: #5bd197; --bad: #ff8a80; --bad-ground: #3a1f1f;
    --s0: #6f7c8d; --s1: #6ea8ff; --s2: #f0a55a; --s3: #4cc9a8; --s4: #c39bf0; --s5: #f08bb8;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1040px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 28px; line-height: 1.25; margin: 0 0 24px; }
h2 { font-size: 18px; margin: 0 0 4px; }
.kicker { margin: 0 0 4px; color: var(--faint); font-size: 13px; }
.note { margin: 0 0 16px; color: var(--faint); max-width: 72ch; }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); }
.card, section {
  background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
}
.card { padding: 16px 18px; display: flex; flex-direction: column; }
.card b { font-size: 26px; font-weight: 650; line-height: 1.3; }
.card small { color: var(--faint); font-size: 13px; }
section { margin-top: 16px; padding: 22px 24px; }
section.failed { border-color: var(--bad); background: var(--bad-ground); }
section.failed ul { margin: 8px 0 0; padding-left: 20px; }
svg { width: 100%; height: auto; display: block; margin: 0 0 16px; }
svg text { fill: var(--faint); font-size: 11px; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg polyline { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
svg circle, svg rect { fill: currentColor; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); }
.s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
svg.lines .s0, .legend:has(+ svg.lines) .s0 { color: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 10px; font-size: 13px; }
.legend i {
  display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px;
  background: currentColor;
}
.legend span { color: var(--ink); }
.legend .s0 i { color: var(--s0); } .legend .s1 i { color: var(--s1); }
.legend .s2 i { color: var(--s2); } .legend .s3 i { color: var(--s3); }
.legend .s4 i { color: var(--s4); } .legend .s5 i { color: var(--s5); }
.legend:has(+ svg.lines) .s0 i { color: var(--ink); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 7px 10px; text-align: left; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--faint); font-size: 13px; white-space: nowrap; }
th[colspan] { text-align: center; border-bottom: 0; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
td:first-child { min-width: 118px; }
td small, code { color: var(--faint); font-size: 12.5px; }
.yes { color: var(--good); font-weight: 600; } .no { color: var(--bad); font-weight: 600; }
@media print { body { background: none; } section, .card { break-inside: avoid; } }
"""


def document(title: str, body: str) -> str:
    """Returns a complete page that needs no other file.

    Args:
        title: The heading, as plain text.
        body: The sections, as HTML.
    """
    title = escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><main>\n<header><p class='kicker'>kdkeras report</p><h1>{title}</h1></header>\n"
        f"{body}\n</main></body></html>\n"
    )


def section(title: str, note: str, body: str) -> str:
    """Returns a section with a heading and an optional note."""
    note = f"<p class='note'>{note}</p>" if note else ""
    return f"<section><h2>{title}</h2>{note}{body}</section>"


def legend(names: Iterable[str]) -> str:
    """Returns a legend for the colors of a chart's series."""
    items = "".join(
        f"<span class='s{number}'><i></i>{escape(name)}</span>" for number, name in enumerate(names)
    )
    return f"<p class='legend'>{items}</p>"


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], above: str = "", text: int = 1
) -> str:
    """Returns a table.

    Args:
        head: Column headings; without any text the table has no head.
        rows: Cells per row, as HTML.
        above: A row above the headings, as HTML.
        text: Number of leading columns that contain text. The others contain
            numbers and are aligned right.
    """

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{'' if i < text else ' class=n'}>{value}</{tag}>"
            for i, value in enumerate(values)
        )

    top = f"<thead>{above}<tr>{cells('th', head)}</tr></thead>" if any(head) else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class='scroll'><table>{top}<tbody>{body}</tbody></table></div>"


def language_cell(code: str) -> str:
    """Returns name and code of a language as HTML."""
    return f"{escape(language_name(code))} <small>{escape(code)}</small>"


def percent_text(share: float | None) -> str:
    """Returns a fraction in percent; a dash for None."""
    return "–" if share is None else f"{share * 100:.1f}"
