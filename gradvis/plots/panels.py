"""Draws one view into one matplotlib axes: a line, a contour or a 3-D surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.colors import Normalize
from matplotlib.contour import ContourSet
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from mpl_toolkits.axes_grid1 import make_axes_locatable  # type: ignore[import-untyped]

from gradvis.arrays import Values
from gradvis.plots import curves, marks, trails
from gradvis.plots.palette import GROUND
from gradvis.plots.paths import best_eye
from gradvis.plots.scale import Scale
from gradvis.plots.view import View

_CORNERS = (-60, -120, 60, 120)  # degrees about the vertical axis, the first where nothing is hidden


@dataclass(frozen=True, eq=False)
class Panel:
    """What one axes shows.

    Attributes:
        kind: `line`, `contour` or `surface`.
        view: The metric on its axes.
        labels: What the axes are called, k of them.
        metric: What the metric is called.
        of: Its name in the result.
        title: What tells this panel from its neighbours.
        bar: Whether it says itself what its colours mean; else its neighbour does.
        second: For a line, another metric and what it is called.
        paths: Whether it draws the paths that lie on it; else whoever made it does.
    """

    kind: str
    view: View
    labels: tuple[str, ...]
    metric: str
    of: str
    title: str = ""
    bar: bool = True
    second: tuple[View, str] | None = None
    paths: bool = True

    def draw(self, ax: Any, scale: Scale, own: bool = True) -> ContourSet | None:
        """Draw into axes of the right projection; the lines that want labels come back.

        Args:
            ax: The axes.
            scale: Heights and colours.
            own: Whether the axes are ours, and a colour bar may stand beside them.
        """
        if self.kind == "contour":
            return _contour(ax, self, scale, own)
        if self.kind == "surface":
            _relief(ax, self, scale)
            return None
        ax.set(xlabel=self.labels[0], ylabel=self.metric)
        curves.one(ax, self.view, scale, self.metric, self.second)
        trails.over_line(ax, self.view.tracks, self.of)
        return None


def _contour(ax: Any, panel: Panel, scale: Scale, own: bool) -> ContourSet | None:
    seen = panel.view
    x, y = seen.axes
    heights = np.ma.masked_invalid(scale.draw(seen.values)).T  # matplotlib wants a row for each y
    if seen.diverged.any():  # the ground shows where nothing is drawn over it
        ax.add_patch(Rectangle((x.min(), y.min()), np.ptp(x), np.ptp(y), zorder=0, **marks.HATCH))
    lines = None
    if heights.count():
        colors = {"cmap": GROUND, "norm": norm(scale)}
        filled = ax.contourf(x, y, heights, levels=scale.bands(), extend=scale.extend, **colors)
        _colorbar(ax, filled, panel, scale, own)
        at = scale.draw(np.array(_lines(scale)))
        if at.size:
            width = rcParams["font.size"] / 16
            lines = ax.contour(x, y, heights, levels=at, colors=_ink(at, scale), linewidths=width)
    ax.set(xlabel=panel.labels[0], ylabel=panel.labels[1], xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    for mark in seen.marks:
        marks.draw(ax, mark, mark.coords)
    ax.locator_params(nbins=5)
    ratio = np.ptp(x) / np.ptp(y)
    ax.set_aspect("equal" if 0.5 <= ratio <= 2 else "auto")
    if panel.paths:
        trails.flat(ax, seen.tracks, thin=bool(panel.title))
    marks.legend(ax, marks.handles(seen, short=bool(panel.title)), panel.title)
    return lines


def _lines(scale: Scale) -> list[float]:
    """The levels that are drawn as lines; at an end of the range a line would trace a plateau."""
    return [level for level in scale.levels(10) if scale.low < level < scale.high]


def label_lines(ax: Any, panel: Panel, lines: ContourSet, scale: Scale) -> None:
    """Write the levels into the lines; the layout must be settled, for the room of a label is counted in pixels."""
    look: dict[str, Any] = {
        "fmt": dict(zip(lines.levels, scale.texts(_lines(scale)), strict=True)),
        "fontsize": 0.8 * rcParams["font.size"],
        "inline_spacing": 3,
    }
    tried = ax.clabel(lines, inline=False, **look)
    free = [text.get_position() for text in _free(ax, panel, tried)]
    for text in tried:
        text.remove()
    if free:  # only these open their lines
        ax.clabel(lines, manual=free, **look)


def _free(ax: Any, panel: Panel, texts: list[Text]) -> list[Text]:
    """Those that lie within the axes, and not on a mark or its name."""
    room = 1.2 * rcParams["font.size"] * ax.get_figure(root=True).dpi / 72
    places = ax.transData.transform([mark.coords for mark in panel.view.marks] or np.empty((0, 2)))
    taken = [Bbox([place - room, place + room]) for place in places]
    taken += [Bbox([place - room / 2, place + room / 2]) for place in _on_paths(ax, panel)]
    taken += [name.get_window_extent() for name in ax.texts if isinstance(name, Annotation)]
    inner = ax.get_window_extent().padded(-2)
    boxes = [(text, text.get_window_extent()) for text in texts]
    return [
        text
        for text, box in boxes
        if inner.containsx(box.x0) and inner.containsx(box.x1) and inner.containsy(box.y0) and inner.containsy(box.y1)
        and not box.count_overlaps(taken)
    ]  # fmt: skip


def _on_paths(ax: Any, panel: Panel) -> Values:
    """Places on the screen that paths cross, (n, 2), closer to each other than labels are wide."""
    found = [np.empty((0, 2))]
    for track in panel.view.tracks:
        at = np.linspace(0, len(track.coords) - 1, 300)
        points = np.column_stack([np.interp(at, np.arange(len(track.coords)), axis) for axis in track.coords.T])
        found.append(ax.transData.transform(points[np.isfinite(points).all(axis=1)]))
    return np.concatenate(found)


def _relief(ax: Any, panel: Panel, scale: Scale) -> None:
    seen = panel.view
    x, y = np.meshgrid(*seen.axes, indexing="ij")
    heights = scale.draw(seen.values)
    if np.isfinite(heights).any():
        ax.plot_surface(
            x,
            y,
            heights,
            cmap=GROUND,
            norm=norm(scale),
            rcount=50,
            ccount=50,
            linewidth=0.15,
            edgecolor=(0, 0, 0, 0.3),
            antialiased=True,
            zorder=1,
        )
    ax.computed_zorder = False  # paths and marks are seen through the surface
    trails.solid(ax, seen, scale, panel.of)
    for mark in seen.marks:
        marks.draw(ax, mark, (*mark.coords, float(scale.draw(mark.value))))
    bottom, top = scale.bands()[[0, -1]]
    levels = scale.levels(6) or [scale.low]
    ax.set_zticks(scale.draw(np.array(levels)), scale.texts(levels))
    ax.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()), zlim=(bottom, top))
    if panel.bar:  # nothing beside it says what is drawn
        ax.set_zlabel(panel.metric + scale.counted, labelpad=6 + 0.9 * (rcParams["font.size"] - 8))
        marks.legend(ax, marks.handles(seen), panel.title, inside=True)
    more = rcParams["font.size"] - 8  # matplotlib's own distances suit 8 points
    ax.set_xlabel(panel.labels[0], labelpad=4 + 0.9 * more)
    ax.set_ylabel(panel.labels[1], labelpad=4 + 0.9 * more)
    ax.tick_params(pad=3 + 0.3 * more)
    ax.locator_params(axis="x", nbins=4)
    ax.locator_params(axis="y", nbins=4)
    flat, up = np.cos(np.radians(28)), np.sin(np.radians(28))
    eyes = [(flat * np.cos(each), flat * np.sin(each), up) for each in np.radians(_CORNERS)]
    ax.view_init(elev=28, azim=_CORNERS[best_eye(seen, panel.of, scale, eyes, tall=0.75)])
    ax.set_box_aspect((1, 1, 0.75), zoom=0.9)
    ax.patch.set_visible(False)
    ax.set_in_layout(False)  # its labels lie within its axes, which matplotlib does not believe


def norm(scale: Scale) -> Normalize:
    """Colours by height, the same in every panel."""
    edges = scale.bands()
    return Normalize(edges[0], edges[-1])


def _ink(heights: Values, scale: Scale) -> list[str]:
    """Dark lines where the ground is light, and light ones where it is dark."""
    red, green, blue, _ = colormaps[GROUND](norm(scale)(heights)).T
    return ["black" if light > 0.4 else "white" for light in 0.3 * red + 0.59 * green + 0.11 * blue]


def _colorbar(ax: Any, filled: ContourSet, panel: Panel, scale: Scale, own: bool) -> None:
    if not panel.bar:
        return
    # In axes of the user's the bar takes its room from them: its neighbours stay free.
    beside = ax.inset_axes((1.03, 0, 0.045, 1)) if own else make_axes_locatable(ax).append_axes("right", "4.5%", 0.06)
    number_bar(ax.get_figure(root=False).colorbar(filled, cax=beside), panel.metric, scale)


def number_bar(bar: Any, metric: str, scale: Scale) -> None:
    """Give a colour bar its numbers and its name."""
    levels = scale.levels(10) or [scale.low]
    bar.set_ticks(scale.draw(np.array(levels)), labels=scale.texts(levels))
    bar.set_label(metric + scale.counted)
