"""The page of a plane: every metric as a surface, with buttons that choose it and its scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
from plotly import graph_objects as go

from gradvis.plots.interactive_parts import FROM_ABOVE, TALL, axes, camera, named, pins, sheet, ticks
from gradvis.plots.interactive_path import above, add_steps, beside, curves, left, on_sheet, thinned
from gradvis.plots.scale import Scale, scale
from gradvis.plots.view import SurfaceLike, view


def draw(surface: SurfaceLike, kind: str | None, metric: str, log: bool | None) -> go.Figure:
    """The figure of a plane; a contour is the surface seen from above."""
    figure = _relief(surface, metric, scale(view(surface, metric).values, log).log)
    if kind == "contour":
        figure.update_layout(scene=FROM_ABOVE)
    return figure


@dataclass(frozen=True, eq=False)
class State:
    """What the page can show: one metric on one scale, whether that suits it best, and the traces that do it.

    The first trace is the sheet; so many that follow are paths on it.
    """

    metric: str
    label: str
    scale: Scale
    preferred: bool
    traces: list[Any]
    paths: int = 0

    @property
    def heights(self) -> dict[str, Any]:
        """The axis of heights, by the names that a button calls it."""
        low, high = self.scale.bands()[[0, -1]]
        axis = {"title.text": self.label, "range": [low - 0.04 * (high - low), high], **ticks(self.scale)}
        heights = {f"scene.zaxis.{name}": value for name, value in axis.items()}
        if self.paths:
            heights |= {"yaxis2.type": "log" if self.scale.log else "linear", "yaxis2.title.text": self.metric}
        return heights


def _states(surface: SurfaceLike) -> list[State]:
    """Every metric, linear and, where all values are above zero, logarithmic."""
    states = []
    for metric in surface.metrics:
        seen = view(surface, metric)
        seen = replace(seen, tracks=thinned(seen.tracks))
        scales = [scale(seen.values, log=False)]
        flat = scales[0].offset or scales[0].low == scales[0].high
        if not flat and np.nanmin(seen.values) > 0:
            scales.append(scale(seen.values, log=True))
        for each in scales:
            label = named(surface.about, metric, each)
            paths = on_sheet(seen, metric, each)
            traces = [sheet(seen, metric, each, label), *paths, *pins(seen, each), *curves(seen.tracks, metric)]
            states.append(State(metric, label, each, each.log == scale(seen.values).log, traces, len(paths)))
    return states


def _relief(surface: SurfaceLike, metric: str, log: bool) -> go.Figure:
    """All states as traces, of which those of one are visible; the buttons change which."""
    states = _states(surface)
    same = [i for i, state in enumerate(states) if state.metric == metric]
    at = next((i for i in same if states[i].scale.log == log), same[0])  # a constant one is linear only
    figure = go.Figure([trace for state in states for trace in state.traces])
    for trace, visible in zip(figure.data, _visible(states, at), strict=True):
        trace.visible = visible
    seen = view(surface, metric)
    x, y = axes(surface.about, seen)
    figure.update_layout(
        scene={"xaxis": x, "yaxis": y, "aspectmode": "manual"},
        scene_aspectratio={"x": 1, "y": 1, "z": TALL},
        scene_camera=camera(seen, metric, states[at].scale),
        updatemenus=[_scale_menu(states, at), *([_metric_menu(states, at)] if len(surface.metrics) > 1 else [])],
    )
    if states[at].paths:
        _add_paths(figure, surface, states, at)
    figure.update_layout({name.replace(".", "_"): value for name, value in states[at].heights.items()})
    return figure


def _add_paths(figure: go.Figure, surface: SurfaceLike, states: list[State], at: int) -> None:
    """The curves over steps, and the slider along the paths of all states."""
    tracks = thinned(view(surface, states[at].metric).tracks)
    firsts = np.cumsum([0, *(len(state.traces) for state in states)])
    paths = [int(first) + 1 + i for first, state in zip(firsts, states, strict=False) for i in range(state.paths)]
    figure.update_layout(**beside(states[at].metric, states[at].scale.log), **left())
    above(figure)
    add_steps(figure, tracks, paths, per_run=2)


def _visible(states: list[State], at: int) -> list[bool]:
    return [i == at for i, state in enumerate(states) for _ in state.traces]


def _scale_menu(states: list[State], at: int) -> dict[str, Any]:
    """Linear or logarithmic, for the metric of a state; hidden where there is no choice."""
    same = [i for i, state in enumerate(states) if state.metric == states[at].metric]
    buttons = [
        {
            "label": "log" if states[i].scale.log else "linear",
            "method": "update",
            "args": [{"visible": _visible(states, i)}, states[i].heights],
        }
        for i in same
    ]
    place = {"x": 0.02, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "direction": "right", "type": "buttons"}
    return {"buttons": buttons, "active": same.index(at), "visible": len(same) > 1, "showactive": True, **place}


def _metric_menu(states: list[State], at: int) -> dict[str, Any]:
    """Which metric; each comes on the scale that suits it, and brings its own scale menu."""
    firsts = {state.metric: i for i, state in enumerate(states) if state.preferred}
    buttons = []
    for metric, i in firsts.items():
        layout = states[i].heights | {f"updatemenus[0].{name}": value for name, value in _scale_menu(states, i).items()}
        args = [{"visible": _visible(states, i)}, layout]
        buttons.append({"label": escape(metric.replace("_", " ")), "method": "update", "args": args})
    place = {"x": 0.2, "xanchor": "left", "y": 1.0, "yanchor": "bottom"}
    return {"buttons": buttons, "active": list(firsts).index(states[at].metric), "showactive": True, **place}
