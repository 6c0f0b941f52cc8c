"""What one matplotlib axes shows of a trajectory: its path over one or two axes of its plane, on the ground or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.contour import ContourSet
from mpl_toolkits.axes_grid1 import make_axes_locatable  # type: ignore[import-untyped]

from gradvis.plots import curves, marks, trails
from gradvis.plots.caption import axis_label, metric_label
from gradvis.plots.panels import Panel
from gradvis.plots.paths import scale_over_line
from gradvis.plots.places import ends
from gradvis.plots.scale import Scale, scale
from gradvis.plots.trails import Grow
from gradvis.plots.view import GREEK, SurfaceLike, TrajectoryLike, View, along, central, under, view
from gradvis.plots.words import number
from gradvis.tracks import Track

_MARGIN = 0.08


@dataclass(frozen=True, eq=False)
class Field:
    """A path and what it lies on.

    Attributes:
        view: The ground, or without one an empty view with the marks.
        labels: What the axes are called, one or two.
        metric: What is drawn.
        called: Its name with its unit.
        colors: The heights of the ground; of a path along a line, those of its values too.
        panel: The ground as it is drawn, if there is one.
        title: What tells this field from its neighbours.
    """

    view: View
    labels: tuple[str, ...]
    metric: str
    called: str
    colors: Scale | None = None
    panel: Panel | None = None
    title: str = ""

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The runs, on the axes of the field."""
        return self.view.tracks

    def draw(self, ax: Any, own: bool, key: bool) -> tuple[ContourSet | None, list[Grow]]:
        """Draw it; the lines that want labels come back, and what makes the path grow.

        Args:
            ax: The axes, flat.
            own: Whether the axes are ours.
            key: Whether a bar says what the colours of steps mean; else a neighbour does.
        """
        if len(self.labels) == 1:
            return None, _on_line(ax, self)
        lines = None
        if self.panel is not None and self.colors is not None:
            lines = self.panel.draw(ax, self.colors, own)
        else:
            _bare(ax, self)
        _widen(ax, self.view, alike=bool(self.title))
        by_step = len(self.tracks) == 1
        grow = trails.flat(ax, self.tracks, by_step=by_step, thin=bool(self.title))
        if by_step and key:
            _step_bar(ax, self.tracks, own)
        return lines, grow


def of(result: TrajectoryLike, ground: SurfaceLike | None, metric: str, log: bool | None) -> list[Field]:
    """The fields of a trajectory: one, or for three dimensions one for each pair of axes.

    Raises:
        ValueError: If the ground has other dimensions or lacks the metric, or `log` cannot be.
    """
    dims = list(GREEK)[: result.tracks[0].coords.shape[1]]
    surface = None if ground is None else under(result, ground)
    whole = scale(view(surface, metric).values, log) if surface is not None else None
    if len(dims) < 3:
        return [_field(result, dims, metric, surface, whole, log)]
    found = []
    for pair in combinations(dims, 2):
        (gone,) = set(dims) - set(pair)
        part, place = central(surface, gone) if surface is not None else (None, 0.0)
        title = f"{GREEK[gone]} = {number(place)}" if part is not None else f"seen along {GREEK[gone]}"
        found.append(_field(result, list(pair), metric, part, whole, log, title, bar=gone == "alpha"))
    return found


def _field(
    result: TrajectoryLike, dims: list[str], metric: str, surface: SurfaceLike | None, colors: Scale | None,
    log: bool | None, title: str = "", bar: bool = True,
) -> Field:  # fmt: skip
    labels = tuple(axis_label(result.about, dim, short=bool(title)) for dim in dims)
    called = metric_label(result.about, metric)
    tracks = along(result.tracks, dims)
    tips = tuple(ends(tracks, metric))
    if surface is None:
        empty = View(tuple(dims), (), np.empty(0), np.zeros(0, bool), tips, tracks=tracks)
        return Field(
            empty, labels, metric, called, scale_over_line(empty, metric, log) if len(dims) == 1 else None, title=title
        )
    seen = view(surface, metric)
    others = tuple(mark for mark in seen.marks if mark.kind not in ("start", "end"))
    seen = replace(seen, marks=(*tips, *others))  # also those beside the ground
    if len(dims) == 1:
        return Field(seen, labels, metric, called, scale_over_line(seen, metric, log))
    panel = Panel("contour", seen, labels, called, metric, title, bar=bar, paths=False)
    return Field(seen, labels, metric, called, colors, panel, title)


