"""Paths of training in matplotlib axes: on a flat one, and laid on a 3-D surface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke
from mpl_toolkits.mplot3d.art3d import Line3D  # type: ignore[import-untyped]
from numpy.typing import NDArray

from gradvis.arrays import Values
from gradvis.plots import marks
from gradvis.plots.palette import STEPS, STEPS_TO
from gradvis.plots.paths import arrows, color, drops, hidden, laid, own, reached
from gradvis.plots.scale import Scale
from gradvis.plots.view import View
from gradvis.tracks import Track

# Shows a path as far as it is at a step of training.
Grow = Callable[[float], None]

_DOTS = 60  # more would hide the line


def step_colors(tracks: Sequence[Track]) -> tuple[Colormap, Normalize]:
    """The colours of steps, dark to light."""
    steps = np.concatenate([track.steps for track in tracks])
    colors = LinearSegmentedColormap.from_list("steps", colormaps[STEPS](np.linspace(0, STEPS_TO, 256)))
    return colors, Normalize(np.nanmin(steps), max(np.nanmax(steps), np.nanmin(steps) + 1e-12))


def flat(ax: Any, tracks: Sequence[Track], by_step: bool = False, thin: bool = False) -> list[Grow]:
    """Draw paths into flat axes, whose limits are set; the ends are marks, which others draw.

    Args:
        ax: The axes.
        tracks: The runs, k = 2.
        by_step: Steps as colour, for a single run; else one colour each.
        thin: For one panel among others.
    """
    found = []
    for run, track in enumerate(tracks):
        tone = color(run) if len(tracks) > 1 else "black"
        steps = step_colors(tracks) if by_step else None
        found.append(_one(ax, track, run if len(tracks) > 1 else None, thin=thin, tone=tone, steps=steps))
    return found


def _one(
    ax: Any, track: Track, run: int | None, *, thin: bool, tone: str, steps: tuple[Colormap, Normalize] | None
) -> Grow:
    points, em = track.coords, rcParams["font.size"]
    width = em / (9 if thin else 6)
    (halo,) = ax.plot(*points.T, color="white", linewidth=2.2 * width, zorder=6, solid_capstyle="round")
    colored = {"cmap": steps[0], "norm": steps[1]} if steps else {"colors": tone}
    segments = np.stack([points[:-1], points[1:]], axis=1)
    lines = LineCollection(list(segments), linewidths=width, zorder=7, capstyle="round", **colored)
    ax.add_collection(lines, autolim=False)
    dots, at = _dots(ax, track, width, tone, steps)
    heads = _heads(ax, points, tone if steps is None else "black", thin)
    marked = drops(track)
    fallen = ax.plot(*points[marked].T, **marks.style("drop", run), zorder=9)[0]

    def grow(step: float) -> None:
        count = reached(track, step)
        halo.set_data(*points[:count].T)
        lines.set_segments(list(segments[: max(count - 1, 0)]))
        if steps:
            lines.set_array(track.steps[1:][: max(count - 1, 0)])
        dots.set_offsets(points[at[at < count]].reshape(-1, 2))
        if steps:
            dots.set_array(track.steps[at[at < count]])
        fallen.set_data(*points[marked[marked < count]].T)
        for head in heads:
            head.set_visible(count == len(points))

    grow(np.inf)
    return grow


def over_line(ax: Any, tracks: Sequence[Track], metric: str) -> list[Grow]:
    """Draw the checkpoints by their own values over their coordinate; a single run has its steps as colour."""
    return [_checkpoints(ax, track, run, own(track, metric), len(tracks) == 1) for run, track in enumerate(tracks)]


def _checkpoints(ax: Any, track: Track, run: int, values: Values, single: bool) -> Grow:
    points, tone = np.column_stack([track.coords[:, 0], values]), "0.4" if single else color(run)
    (line,) = ax.plot(*points.T, color=tone, linewidth=rcParams["font.size"] / 10, zorder=6)
    steps = step_colors([track])
    colored = {"c": track.steps, "cmap": steps[0], "norm": steps[1]} if single else {"color": tone}
    dots = ax.scatter(*points.T, s=(0.45 * rcParams["font.size"]) ** 2, zorder=7, **colored)
    marked = drops(track)
    (fallen,) = ax.plot(*points[marked].T, **marks.style("drop", None if single else run), zorder=9)

    def grow(step: float) -> None:
        count = reached(track, step)
        line.set_data(*points[:count].T)
        dots.set_offsets(points[:count])
        if single:
            dots.set_array(track.steps[:count])
        fallen.set_data(*points[marked[marked < count]].T)

    return grow


def _dots(ax: Any, track: Track, width: float, tone: str, steps: Any) -> tuple[Any, NDArray[np.intp]]:
    """Checkpoints as dots, larger towards the end; the shown ones of many."""
    count = len(track.coords)
    at = np.arange(count) if count <= _DOTS else np.unique(np.linspace(0, count - 1, _DOTS // 2).astype(int))
    sizes = (width * np.linspace(1.6, 2.8, len(at))) ** 2
    colored = {"c": track.steps[at], "cmap": steps[0], "norm": steps[1]} if steps else {"color": tone}
    look = {"s": sizes, "edgecolors": "white", "linewidths": 0.25 * width, "zorder": 8}
    return ax.scatter(*track.coords[at].T, **look, **colored), at


def _heads(ax: Any, points: Values, tone: str, thin: bool) -> list[FancyArrowPatch]:
    """Small arrow heads along a path."""
    known = points[np.isfinite(points).all(axis=1)]
    spans = np.array([np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())])
    unit = spans if ax.get_aspect() == "auto" else np.ones(2)
    look: dict[str, Any] = {"arrowstyle": "-|>", "facecolor": tone, "edgecolor": "white", "linewidth": 0.4}
    look |= {"mutation_scale": rcParams["font.size"] * (1.0 if thin else 1.6), "zorder": 7.5}
    strokes = arrows(known / unit, 3 if thin else 5)
    heads = [
        FancyArrowPatch(tuple(tail * unit), tuple(head * unit), shrinkA=0, shrinkB=0, **look) for tail, head in strokes
    ]
    for head in heads:
        ax.add_patch(head)
    return heads


def solid(ax: Any, seen: View, scale: Scale, metric: str) -> None:
    """Lay paths on the 3-D surface of a view, whose limits are set; parts behind it are faint."""
    width = rcParams["font.size"] / 6
    effect = [withStroke(linewidth=2.2 * width, foreground="white")]
    for run, track in enumerate(seen.tracks):
        points, _ = laid(track, metric, seen, scale)
        points[_outside(points, seen)] = np.nan
        tone = color(run) if len(seen.tracks) > 1 else "black"
        ax.plot(*points.T, color=tone, linewidth=0.8 * width, alpha=0.45, zorder=6)
        ax.add_line(_Front(points, seen, scale, color=tone, linewidth=width, zorder=7, path_effects=effect))


def _outside(points: Values, seen: View) -> NDArray[np.bool_]:
    beyond = [(place < axis.min()) | (axis.max() < place) for axis, place in zip(seen.axes, points.T, strict=False)]
    found: NDArray[np.bool_] = np.any(beyond, axis=0)
    return found


class _Front(Line3D):  # type: ignore[misc]
    """The part of a path that the surface does not hide from where it is looked at."""

    def __init__(self, points: Values, seen: View, scale: Scale, **look: Any) -> None:
        super().__init__(*points.T, **look)
        self.points, self.seen, self.scale = points, seen, scale

    def draw(self, renderer: Any) -> None:
        gone = self._hidden()
        self.set_data_3d(*np.where(gone, np.nan, self.points.T))
        super().draw(renderer)

    def _hidden(self) -> NDArray[np.bool_]:
        """Where a ray towards the eye passes below the sheet; perspective is too weak to count."""
        box: Any = self.axes
        ends = np.array([box.get_xlim(), box.get_ylim(), box.get_zlim()])
        unit = np.ptp(ends, axis=1) / (1.0, 1.0, 0.75)  # the box aspect of `panels`
        elevation, azimuth = np.radians([box.elev, box.azim])
        flat = np.cos(elevation)
        towards = unit * (flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation))
        return hidden(self.points, self.seen, self.scale, towards)
