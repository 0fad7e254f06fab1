"""Dot charts with intervals, drawn by matplotlib as SVG to be put into a page.

A panel shows one column of a table: a line for each row, ours as a dot with its interval, the published value as a
hollow diamond. It has numbers for its only text and takes its colours from five CSS variables of the page, so that
it is readable in light and dark; names, which may be Chinese or hold markup, are the page's to write beside it. The
same cells give the same bytes: no date, and ids that depend on nothing but `name`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from zhclip_openclip.report._model import Cell

ROW = 30  # CSS pixels of a line; the page's labels stand beside the lines, so its stylesheet takes them from here
TOP, FOOT = 4, 24
WIDTH = 248
_SIDE = 19  # half of the longest number below the axis, "99.25"
_LEAST = 2.0  # percentage points an axis spans at least: with less, rounding looks like a difference

# Not colours: what stands in the SVG until the variables take their places.
_COLOURS = {
    "#0c0000": "var(--chart-ours)",
    "#0c0001": "var(--chart-off)",
    "#0c0002": "var(--chart-published)",
    "#0c0003": "var(--chart-grid)",
    "#0c0004": "var(--chart-text)",
}
_OURS, _OFF, _PUBLISHED, _GRID, _TEXT = _COLOURS


def panel(cells: Sequence[Cell], names: Sequence[str], name: str, label: str) -> str:
    """The SVG of one column of a table.

    Args:
        cells: a cell for each line, from the top down; at least one with a value.
        names: what the lines are called in the tooltips.
        name: of the panel, and of no other on the page.
        label: what a screen reader says.

    Returns:
        An `<svg>` element, `WIDTH` wide and `TOP + ROW * len(cells) + FOOT` high.
    """
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    height = TOP + ROW * len(cells) + FOOT
    low, high = limits(cells)
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 11,
        "xtick.color": _GRID,
        "xtick.labelcolor": _TEXT,
        "lines.solid_capstyle": "round",
    }
    with matplotlib.style.context(["default", style], after_reset=True):  # whatever the user's matplotlibrc says
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)  # so that a point is a pixel
        figure.patch.set_visible(False)
        box = (_SIDE / WIDTH, FOOT / height, 1 - 2 * _SIDE / WIDTH, ROW * len(cells) / height)
        axes = figure.add_axes(box, frameon=False, xlim=(low, high), ylim=(len(cells) - 0.5, -0.5), yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        axes.set_xticks([tick for tick in axes.get_xticks() if max(low, 0) <= tick <= min(high, 100)])
        axes.hlines(range(len(cells)), low, high, _GRID, linewidth=0.75, clip_on=False)
        axes.vlines(axes.get_xticks(), -0.5, len(cells) - 0.5, _GRID, linewidth=0.75, clip_on=False)
        for line, cell in enumerate(cells):
            _draw(axes, line, cell)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    tooltips = {f"line {line}": f"{names[line]}: {describe(cell)}" for line, cell in enumerate(cells)}
    return _for_a_page(file.getvalue(), label, tooltips)


def limits(cells: Sequence[Cell]) -> tuple[float, float]:
    """Both ends of the axis: all values and intervals with some air, of at least two percentage points."""
    values = [
        value for cell in cells for value in (cell.published, cell.ours, cell.low, cell.high) if value is not None
    ]
    low, high = min(values), max(values)
    air = max(0.07 * (high - low), (_LEAST - (high - low)) / 2)
    return low - air, high + air


def _draw(axes: Any, line: int, cell: Cell) -> None:
    ours = _OFF if cell.verdict == "off" else _OURS
    more = {"clip_on": False, "gid": f"line {line}"}
    if cell.low is not None and cell.high is not None:
        axes.plot([cell.low, cell.high], [line, line], color=ours, linewidth=2, **more)
    if cell.ours is not None:
        axes.plot(cell.ours, line, "o", color=ours, markersize=6.5, markeredgewidth=0, **more)
    if cell.published is not None:
        axes.plot(
            *(cell.published, line, "D"), markerfacecolor="none", markeredgecolor=_PUBLISHED, markersize=8.5, **more
        )


def describe(cell: Cell) -> str:
    """A cell in words: '67.81 (64.93 to 70.62), published 68.00'."""
    parts = []
    if cell.ours is not None:
        interval = f" ({cell.low:.2f} to {cell.high:.2f})" if cell.low is not None and cell.high is not None else ""
        parts.append(f"{cell.ours:.2f}{interval}")
    if cell.published is not None:
        parts.append(f"published {cell.published:.2f}")
    return ", ".join(parts) or "no value"


def _for_a_page(svg: str, label: str, tooltips: dict[str, str]) -> str:
    """The SVG file as an element: ids that several charts would share go, and so do its fonts and its stylesheet."""
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    svg = re.sub(r"font-(?:size|family): [^;\"]*;\s*", "", svg)
    svg = re.sub(r'(<svg [^>]*?)width="(\d+)pt" height="(\d+)pt"', r'\1width="\2" height="\3"', svg)
    for placeholder, variable in _COLOURS.items():
        svg = svg.replace(placeholder, variable)
    svg = re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", svg)).strip()

    def group(match: re.Match[str]) -> str:
        tooltip = tooltips.get(match[1])
        return f"<g><title>{escape(tooltip)}</title>" if tooltip else "<g>"

    svg = re.sub(r'<g id="([^"]*)">', group, re.sub(r'<g id="[^"]*"/>', "", svg))
    return svg.replace("<svg ", f'<svg class="chart" role="img" aria-label="{escape(label)}" ', 1)
