"""Spectra of several checkpoints one behind the other: each density on a logarithmic scale of its own place."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from matplotlib import colormaps, rcParams
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from gradvis.plots.eigen_axis import Axis
from gradvis.plots.palette import STEPS, STEPS_TO
from gradvis.plots.ridge_rows import OVERLAP, crest, rows_of, span
from gradvis.plots.scale import round_to
from gradvis.plots.spectra import Curve
from gradvis.plots.spectrum_axes import across_of, key, told
from gradvis.plots.static import Size, blank
from gradvis.plots.words import number, shortened

_LABELS = 24  # rows that have room for a name


def draw(curves: Sequence[Curve], titles: Sequence[str], across: Axis, shape: Size, text: str) -> Figure:
    """The figure: the first spectrum on top, each in its colour, its extreme eigenvalues along its base."""
    figure, room = blank(_height(len(curves), shape), shape, text)
    figure.set_layout_engine("constrained", rect=room)
    ax = figure.add_subplot()
    across_of(ax, across)
    for row, (seen, heights, color) in enumerate(zip(curves, rows_of(curves), colors(len(curves)), strict=True)):
        base, depth = len(curves) - 1.0 - row, 2 * row
        ax.fill_between(seen.x, base, base + heights, color=color, alpha=0.75, linewidth=0, zorder=depth + 2)
        (line,) = ax.plot(seen.x, base + crest(heights), color=color, linewidth=0.8, zorder=depth + 3, gid="ridge")
        line.set_path_effects([withStroke(linewidth=1.6, foreground="white")])
        for converged in (True, False):
            values = seen.values[seen.converged == converged]
            ax.plot(values, base + 0 * values, zorder=2 * len(curves) + 4, **tick(converged))
    _names(ax, titles)
    low, high = (round_to(end, 1) for end in span(curves))
    ax.set(xlabel=across.label, ylabel=f"log density, {number(low)} to {number(high)}")
    there = [state for state in (True, False) if any((each.converged == state).any() for each in curves)]
    key(figure, [Line2D([], [], label=told(state), **tick(state)) for state in there])
    return figure


def tick(converged: bool) -> dict[str, Any]:
    """How an eigenvalue is marked on the base of a ridge."""
    color, points = "black" if converged else "0.6", rcParams["font.size"]
    return {
        "marker": "|", "linestyle": "none", "markeredgecolor": color, "markersize": 0.8 * points,
        "markeredgewidth": points / 10, "gid": told(converged),
    }  # fmt: skip


def _height(count: int, shape: Size) -> float:
    """Inches, as looked at for each size."""
    most = (1.6 if shape.stacked else 0.85) * shape.width
    return min(most, (0.35 if shape.stacked else 0.22) * shape.width + 2.6 * count * shape.font / 72)


def _names(ax: Any, titles: Sequence[str]) -> None:
    every = ceil(len(titles) / _LABELS)
    shown = range(0, len(titles), every)
    ax.set_yticks([len(titles) - 1 - i for i in shown], [shortened(titles[i], 20) for i in shown])
    ax.set_ylim(-0.25, len(titles) - 1 + OVERLAP * 1.05)
    ax.tick_params(axis="y", length=0)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)


def colors(count: int) -> list[Any]:
    """From dark to light in their order."""
    return [colormaps[STEPS](STEPS_TO * i / max(count - 1, 1)) for i in range(count)]
