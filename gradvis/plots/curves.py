"""Curves in a matplotlib axes: one result with a second metric on the right, or several results together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gradvis.arrays import Values
from gradvis.plots.marks import HATCH, draw, handles, legend, style
from gradvis.plots.palette import LINES
from gradvis.plots.scale import Scale, limits
from gradvis.plots.view import View, intervals, runs

BAND = "± 1 standard error"
STROKES = ("-", "--", ":")


def one(ax: Any, seen: View, scale: Scale, metric: str, second: tuple[View, str] | None = None) -> None:
    """A curve with its standard error, its marks, and hatches where it diverged.

    Args:
        ax: The axes.
        seen: What is drawn.
        scale: Its heights.
        metric: What it is called.
        second: A metric between 0 and 1 for an axis on the right, and what it is called.
    """
    (x,) = seen.axes
    frame(ax, x, scale)
    line = _stroke(ax, seen, LINES[0], "-", metric.partition(" (")[0])
    band = _band(ax, [(seen, LINES[0])], scale)
    for span in intervals(x, seen.diverged):
        ax.axvspan(*span, zorder=0, **HATCH)
    for mark in seen.marks:
        draw(ax, mark, (*mark.coords, mark.value))
    entries = [*band, *handles(seen)]
    if second:
        ax.yaxis.label.set_color(LINES[0])
        entries = [line, _second(ax, *second), *entries]
    legend(ax, entries, letters=letters_above(ax))


def several(ax: Any, views: Sequence[View], names: Sequence[str], scale: Scale) -> None:
    """The curves of several results, each in its colour; a cross at the bottom where one diverged."""
    frame(ax, views[0].axes[0], scale)
    colors = [LINES[i % len(LINES)] for i in range(len(views))]
    entries: list[Any] = []
    for i, (seen, color, name) in enumerate(zip(views, colors, names, strict=True)):
        entries.append(_stroke(ax, seen, color, STROKES[i // len(LINES) % len(STROKES)], name))
        for mark in seen.marks:
            if mark.kind == "minimum":
                ax.plot(*mark.coords, mark.value, **style("minimum") | {"markerfacecolor": color}, zorder=10)
        at = seen.axes[0][seen.diverged]
        ax.plot(at, 0.02 + 0 * at, "x", color=color, transform=ax.get_xaxis_transform())
    entries += _band(ax, list(zip(views, colors, strict=True)), scale)
    entries.append(Line2D([], [], label="minimum", **style("minimum") | {"markerfacecolor": "none"}))
    if any(seen.diverged.any() for seen in views):
        entries.append(Line2D([], [], label="diverged", color="black", marker="x", linestyle="none"))
    low, high = zip(*((seen.axes[0].min(), seen.axes[0].max()) for seen in views), strict=True)
    ax.set_xlim(min(low), max(high))
    legend(ax, entries, letters=letters_above(ax))


def letters_above(ax: Any) -> int:
    """How many letters of a legend fit above axes, some 0.55 em wide."""
    width = ax.get_position().width * ax.get_figure(root=True).get_figwidth()
    return int(width * 72 / (0.9 * rcParams["font.size"] * 0.55))


def frame(ax: Any, x: Values, scale: Scale) -> None:
    """Axes from the first to the last x, before anything is in them: names of marks look where there is room."""
    if scale.log:
        levels = scale.levels(8)
        ax.set_yscale("log")
        ax.set_yticks(levels, scale.texts(levels))
        ax.set_yticks([], minor=True)
    if scale.low < scale.high:
        ax.set_ylim(limits(scale))
    if x.min() < x.max():
        ax.set_xlim(x.min(), x.max())
    ax.grid(color="0.9", linewidth=0.6)


def _stroke(ax: Any, seen: View, color: str, dashes: Any, label: str) -> Line2D:
    """Broken where points are missing or diverged; a point without neighbours is a dot."""
    alone = [start for start, stop in runs(np.isfinite(seen.values)) if stop - start == 1]
    (line,) = ax.plot(
        seen.axes[0], seen.values, color=color, linestyle=dashes, label=label,
        marker=".", markevery=alone,
    )  # fmt: skip
    plain: Line2D = Line2D([], [], color=color, linestyle=dashes, label=label)
    line.set_zorder(3)
    return plain


def _band(ax: Any, curves: Sequence[tuple[View, str]], scale: Scale) -> list[Patch]:
    """Bands of a standard error to both sides, and what the legend says of them."""
    known = [(seen, color) for seen, color in curves if seen.stderr is not None]
    for seen, color in known:
        edges = band(seen, scale)
        ax.fill_between(seen.axes[0], *edges, color=color, alpha=0.22, linewidth=0)
    color = LINES[0] if len(curves) == 1 else "0.5"
    return [Patch(label=BAND, color=color, alpha=0.22, linewidth=0)] if known else []


def band(seen: View, scale: Scale) -> tuple[Values, Values]:
    """The edges of a band; renderers cannot fill far beyond the axes, so there it is cut."""
    assert seen.stderr is not None
    low, high = limits(scale)
    least, most = (low**2 / high, high**2 / low) if scale.log else (2 * low - high, 2 * high - low)
    lower, upper = (np.clip(seen.values + sign * seen.stderr, least, most) for sign in (-1, 1))
    return lower, upper


def _second(ax: Any, seen: View, name: str) -> Line2D:
    """A metric between 0 and 1 on an axis of its own."""
    beside = ax.twinx()
    beside.set_ylim(-0.05, 1.05)
    beside.set_ylabel(name, color=LINES[1])
    ax.set_zorder(beside.get_zorder() + 1)  # marks and their names stay on top
    ax.patch.set_visible(False)
    ax.grid(visible=False)  # horizontal lines could mean either axis; vertical ones lie below both
    beside.grid(axis="x", color="0.9", linewidth=0.6)
    line = _stroke(beside, seen, LINES[1], "--", name.partition(" (")[0])
    _band(beside, [(seen, LINES[1])], Scale(False, 0.0, 1.0))
    return line