def _bare(ax: Any, field: Field) -> None:
    """Axes without ground."""
    ends_of = [_span(track.coords[:, i] for track in field.tracks) for i in range(2)]
    widest = max(high - low for low, high in ends_of) or 2.0
    least = (1 + 2 * _MARGIN) * widest / 2  # no flat band
    rooms = [max(_MARGIN * widest, (least - (high - low)) / 2) for low, high in ends_of]
    (left, right), (bottom, top) = ends_of
    ax.set(xlabel=field.labels[0], ylabel=field.labels[1])
    ax.set(xlim=(left - rooms[0], right + rooms[0]), ylim=(bottom - rooms[1], top + rooms[1]))
    ax.set_aspect("auto" if field.title else "equal")  # panels beside each other have one shape
    ax.grid(color="0.9", linewidth=0.6)
    for mark in field.view.marks:
        marks.draw(ax, mark, mark.coords)
    marks.legend(ax, marks.handles(field.view, short=bool(field.title)), field.title)


def _span(places: Any) -> tuple[float, float]:
    """The first and the last of finite numbers; around zero where there are none."""
    known = np.concatenate([each[np.isfinite(each)] for each in places])
    return (float(known.min()), float(known.max())) if known.size else (-1.0, 1.0)


def _widen(ax: Any, seen: View, alike: bool) -> None:
    """Make room for a path that leaves its ground; panels beside each other have one shape."""
    if not seen.axes:
        return
    for i, (axis, set_limits) in enumerate(zip(seen.axes, (ax.set_xlim, ax.set_ylim), strict=True)):
        low, high = _span(track.coords[:, i] for track in seen.tracks)
        room = _MARGIN / 2 * (max(high, axis.max()) - min(low, axis.min()))
        near = 1e-6 * np.ptp(axis)
        set_limits(
            low - room if low < axis.min() - near else axis.min(),
            high + room if high > axis.max() + near else axis.max(),
        )
    width, height = np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())
    ax.set_aspect("equal" if 0.5 <= width / height <= 2 and not alike else "auto")


def _step_bar(ax: Any, tracks: Sequence[Track], own: bool) -> None:
    colors, norm = trails.step_colors(tracks)
    # In axes of the user's the bar takes its room from them: its neighbours stay free.
    room = {"ax": ax, "aspect": 45} if own else {"cax": make_axes_locatable(ax).append_axes("bottom", "3%", 0.5)}
    figure = ax.get_figure(root=False)
    figure.colorbar(ScalarMappable(norm, colors), orientation="horizontal", label="step", **room)


def _on_line(ax: Any, field: Field) -> list[Grow]:
    """The checkpoints by their own values over their coordinate, on the curve of the ground."""
    colors = field.colors or Scale(False, 0.0, 0.0)
    seen = field.view
    ax.set(xlabel=field.labels[0], ylabel=field.called)
    if seen.axes:
        curves.one(ax, seen, colors, field.called)
    else:
        curves.frame(ax, np.concatenate([track.coords[:, 0] for track in seen.tracks]), colors)
        for mark in seen.marks:
            marks.draw(ax, mark, (*mark.coords, mark.value))
        marks.legend(ax, marks.handles(seen))
    low, high = _span([*(track.coords[:, 0] for track in seen.tracks), *seen.axes])
    room = _MARGIN / 2 * (high - low) or 1.0
    ax.set_xlim(low - room, high + room)
    return trails.over_line(ax, seen.tracks, field.metric)
