"""What the pages share: colour bars, hover texts, surfaces and marks, as plotly has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly import graph_objects as go

from gradvis.plots.caption import axis_label, metric_label
from gradvis.plots.palette import GROUND, MARKS
from gradvis.plots.paths import LIFT, best_eye, color
from gradvis.plots.places import Mark
from gradvis.plots.scale import Scale
from gradvis.plots.view import GREEK, View

_SYMBOLS = {"centre": "cross", "minimum": "diamond", "checkpoint": "circle", "start": "circle", "end": "square"}
FROM_ABOVE: dict[str, Any] = {
    "camera": {"eye": {"x": 0, "y": 0, "z": 2}, "up": {"x": 0, "y": 1, "z": 0}, "projection": {"type": "orthographic"}},
    "aspectratio": {"x": 1.6, "y": 1.6, "z": 0.5},
    "zaxis": {"visible": False},
}
_AWAY = 1.12  # beside curves a field is narrow
TALL = 0.7  # the box of a surface, which is 1 wide and deep
CAMERA = {"eye": {"x": 0.95, "y": -1.4, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.14}}


def camera(seen: View, metric: str, scale: Scale) -> dict[str, Any]:
    """From the corner that sees the most of the paths on a surface; the usual one where corners see as many."""
    eye, centre = CAMERA["eye"], CAMERA["center"]
    away = _AWAY if seen.tracks else 1.0
    eyes = [
        {"x": away * right * eye["x"], "y": away * front * eye["y"], "z": away * eye["z"]}
        for front in (1, -1)
        for right in (1, -1)
    ]
    towards = [[each[axis] - centre[axis] for axis in "xyz"] for each in eyes]
    return CAMERA | {"eye": eyes[best_eye(seen, metric, scale, towards, tall=TALL)]}


def named(about: Mapping[str, Any], metric: str, scale: Scale) -> str:
    """The name of a metric as a page writes it."""
    return escape(metric_label(about, metric) + scale.counted).replace("\n", "<br>")


def ticks(scale: Scale, most: int = 8) -> dict[str, Any]:
    """Where an axis of heights and a colour bar have their numbers."""
    levels = scale.levels(most) or [scale.low]
    return {"tickvals": scale.draw(np.array(levels)).tolist(), "ticktext": scale.texts(levels)}


def bar(label: str, scale: Scale) -> dict[str, Any]:
    """A colour bar."""
    return {"title": {"text": label, "side": "right"}, "len": 0.75, "thickness": 16, **ticks(scale)}


def axes(about: Mapping[str, Any], seen: View, short: bool = False) -> list[dict[str, Any]]:
    """The axes of a plane with their names, k of them."""
    labels = [escape(axis_label(about, dim, short=short)) for dim in seen.dims]
    return [{"title": {"text": re.sub(r"\s(?=\(random walk)", "<br>", label)}} for label in labels]


def hover(seen: View, metric: str) -> NDArray[np.object_]:
    """What is said of every point: its true value, also where the height is a logarithm or cut.

    Not `customdata`: for a surface plotly.js looks that up with rows and columns swapped.
    """
    names, lines = [GREEK[dim] for dim in seen.dims], np.empty(seen.values.shape, object)
    for index, value in np.ndenumerate(seen.values):
        place = (f"{name} {axis[i]:.4g}" for name, axis, i in zip(names, seen.axes, index, strict=True))
        lines[index] = "<br>".join([*place, f"{escape(metric)} {value:.6g}"])
    return lines


def hover_mark(mark: Mark, dims: tuple[str, ...]) -> str:
    """What is said of a mark."""
    place = [f"{GREEK[dim]} {value:.4g}" for dim, value in zip(dims, mark.coords, strict=True)]
    return "<br>".join([escape(mark.text), *map(escape, mark.details), *place]) + "<extra></extra>"


def style(mark: Mark, size: float) -> dict[str, Any]:
    """How a mark looks."""
    fill = "black" if mark.kind == "centre" else MARKS[mark.kind]  # a page is white
    edge = "black"
    if mark.run is not None:
        fill, edge = (fill, color(mark.run)) if mark.kind == "start" else (color(mark.run), edge)
    return {"symbol": _SYMBOLS[mark.kind], "color": fill, "size": size, "line": {"color": edge, "width": 1}}


def sheet(seen: View, metric: str, scale: Scale, label: str) -> go.Surface:
    """The surface of a plane: plotly wants a row for each y."""
    low, high = scale.bands()[[0, -1]]
    lines = {"show": True, "start": low, "end": high, "size": (high - low) / 15, "color": "black", "width": 1}
    return go.Surface(
        x=seen.axes[0],
        y=seen.axes[1],
        z=scale.draw(seen.values).T,
        hovertext=hover(seen, metric).T,
        hoverinfo="text",
        cmin=low,
        cmax=high,
        colorscale=GROUND,
        colorbar=bar(label, scale),
        contours={"z": lines},
        lighting={"ambient": 0.8, "diffuse": 0.5, "specular": 0.05, "roughness": 0.9},
        name=metric,
    )


def pins(seen: View, scale: Scale) -> list[go.Scatter3d]:
    """The marks, on pins that are seen from above, and on the floor the points that diverged.

    The start and the end of a path stand on it without a pin, unless there is a name for it to carry.
    """
    points = []
    low, top = (float(end) for end in scale.bands()[[0, -1]])
    for mark in seen.marks:
        (x, y), z = mark.coords, float(scale.draw(mark.value))
        foot = [z, top] if np.isfinite(z) else [low, top]
        lines = "lines+"
        look, stem = style(mark, 5) | {"size": [5, 6][-len(foot) :]}, "black"
        if mark.kind in ("start", "end"):  # the path leads there; it is lifted as far
            on_path = z + LIFT * (top - low)
            foot, lines = ([on_path, top], lines) if mark.name else ([on_path], "")
            look, stem = style(mark, 5) | {"size": [5, 3][: len(foot)]}, color(mark.run or 0)
        points.append(
            go.Scatter3d(
                x=[x] * len(foot), y=[y] * len(foot), z=foot,
                mode=f"{lines}markers+text" if mark.name else f"{lines}markers",
                marker=look, text=["", escape(mark.name)][-len(foot) :],
                textposition="top center", line={"color": stem, "width": 2}, name=escape(mark.text),
                hovertemplate=hover_mark(mark, seen.dims), showlegend=mark.run is None,
            )
        )  # fmt: skip
    if seen.diverged.any():
        at = [axis[index] for axis, index in zip(seen.axes, np.nonzero(seen.diverged), strict=True)]
        look = {"symbol": "x", "color": "gray", "size": 3}
        said = "diverged<br>α %{x:.4g}<br>β %{y:.4g}<extra></extra>"
        points.append(
            go.Scatter3d(
                x=at[0], y=at[1], z=np.full(len(at[0]), low), mode="markers", marker=look, name="diverged",
                hovertemplate=said,
            )
        )  # fmt: skip
    return points
