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
from mpl_toolkits.axes_grid1 import make_axes_locatable  # type: ignore[import-untyped]
from numpy.typing import NDArray

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
        bar: Whether it says itself what its colours and marks mean; else its neighbour does.
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
        if self.kind == "contour":
            return _contour(ax, self, scale, own)
        (_line if self.kind == "line" else _relief)(ax, self, scale)
        return None


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
    for span in _runs(x, panel.view.diverged):
        ax.axvspan(*span, zorder=0, **_HATCH)
    for mark in panel.view.marks:
        _mark(ax, mark.kind, (*mark.coords, np.clip(mark.value, scale.low, scale.high)))
    _legend(ax, panel)


def _runs(x: Values, chosen: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Intervals around the chosen points of an axis, half way to their neighbours."""
    edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    turns = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(int)))
    return [(float(edges[start]), float(edges[stop])) for start, stop in turns.reshape(-1, 2)]


def _contour(ax: Any, panel: Panel, scale: Scale, own: bool) -> ContourSet | None:
    seen = panel.view
    x, y = seen.axes
    heights = np.ma.masked_invalid(scale.draw(seen.values)).T  # matplotlib wants a row for each y
    if seen.diverged.any():  # the ground shows where nothing is drawn over it
        ax.add_patch(Rectangle((x.min(), y.min()), np.ptp(x), np.ptp(y), zorder=0, **_HATCH))
    lines = None
    if heights.count():
        colors = {"cmap": CMAP, "norm": norm(scale)}
        filled = ax.contourf(x, y, heights, levels=scale.bands(), extend=scale.extend, **colors)
        _colorbar(ax, filled, panel, scale, own)
        at = scale.draw(np.array(_lines(scale)))
        if at.size:
            width = rcParams["font.size"] / 16
            lines = ax.contour(x, y, heights, levels=at, colors=_ink(at, scale), linewidths=width)
    for mark in seen.marks:
        _mark(ax, mark.kind, mark.coords)
    ax.set(xlabel=panel.labels[0], ylabel=panel.labels[1], xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    ax.locator_params(nbins=5)
    ratio = np.ptp(x) / np.ptp(y)
    ax.set_aspect("equal" if 0.5 <= ratio <= 2 else "auto")
    _legend(ax, panel)
    return lines


def _lines(scale: Scale) -> list[float]:
    """The levels that are drawn as lines; at an end of the range a line would trace a plateau."""
    return [level for level in scale.levels(10) if scale.low < level < scale.high]


def label_lines(ax: Any, panel: Panel, lines: ContourSet, scale: Scale) -> None:
    """Write the levels into the lines; the layout must be settled, for the room of a label is counted in pixels."""
    points = rcParams["font.size"]
    names = dict(zip(lines.levels, scale.texts(_lines(scale)), strict=True))
    marks = ax.transData.transform([mark.coords for mark in panel.view.marks] or np.empty((0, 2)))
    for label in ax.clabel(lines, fmt=names, fontsize=0.8 * points, inline_spacing=3):
        away = np.linalg.norm(marks - ax.transData.transform(label.get_position()), axis=1)
        label.set_visible(bool((away > 1.2 * points * ax.get_figure(root=True).dpi / 72).all()))  # else under a mark


def _relief(ax: Any, panel: Panel, scale: Scale) -> None:
    seen = panel.view
    x, y = np.meshgrid(*seen.axes, indexing="ij")
    heights = scale.draw(seen.values)
    if np.isfinite(heights).any():
        ax.plot_surface(
            x,
            y,
            heights,
            cmap=CMAP,
            norm=norm(scale),
            rcount=50,
            ccount=50,
            linewidth=0.15,
            edgecolor=(0, 0, 0, 0.3),
            antialiased=True,
            zorder=1,
        )
    ax.computed_zorder = False  # the marks are seen through the surface
    for mark in seen.marks:
        _mark(ax, mark.kind, (*mark.coords, float(scale.draw(mark.value))))
    bottom, top = scale.bands()[[0, -1]]
    levels = scale.levels(6)
    ax.set_zticks(scale.draw(np.array(levels)), scale.texts(levels))
    ax.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()), zlim=(bottom, top))
    if panel.bar:  # nothing beside it says what is drawn
        ax.set_zlabel(panel.metric + scale.counted, labelpad=6 + 0.9 * (rcParams["font.size"] - 8))
        _legend(ax, panel)
    more = rcParams["font.size"] - 8  # matplotlib's own distances suit 8 points
    ax.set_xlabel(panel.labels[0], labelpad=4 + 0.9 * more)
    ax.set_ylabel(panel.labels[1], labelpad=4 + 0.9 * more)
    ax.tick_params(pad=3 + 0.3 * more)
    ax.locator_params(axis="x", nbins=4)
    ax.locator_params(axis="y", nbins=4)
    ax.view_init(elev=28, azim=-60)
    ax.set_box_aspect((1, 1, 0.75), zoom=0.9)
    ax.patch.set_visible(False)
    ax.set_in_layout(False)  # its labels lie within its axes, which matplotlib does not believe


def norm(scale: Scale) -> Normalize:
    """Colours by height, the same in every panel."""
    edges = scale.bands()
    return Normalize(edges[0], edges[-1])


def _ink(heights: Values, scale: Scale) -> list[str]:
    """Dark lines where the ground is light, and light ones where it is dark."""
    red, green, blue, _ = colormaps[CMAP](norm(scale)(heights)).T
    return ["black" if light > 0.4 else "white" for light in 0.3 * red + 0.59 * green + 0.11 * blue]


def _mark(ax: Any, kind: str, place: tuple[float, ...]) -> None:
    ax.plot(*([each] for each in place), **_marker(kind), zorder=10, clip_on=False)


def _marker(kind: str) -> dict[str, Any]:
    shape, color, size = _MARKS[kind]
    points = rcParams["font.size"]
    edge = {"markeredgecolor": "black", "markeredgewidth": points / 12}
    return {"marker": shape, "markerfacecolor": color, "markersize": size * points, "linestyle": "none", **edge}


def _legend(ax: Any, panel: Panel) -> None:
    """A row above the axes, where it hides nothing; a column where panels are narrow."""
    handles: list[Any] = [Line2D([], [], label=mark.text, **_marker(mark.kind)) for mark in panel.view.marks]
    if panel.view.diverged.any():
        handles.append(Patch(label="diverged", **_HATCH))
    if not handles and not panel.title:
        return
    box = {"frameon": False, "borderaxespad": 0.3, "borderpad": 0, "handletextpad": 0.3, "handlelength": 1.4}
    place = {"loc": "upper left"} if panel.kind == "surface" else {"loc": "lower left", "bbox_to_anchor": (0, 1)}
    columns = 1 if panel.title else 3
    ax.legend(handles=handles, title=panel.title, alignment="left", ncols=columns, columnspacing=1, **place, **box)


def _colorbar(ax: Any, filled: ContourSet, panel: Panel, scale: Scale, own: bool) -> None:
    if not panel.bar:
        return
    # In axes of the user's the bar takes its room from them: its neighbours stay free.
    beside = ax.inset_axes((1.03, 0, 0.045, 1)) if own else make_axes_locatable(ax).append_axes("right", "4.5%", 0.06)
    bar = ax.get_figure(root=False).colorbar(filled, cax=beside)
    levels = scale.levels(10) or [scale.low]
    bar.set_ticks(scale.draw(np.array(levels)), labels=scale.texts(levels))
    bar.set_label(panel.metric + scale.counted)
