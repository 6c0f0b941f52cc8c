"""The page of a trajectory: its path on the ground, in the bare plane, along a line or in a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from plotly import graph_objects as go

from gradvis.arrays import Values
from gradvis.plots import interactive_plane
from gradvis.plots.caption import axis_label, metric_label
from gradvis.plots.caption_path import caption, subject
from gradvis.plots.interactive import furnish
from gradvis.plots.interactive_parts import hover_mark, named, style
from gradvis.plots.interactive_path import (
    above,
    add_steps,
    beside,
    curves,
    flat_paths,
    in_space,
    left,
    over_line,
    thinned,
)
from gradvis.plots.interactive_volume import solid
from gradvis.plots.palette import LINES
from gradvis.plots.paths import own
from gradvis.plots.places import Mark, ends, outside
from gradvis.plots.scale import scale, uncut
from gradvis.plots.view import GREEK, SurfaceLike, TrajectoryLike, check_name, under, view
from gradvis.tracks import Track


def draw(
    result: TrajectoryLike, ground: SurfaceLike | None, kind: str | None, metric: str | None, log: bool | None
) -> go.Figure:
    """The page of a trajectory; see `gradvis.plots.plot`.

    Raises:
        ValueError: If the metric is unknown, the ground has other dimensions, or `log` cannot be.
    """
    name = metric or "loss"
    check_name("metric", name, list(result.metrics))
    k = result.tracks[0].coords.shape[1]
    surface = None if ground is None else under(result, ground)
    if surface is not None and k == 2:
        figure = interactive_plane.draw(surface, kind, name, log)
    else:
        figure = _page(result, surface, k, name, log)
    flat = k == 1 or (k == 2 and surface is None)
    furnish(figure, subject(result), caption(result, outside(result.tracks, ground)), flat=flat)
    if flat:
        figure.update_layout(legend_x=0.36)  # right of two menus
    return figure


@dataclass(frozen=True, eq=False)
class State:
    """What the page can show: the traces of one metric, and whether its axes are logarithmic at first."""

    metric: str
    traces: list[Any]
    log: bool


def _page(result: TrajectoryLike, surface: SurfaceLike | None, k: int, metric: str, log: bool | None) -> go.Figure:
    """A page without a 3-D surface: every metric over steps, with buttons that choose it and its scale."""
    tracks = thinned(result.tracks)
    states = [State(name, *_of_metric(tracks, surface, k, name, log)) for name in result.metrics]
    at = list(result.metrics).index(metric)
    shared = _shared(tracks, surface, k, metric)
    figure = go.Figure([*shared, *(trace for state in states for trace in state.traces)])
    for trace, visible in zip(figure.data, _visible(states, at, len(shared)), strict=True):
        trace.visible = visible
    label = escape(metric_label(result.about, metric))
    figure.update_layout(**beside(escape(metric.replace("_", " ")), states[at].log, flat=k % 3), **left(flat=k % 3))
    if k == 3:
        above(figure)
    _name_axes(figure, result, k, label)
    figure.update_layout(updatemenus=_menus(result, states, at, k, len(shared)))
    if k > 1:
        add_steps(figure, tracks, [i for i, trace in enumerate(shared) if trace.meta == "path"], per_run=1)
    return figure


def _of_metric(
    tracks: Sequence[Track], surface: SurfaceLike | None, k: int, metric: str, log: bool | None
) -> tuple[list[Any], bool]:
    """The traces of a metric, and whether a logarithmic axis suits them."""
    found: list[Any] = curves(tracks, metric)
    values = [own(track, metric) for track in tracks]
    if k == 1:
        if surface is not None:
            found.append(_ground(surface, metric))
            values.append(view(surface, metric).values)
        found += [over_line(tracks, run, metric) for run in range(len(tracks))]
    values += [each for track in tracks if (each := track.plane.get(metric)) is not None]
    return found, uncut(np.concatenate(values), log if _positive(values) or not log else None).log


def _positive(values: Sequence[Values]) -> bool:
    finite = np.concatenate(values)
    return bool((finite[np.isfinite(finite)] > 0).all())


def _ground(surface: SurfaceLike, metric: str) -> go.Scatter:
    seen = view(surface, metric)
    look = {"mode": "lines", "line": {"color": LINES[1], "dash": "dash"}, "name": escape(f"{metric} on the line")}
    return go.Scatter(x=seen.axes[0], y=seen.values, **look)


def _shared(tracks: Sequence[Track], surface: SurfaceLike | None, k: int, metric: str) -> list[Any]:
    """The traces that no metric changes: the path, its ends, and the shells of a volume under it."""
    if k == 1:
        return []
    if k == 2:
        paths: list[Any] = [trace.update(meta="path") for trace in flat_paths(tracks, metric)]
    else:
        paths = [trace.update(meta="path") for trace in in_space(tracks, metric)]
        if surface is not None:
            seen = view(surface, metric)
            heights = scale(seen.values)
            paths.append(solid(seen, heights, named(surface.about, metric, heights)))
    return [*paths, *(_end(mark, k) for mark in ends(tracks, metric))]


def _end(mark: Mark, k: int) -> go.Scatter | go.Scatter3d:
    places = {axis: [place] for axis, place in zip("xyz", mark.coords, strict=False)}
    kind = go.Scatter if k == 2 else go.Scatter3d
    look: dict[str, Any] = {"marker": style(mark, 11 if k == 2 else 6), "showlegend": mark.run is None}
    look |= {"mode": "markers+text", "text": [escape(mark.name)], "textposition": "top center"}
    return kind(**places, **look, name=escape(mark.text), hovertemplate=hover_mark(mark, tuple(GREEK)[:k]))


def _name_axes(figure: go.Figure, result: TrajectoryLike, k: int, label: str) -> None:
    names = [{"title": {"text": escape(axis_label(result.about, dim, short=k == 3))}} for dim in list(GREEK)[:k]]
    if k == 3:
        camera = {"eye": {"x": 1.4, "y": -1.65, "z": 0.95}}
        axes = dict(zip(("xaxis", "yaxis", "zaxis"), names, strict=True))
        figure.update_layout(scene=axes | {"aspectmode": "cube", "camera": camera})
    elif k == 2:
        figure.update_layout(xaxis=names[0], yaxis=names[1] | {"scaleanchor": "x"})
    else:
        figure.update_layout(xaxis=names[0], yaxis={"title": {"text": label}, "type": figure.layout.yaxis2.type})


def _visible(states: Sequence[State], at: int, always: int) -> list[bool]:
    return [True] * always + [i == at for i, state in enumerate(states) for _ in state.traces]


def _menus(result: TrajectoryLike, states: Sequence[State], at: int, k: int, always: int) -> list[dict[str, Any]]:
    """Linear or logarithmic, and which metric; each comes on the scale that suits it."""
    axes = ["yaxis2", *(["yaxis"] if k == 1 else [])]
    kinds = [{f"{axis}.type": kind for axis in axes} for kind in ("linear", "log")]
    buttons = [
        {"label": label, "method": "relayout", "args": [kind]}
        for label, kind in zip(("linear", "log"), kinds, strict=True)
    ]
    above = {"xanchor": "left", "y": 1.0, "yanchor": "bottom"}
    scales = {"buttons": buttons, "active": int(states[at].log), "type": "buttons", "direction": "right", "x": 0.02}
    if len(states) == 1:
        return [scales | above]
    metrics = []
    for i, state in enumerate(states):
        layout: dict[str, Any] = kinds[state.log] | {"yaxis2.title.text": escape(state.metric.replace("_", " "))}
        layout["updatemenus[0].active"] = int(state.log)
        if k == 1:
            layout["yaxis.title.text"] = escape(metric_label(result.about, state.metric))
        update = [{"visible": _visible(states, i, always)}, layout]
        metrics.append({"label": escape(state.metric.replace("_", " ")), "method": "update", "args": update})
    return [scales | above, {"buttons": metrics, "active": at, "x": 0.2, **above}]
