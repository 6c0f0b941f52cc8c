"""Draws one view into one matplotlib axes: a line, a contour or a 3-D surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.colors import Normalize
from matplotlib.contour import ContourSet
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from gradvis.arrays import Values
from gradvis.plots.scale import Scale
from gradvis.plots.view import View

CMAP = "viridis"
_HATCH: dict[str, Any] = {"facecolor": "0.93", "edgecolor": "0.6", "hatch": "////", "linewidth": 0.0}
_MARKS = {"centre": ("P", "white", 1.0), "minimum": ("*", "#ff8c1a", 1.05)}  # shape, colour, size in font sizes


@dataclass(frozen=True, eq=False)
class Panel:
    """What one axes shows.

    Attributes:
        kind: `line`, `contour` or `surface`.
        view: The metric on its axes.
        labels: What the axes are called, k of them.
        metric: What the metric is called.
        title: What tells this panel from its neighbours.
        bar: Whether it has a colour bar.
    """

    kind: str
    view: View
    labels: tuple[str, ...]
    metric: str
    title: str = ""
    bar: bool = True

    def draw(self, ax: Any, scale: Scale, own: bool = True) -> ContourSet | None:
        """Draw into axes of the right projection; the lines that want labels come back.

        Args:
            ax: The axes.
            scale: Heights and colours.
            own: Whether the axes are ours, and a colour bar may stand beside them.
        """
        if self.kind == "line":
            return _line(ax, self, scale)
        if self.kind == "surface":
            return _relief(ax, self, scale)
        return _contour(ax, self, scale, own)


def _line(ax: Any, panel: Panel, scale: Scale) -> None:
    (x,), values = panel.view.axes, panel.view.values
    ax.plot(x, np.clip(values, scale.low, scale.high), color="#31688e")
    ax.set(xlabel=panel.labels[0], ylabel=panel.metric, xlim=(x.min(), x.max()))
    if scale.log:
        levels = scale.levels(8)
        ax.set_yscale("log")
        ax.set_yticks(levels, scale.texts(levels))
        ax.set_yticks([], minor=True)
    ax.grid(color="0.9", linewidth=0.6)
    _backdrop(ax, panel.view, np.array([[x.min(), x.max()], ax.get_ylim()]), panel.view.diverged)
    for mark in panel.view.marks:
        _mark(ax, mark.kind, (*mark.coords, np.clip(mark.value, scale.low, scale.high)))
    _legend(ax, panel)


def _contour(ax: Any, panel: Panel, scale: Scale, own: bool) -> ContourSet | None:
    seen = panel.view
    x, y = seen.axes
    heights = np.ma.masked_invalid(scale.draw(seen.values)).T  # matplotlib wants a row for each y
    _backdrop(ax, seen, np.array([[x.min(), x.max()], [y.min(), y.max()]]), seen.diverged)
    lines = None
    if heights.count():
        colors = {"cmap": CMAP, "norm": norm(scale)}
        filled = ax.contourf(x, y, heights, levels=bands(scale), extend=scale.extend, **colors)
        _colorbar(ax, filled, panel, scale, own)
        inside = scale.levels(10)
        if inside:
            at = scale.draw(np.array(inside))
            lines = ax.contour(x, y, heights, levels=at, colors=_ink(at, scale), linewidths=0.5 * rcParams["font.size"] / 8)
    for mark in seen.marks:
        _mark(ax, mark.kind, mark.coords)
    ax.set(xlabel=panel.labels[0], ylabel=panel.labels[1], xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    ax.locator_params(nbins=5)
    ratio = np.ptp(x) / np.ptp(y)
    ax.set_aspect("equal" if 0.5 <= ratio <= 2 else "auto")
    _legend(ax, panel)
    return lines


def label_lines(ax: Any, lines: ContourSet, scale: Scale) -> None:
    """Write the levels into the lines; the layout must be settled, for the room of a label is counted in pixels."""
    names = dict(zip(lines.levels, scale.texts(scale.levels(10)), strict=True))
    ax.clabel(lines, fmt=names, fontsize=0.8 * rcParams["font.size"], inline_spacing=3)


def _relief(ax: Any, panel: Panel, scale: Scale) -> None:
    seen = panel.view
    x, y = np.meshgrid(*seen.axes, indexing="ij")
    heights = scale.draw(seen.values)
    if np.isfinite(heights).any():
        ax.plot_surface(
            x, y, heights, cmap=CMAP, norm=norm(scale), rcount=50, ccount=50, linewidth=0.15, edgecolor=(0, 0, 0, 0.3), antialiased=True, zorder=1
        )
    ax.computed_zorder = False  # the marks are seen through the surface
    for mark in seen.marks:
        _mark(ax, mark.kind, (*mark.coords, float(scale.draw(mark.value))))
    bottom, top = bands(scale)[[0, -1]]
    levels = scale.levels(6)
    ax.set_zticks(scale.draw(np.array(levels)), scale.texts(levels))
    ax.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()), zlim=(bottom, top))
    more = rcParams["font.size"] - 8  # matplotlib's own distances suit 8 points
    ax.set_xlabel(panel.labels[0], labelpad=4 + 0.9 * more)
    ax.set_ylabel(panel.labels[1], labelpad=4 + 0.9 * more)
    ax.tick_params(pad=3 + 0.3 * more)
    ax.locator_params(axis="x", nbins=4)
    ax.locator_params(axis="y", nbins=4)
    ax.view_init(elev=28, azim=-60)
    ax.set_box_aspect((1, 1, 0.75), zoom=1.0)
    ax.patch.set_visible(False)
    ax.set_in_layout(False)  # its labels lie within its box, and what it says of them shrinks the others to nothing


def norm(scale: Scale) -> Normalize:
    """Colours by height, the same in every panel."""
    edges = bands(scale)
    return Normalize(edges[0], edges[-1])


def bands(scale: Scale) -> Values:
    """Heights between which a contour has one colour: three bands from level to level."""
    low, high = float(scale.draw(scale.low)), float(scale.draw(scale.high))
    if low == high:
        room = 0.05 * max(abs(low), 1e-12)
        return np.array([low - room, low + room])
    at = scale.draw(np.array(scale.levels(10)))
    between = np.interp(np.arange(0, len(at) - 1 + 1e-9, 1 / 3), np.arange(len(at)), at) if len(at) > 1 else at
    return np.unique([low, *between[(between > low) & (between < high)], high])


def _ink(heights: Values, scale: Scale) -> list[str]:
    """Dark lines where the ground is light, and light ones where it is dark."""
    red, green, blue, _ = colormaps[CMAP](norm(scale)(heights)).T
    return ["black" if light > 0.4 else "white" for light in 0.3 * red + 0.59 * green + 0.11 * blue]


def _backdrop(ax: Any, seen: View, box: Values, diverged: Any) -> None:
    """Hatch the ground, which shows where nothing is drawn over it: where the loss diverged."""
    if diverged.any():
        (left, right), (bottom, top) = box
        ax.add_patch(Rectangle((left, bottom), right - left, top - bottom, zorder=0, **_HATCH))


def _mark(ax: Any, kind: str, place: tuple[float, ...]) -> None:
    ax.plot(*([each] for each in place), **_marker(kind), zorder=10, clip_on=False)


def _marker(kind: str) -> dict[str, Any]:
    shape, color, size = _MARKS[kind]
    points = rcParams["font.size"]
    edge = {"markeredgecolor": "black", "markeredgewidth": points / 12}
    return {"marker": shape, "markerfacecolor": color, "markersize": size * points, "linestyle": "none", **edge}


def _legend(ax: Any, panel: Panel) -> None:
    """One row above the axes, where it hides nothing."""
    handles: list[Any] = [Line2D([], [], label=mark.text, **_marker(mark.kind)) for mark in panel.view.marks]
    if panel.view.diverged.any():
        handles.append(Patch(label="diverged", **_HATCH))
    if handles:
        row = {"ncols": 3, "frameon": False, "borderaxespad": 0.3, "borderpad": 0, "handletextpad": 0.3}
        ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), columnspacing=1, handlelength=1.4, **row)


def _colorbar(ax: Any, filled: ContourSet, panel: Panel, scale: Scale, own: bool) -> None:
    if not panel.bar:
        return
    beside = {"cax": ax.inset_axes((1.03, 0, 0.045, 1))} if own else {"ax": ax}
    bar = ax.get_figure(root=False).colorbar(filled, **beside)
    levels = scale.levels(10) or [scale.low]
    bar.set_ticks(scale.draw(np.array(levels)), labels=scale.texts(levels))
    since = f" − {scale.offset:.10g}" if scale.offset else ""
    bar.set_label(panel.metric + since)
