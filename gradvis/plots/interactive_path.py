"""Paths on pages: their traces, the curves over steps beside them, and the slider over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
from plotly import graph_objects as go
from plotly.colors import sample_colorscale

from gradvis.arrays import Values
from gradvis.plots.palette import LINES, STEPS, STEPS_TO
from gradvis.plots.paths import color, drops, laid, moments, on_plane, own, reached
from gradvis.plots.scale import Scale
from gradvis.plots.view import GREEK, View
from gradvis.plots.words import number, shortened
from gradvis.tracks import Track

_POINTS = 200  # of a path: a page with more is slow to load
_FRAMES = 60
_LEFT = 0.64  # of the page, for the plane
_BOTTOMS = {0: 0.17, 1: 0.0, 2: 0.26}  # of flat axes: some have a slider below
COLORS = [[share, sample_colorscale(STEPS, share * STEPS_TO)[0]] for share in np.linspace(0, 1, 9).tolist()]


def thinned(tracks: Sequence[Track]) -> tuple[Track, ...]:
    """Tracks of at most some 200 checkpoints, with their ends and the drops of the learning rate."""
    return tuple(track if len(track.labels) <= _POINTS else _thinned(track) for track in tracks)


def _thinned(track: Track) -> Track:
    at = np.unique(np.concatenate([np.linspace(0, len(track.labels) - 1, _POINTS).astype(int), drops(track)[:20]]))
    own, plane = ({name: values[at] for name, values in each.items()} for each in (track.own, track.plane))
    rates = None if track.learning_rate is None else track.learning_rate[at]
    return replace(
        track, steps=track.steps[at], labels=tuple(track.labels[i] for i in at), coords=track.coords[at],
        off_plane=track.off_plane[at], own=own, plane=plane, learning_rate=rates,
    )  # fmt: skip


def said(track: Track, metric: str) -> list[str]:
    """What is told of every checkpoint where the pointer is."""
    dims = list(GREEK.values())[: track.coords.shape[1]]
    columns: list[tuple[str, Values]] = [("step", track.steps), (f"true {metric}", track.own.get(metric, np.empty(0)))]
    columns += [(f"{metric} on the plane", track.plane.get(metric, np.empty(0))), ("off the plane", track.off_plane)]
    columns += [("learning rate", track.learning_rate)] if track.learning_rate is not None else []
    columns += list(zip(dims, track.coords.T, strict=True))
    lines = [
        [escape(f"{name} {number(float(values[i]))}") for name, values in columns if len(values)]
        for i in range(len(track.labels))
    ]
    head = [escape(track.name)] if track.name else []
    return ["<br>".join([*head, escape(label), *each]) for label, each in zip(track.labels, lines, strict=True)]


def on_sheet(seen: View, metric: str, scale: Scale) -> list[go.Scatter3d]:
    """Paths laid on a sheet: for each run a line along it, and its checkpoints."""
    found = []
    for run, track in enumerate(seen.tracks):
        points, at = laid(track, metric, seen, scale)
        look = looks(seen.tracks, run, np.interp(np.arange(len(points)), at, track.steps))
        x, y, z = points.T
        found.append(go.Scatter3d(x=x, y=y, z=z, mode="lines", hoverinfo="skip", **look["line"]))
        found.append(_checkpoints(points[at], track, metric, look["dots"]))
    return found


def in_space(tracks: Sequence[Track], metric: str) -> list[go.Scatter3d]:
    """Paths in a volume."""
    return [
        go.Scatter3d(
            x=track.coords[:, 0], y=track.coords[:, 1], z=track.coords[:, 2], mode="lines+markers",
            hovertext=said(track, metric), hoverinfo="text", **_both(looks(tracks, run, track.steps)),
        )
        for run, track in enumerate(tracks)
    ]  # fmt: skip


def flat_paths(tracks: Sequence[Track], metric: str, tone: str = "#888") -> list[go.Scatter]:
    """Paths on flat axes; the line of a single run has this tone."""
    return [
        go.Scatter(
            x=track.coords[:, 0], y=track.coords[:, 1], mode="lines+markers", hovertext=said(track, metric),
            hoverinfo="text", **_flat(tracks, run, tone),
        )
        for run, track in enumerate(tracks)
    ]  # fmt: skip


def _flat(tracks: Sequence[Track], run: int, tone: str = "#888") -> dict[str, Any]:
    """How a path looks on a flat axes, where plotly gives a line one colour."""
    look = looks(tracks, run, tracks[run].steps)
    line = {"color": look["line"]["line"]["color"] if len(tracks) > 1 else tone, "width": 2}
    return look["line"] | {"line": line, "marker": look["dots"]["marker"] | {"size": 7}}


def over_line(tracks: Sequence[Track], run: int, metric: str) -> go.Scatter:
    """The checkpoints of a run by their own values over their coordinate."""
    track = tracks[run]
    look = _flat(tracks, run)
    text = {"hovertext": said(track, metric), "hoverinfo": "text"}
    return go.Scatter(x=track.coords[:, 0], y=own(track, metric), mode="lines+markers", **text, **look)


def _checkpoints(points: Values, track: Track, metric: str, look: dict[str, Any]) -> go.Scatter3d:
    x, y, z = points.T
    return go.Scatter3d(x=x, y=y, z=z, mode="markers", hovertext=said(track, metric), hoverinfo="text", **look)


def looks(tracks: Sequence[Track], run: int, steps: Values) -> dict[str, dict[str, Any]]:
    """How the line and the dots of a path look: a single run has its steps as colour."""
    name = escape(shortened(tracks[run].name, 28)) or "path"
    if len(tracks) > 1:
        line = {"color": color(run), "width": 6}
        dots = {"color": color(run), "size": 4}
    else:
        ends = {"colorscale": COLORS, "cmin": float(steps.min()), "cmax": float(steps.max())}
        line = {"color": steps, "width": 6, **ends}
        dots = {"color": tracks[run].steps, "size": 4, **ends}
    dots["line"] = {"color": "white", "width": 1}
    group = {"legendgroup": f"run {run}", "name": name}
    return {
        "line": {"line": line, "showlegend": len(tracks) > 1, **group},
        "dots": {"marker": dots, "showlegend": False, **group},
    }


def _both(look: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return look["line"] | {"marker": look["dots"]["marker"]}


def curves(tracks: Sequence[Track], metric: str) -> list[go.Scatter]:
    """Over the steps of each run: true loss and, dashed, plane loss; below, the distance from the plane."""
    return [*_losses(tracks, metric), *_distances(tracks, metric)]


def _losses(tracks: Sequence[Track], metric: str) -> list[go.Scatter]:
    found = []
    for run, track in enumerate(tracks):
        tones = (color(run), color(run)) if len(tracks) > 1 else LINES[:2]
        name = "" if len(tracks) == 1 else f" of {shortened(track.name, 28)}"
        true = (f"true {metric}", own(track, metric), tones[0], "solid")
        plane = (f"{metric} on the plane", on_plane(track, metric), tones[1], "dash")
        for label, values, tone, dash in (true, plane):
            if np.isfinite(values).any():
                found.append(
                    go.Scatter(
                        x=track.steps, y=values, xaxis="x2", yaxis="y2", mode="lines+markers", marker={"size": 4},
                        line={"color": tone, "dash": dash}, name=escape(label + name), legendgroup=f"run {run}",
                        showlegend=len(tracks) == 1, legend="legend2", hovertext=said(track, metric), hoverinfo="text",
                    )
                )  # fmt: skip
    return found if len(tracks) == 1 else [*found, *_strokes(metric)]


def _strokes(metric: str) -> list[go.Scatter]:
    """What full and dashed lines mean, for a legend whose colours are the runs."""
    return [
        go.Scatter(
            x=[None], y=[None], xaxis="x2", yaxis="y2", mode="lines", line={"color": "#444", "dash": dash},
            name=escape(label), legend="legend2",
        )
        for label, dash in ((f"true {metric}", "solid"), (f"{metric} on the plane", "dash"))
    ]  # fmt: skip


def _distances(tracks: Sequence[Track], metric: str) -> list[go.Scatter]:
    return [
        go.Scatter(
            x=track.steps, y=track.off_plane, xaxis="x2", yaxis="y3", mode="lines+markers", marker={"size": 4},
            line={"color": color(run) if len(tracks) > 1 else "#444"}, showlegend=False, legendgroup=f"run {run}",
            hovertext=said(track, metric), hoverinfo="text",
        )
        for run, track in enumerate(tracks)
    ]  # fmt: skip


def beside(label: str, log: bool, flat: int = 0) -> dict[str, Any]:
    """The axes of the curves over steps, right of the plane, and their legend.

    Args:
        label: What the curves above are called.
        log: Whether they are on a logarithmic scale.
        flat: The dimensions of the path if it is drawn on flat axes, else 0.
    """
    bottom = _BOTTOMS[flat]
    above = {"orientation": "h", "x": _LEFT + 0.09, "xanchor": "left", "y": 1.0, "yanchor": "bottom"}
    losses = {"title": {"text": label}, "type": "log" if log else "linear"}
    off = {"title": {"text": "distance off<br>the plane"}, "rangemode": "tozero"}
    return {
        "xaxis2": {"domain": [_LEFT + 0.09, 0.99], "anchor": "y3", "title": {"text": "step"}},
        "yaxis2": {"domain": [bottom + 0.31, 0.98], "anchor": "x2", **losses},
        "yaxis3": {"domain": [bottom, bottom + 0.24], "anchor": "x2", **off},
        "legend2": above,
    }


def add_steps(figure: go.Figure, tracks: Sequence[Track], traces: Sequence[int], per_run: int) -> None:
    """A slider and a play button that show paths up to a step.

    Only the x of a path are in a frame: plotly draws as many points as all its coordinates have.

    Args:
        figure: The page.
        tracks: The runs.
        traces: Where the traces of paths are, run by run and again for whatever else can be shown.
        per_run: How many traces a run has.
    """
    stops = moments(tracks, _FRAMES)
    if len(stops) < 2:
        return
    figure.frames = [
        go.Frame(name=str(i), traces=list(traces), data=_frame(figure, tracks, traces, per_run, float(step)))
        for i, step in enumerate(stops)
    ]
    at_once = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [
        {"label": number(float(step)), "method": "animate", "args": [[str(i)], at_once]} for i, step in enumerate(stops)
    ]
    slider = {"steps": steps, "active": len(steps) - 1, "currentvalue": {"prefix": "up to step "}}
    run = {"mode": "immediate", "fromcurrent": True, "frame": {"duration": 100, "redraw": True}}
    buttons = [
        {"label": "▶", "method": "animate", "args": [None, run | {"transition": {"duration": 0}}]},
        {"label": "❚❚", "method": "animate", "args": [[None], at_once]},
    ]
    play = {"buttons": buttons, "type": "buttons", "direction": "right", "showactive": False}
    place = {"x": 0.02, "xanchor": "left", "y": 0.0, "yanchor": "bottom"}
    figure.update_layout(
        sliders=[slider | {"x": 0.13, "len": _LEFT - 0.13, "y": 0.0, "yanchor": "bottom", "pad": {"t": 0}}],
        updatemenus=[*figure.layout.updatemenus, play | place],
    )


def _frame(
    figure: go.Figure, tracks: Sequence[Track], traces: Sequence[int], per_run: int, step: float
) -> list[dict[str, Any]]:
    """The x of every path up to a step; of a line along a sheet, up to the checkpoint's point of it."""
    found = []
    for place, index in enumerate(traces):
        trace, track = figure.data[index], tracks[place // per_run % len(tracks)]
        count = reached(track, step)
        fine = (len(trace.x) - 1) // max(len(track.steps) - 1, 1)
        shown = trace.x[: (count - 1) * fine + 1 if count else 0]
        found.append({"type": trace.type, "x": [float(f"{x:.6g}") for x in shown]})
    return found


def above(figure: go.Figure) -> None:
    """Keep the legend above the 3-D field, a line of it for each entry."""
    told = [each for each in figure.data if each.type == "scatter3d" and each.showlegend is not False]
    lines = sum(each.visible is not False for each in told)
    figure.update_layout(scene_domain_y=[0.1, 1 - 0.035 * min(lines, 10)], legend_tracegroupgap=0)


def left(flat: int = 0) -> dict[str, Any]:
    """Where the path lies on the page; see `beside`."""
    if flat:
        return {"xaxis_domain": [0.03, _LEFT], "yaxis_domain": [_BOTTOMS[flat], 0.98]}
    return {"scene_domain": {"x": [0.0, _LEFT], "y": [0.1, 1]}}
