"""Pages to turn a surface about, with plotly: self-contained, for a browser without a network."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly import graph_objects as go

from gradvis.plots.caption import axis_label, caption, metric_label
from gradvis.plots.scale import Scale, scale
from gradvis.plots.view import GREEK, SurfaceLike, View, view

COLORS = "Viridis"
_MARKS = {"centre": ("cross", "black"), "minimum": ("diamond", "#ff8c1a")}
_CAMERA = {"eye": {"x": 0.95, "y": -1.4, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.14}}
_FROM_ABOVE: dict[str, Any] = {
    "camera": {"eye": {"x": 0, "y": 0, "z": 2}, "up": {"x": 0, "y": 1, "z": 0}, "projection": {"type": "orthographic"}},
    "aspectratio": {"x": 1.6, "y": 1.6, "z": 0.5},
    "zaxis": {"visible": False},
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title></head>
<body style="margin:0">{figure}</body></html>
"""


def draw(surface: SurfaceLike, kind: str | None, metric: str, log: bool | None) -> go.Figure:
    """The figure of a surface; see `gradvis.plots.plot`. A contour is the surface seen from above."""
    first = view(surface, metric)
    colors = scale(first.values, log)
    k = len(first.dims)
    if k == 2:
        figure = _relief(surface, metric, colors.log)
        if kind == "contour":
            figure.update_layout(scene=_FROM_ABOVE)
    else:
        figure = go.Figure((_line if k == 1 else _shells)(surface, metric, first, colors))
        figure.update_layout(_axes(surface, metric, first, colors))
    figure.update_layout(
        title={"text": escape(_title(surface)), "x": 0.02, "y": 0.98, "yanchor": "top"},
        annotations=[_note(surface)],
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": 1.0, "yanchor": "bottom"},
        margin={"l": 10 if k > 1 else 80, "r": 10, "t": 90, "b": 60 if k > 1 else 110},
        template="plotly_white",
    )
    return figure


def save(figure: go.Figure, surface: SurfaceLike, file: Path) -> None:
    """Write the page, with the whole of plotly.js in it."""
    # Plotly's own bar has a button that uploads the figure to a server of theirs; this page talks to nobody.
    options = {"displaylogo": False, "responsive": True, "showSendToCloud": False, "plotlyServerURL": ""}
    body = figure.to_html(full_html=False, include_plotlyjs=True, config=options, default_height="100vh")
    file.write_text(_PAGE.format(title=escape(_title(surface)), figure=body), encoding="utf-8")


def _title(surface: SurfaceLike) -> str:
    return "Loss surface" + (f" of {surface.about['name']}" if surface.about.get("name") else "")


def _note(surface: SurfaceLike) -> dict[str, Any]:
    lines = textwrap.wrap(caption(surface.about, float(np.mean(surface.done))), 150)
    text = "<br>".join(map(escape, lines))
    place = {"xref": "paper", "yref": "paper", "x": 0.01, "xanchor": "left", "y": 0, "yanchor": "top", "yshift": -8}
    if surface.dataset["loss"].ndim == 1:
        place["yshift"] = -55  # below the labels of the axis
    return {"text": text, "showarrow": False, "align": "left", "font": {"size": 12, "color": "#444"}, **place}


@dataclass(frozen=True, eq=False)
class State:
    """What the page can show: one metric on one scale, whether that suits it best, and the traces that do it."""

    metric: str
    label: str
    scale: Scale
    preferred: bool
    traces: list[Any] = field(default_factory=list)

    @property
    def ticks(self) -> dict[str, Any]:
        """Where the axis of heights and the colour bar have their numbers."""
        levels = self.scale.levels(8) or [self.scale.low]
        return {"tickvals": self.scale.draw(np.array(levels)).tolist(), "ticktext": self.scale.texts(levels)}

    @property
    def heights(self) -> dict[str, Any]:
        """The axis of heights, by the names that a button calls it."""
        low, high = self.scale.bands()[[0, -1]]
        axis = {"title.text": self.label, "range": [low - 0.04 * (high - low), high], **self.ticks}
        return {f"scene.zaxis.{name}": value for name, value in axis.items()}


def _states(surface: SurfaceLike) -> list[State]:
    """Every metric, linear and, where all values are above zero, logarithmic."""
    states = []
    for metric in surface.metrics:
        seen = view(surface, metric)
        scales = [scale(seen.values, log=False)]
        flat = scales[0].offset or scales[0].low == scales[0].high
        if not flat and np.nanmin(seen.values) > 0:
            scales.append(scale(seen.values, log=True))
        for each in scales:
            label = escape(metric_label(surface.about, metric) + each.counted).replace("\n", "<br>")
            state = State(metric, label, each, each.log == scale(seen.values).log)
            state.traces.extend([_sheet(surface, seen, state), *_points(seen, each)])
            states.append(state)
    return states


def _relief(surface: SurfaceLike, metric: str, log: bool) -> go.Figure:
    """All states as traces, of which those of one are visible; the buttons change which."""
    states = _states(surface)
    same = [i for i, state in enumerate(states) if state.metric == metric]
    at = next((i for i in same if states[i].scale.log == log), same[0])  # a constant one is linear only
    figure = go.Figure([trace for state in states for trace in state.traces])
    for trace, visible in zip(figure.data, _visible(states, at), strict=True):
        trace.visible = visible
    x, y = ({"title": {"text": escape(axis_label(surface.about, str(dim)))}} for dim in surface.dataset[metric].dims)
    figure.update_layout(
        scene={"xaxis": x, "yaxis": y, "aspectmode": "manual"},
        scene_aspectratio={"x": 1, "y": 1, "z": 0.7},
        scene_camera=_CAMERA,
        updatemenus=[_scale_menu(states, at), *([_metric_menu(states, at)] if len(surface.metrics) > 1 else [])],
    )
    figure.update_layout({name.replace(".", "_"): value for name, value in states[at].heights.items()})
    return figure


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


def _sheet(surface: SurfaceLike, seen: View, state: State) -> go.Surface:
    """The surface: plotly wants a row for each y."""
    heights = state.scale.draw(seen.values)
    low, high = state.scale.bands()[[0, -1]]
    lines = {"show": True, "start": low, "end": high, "size": (high - low) / 15, "color": "black", "width": 1}
    return go.Surface(
        x=seen.axes[0],
        y=seen.axes[1],
        z=heights.T,
        hovertext=_hover(seen, state.metric).T,
        hoverinfo="text",
        cmin=low,
        cmax=high,
        colorscale=COLORS,
        colorbar={"title": {"text": state.label, "side": "right"}, "len": 0.75, "thickness": 16, **state.ticks},
        contours={"z": lines},
        lighting={"ambient": 0.8, "diffuse": 0.5, "specular": 0.05, "roughness": 0.9},
        name=state.metric,
    )


def _hover(seen: View, metric: str) -> NDArray[np.object_]:
    """What is said of every point: its true value, also where the height is a logarithm or cut.

    Not `customdata`: for a surface plotly.js looks that up with rows and columns swapped.
    """
    names, lines = [GREEK[dim] for dim in seen.dims], np.empty(seen.values.shape, object)
    for index, value in np.ndenumerate(seen.values):
        place = (f"{name} {axis[i]:.4g}" for name, axis, i in zip(names, seen.axes, index, strict=True))
        lines[index] = "<br>".join([*place, f"{escape(metric)} {value:.6g}"])
    return lines


def _points(seen: View, colors: Scale) -> list[go.Scatter3d]:
    """The marks, on pins that are seen from above, and on the floor the points that diverged."""
    points = []
    top = float(colors.bands()[-1])
    for mark in seen.marks:
        shape, color = _MARKS[mark.kind]
        (x, y), z = mark.coords, float(colors.draw(mark.value))
        style: dict[str, Any] = {
            "symbol": shape,
            "color": color,
            "size": [5, 6],
            "line": {"color": "black", "width": 1},
        }
        hover = f"{mark.text}<br>α {x:.4g}<br>β {y:.4g}<extra></extra>"
        points.append(
            go.Scatter3d(
                x=[x, x], y=[y, y], z=[z, top], mode="lines+markers", marker=style,
                line={"color": "black", "width": 2}, name=mark.text, hovertemplate=hover,
            )
        )  # fmt: skip
    if seen.diverged.any():
        at = [axis[index] for axis, index in zip(seen.axes, np.nonzero(seen.diverged), strict=True)]
        at.append(np.full(len(at[0]), colors.bands()[0]))
        style = {"symbol": "x", "color": "gray", "size": 3}
        hover = "diverged<br>α %{x:.4g}<br>β %{y:.4g}<extra></extra>"
        points.append(
            go.Scatter3d(x=at[0], y=at[1], z=at[2], mode="markers", marker=style, name="diverged", hovertemplate=hover)
        )
    return points


def _line(surface: SurfaceLike, metric: str, seen: View, colors: Scale) -> list[go.Scatter]:
    drawn = np.clip(seen.values, colors.low, colors.high)
    hover = f"α %{{x:.4g}}<br>{escape(metric)} %{{customdata:.6g}}<extra></extra>"
    line = go.Scatter(
        x=seen.axes[0],
        y=drawn,
        customdata=seen.values,
        hovertemplate=hover,
        showlegend=False,
        line={"color": "#31688e"},
    )
    marks = []
    for mark in seen.marks:
        shape, color = _MARKS[mark.kind]
        style = {"symbol": shape, "color": color, "size": 12, "line": {"color": "black", "width": 1}}
        height = np.clip(mark.value, colors.low, colors.high)
        marks.append(go.Scatter(x=mark.coords, y=[height], mode="markers", marker=style, name=mark.text))
    return [line, *marks]


def _shells(surface: SurfaceLike, metric: str, seen: View, colors: Scale) -> list[go.Isosurface]:
    """A volume as shells of equal value."""
    x, y, z = (axis.ravel() for axis in np.meshgrid(*seen.axes, indexing="ij"))
    low, high = colors.bands()[[0, -1]]
    state = State(metric, escape(metric_label(surface.about, metric)), colors, True)
    hover = "α %{x:.4g}<br>β %{y:.4g}<br>γ %{z:.4g}<extra></extra>"
    return [
        go.Isosurface(
            x=x, y=y, z=z, value=colors.draw(seen.values).ravel(), isomin=low + 0.1 * (high - low),
            isomax=high - 0.1 * (high - low), surface_count=5, opacity=0.35, colorscale=COLORS, cmin=low, cmax=high,
            caps={f"{axis}_show": False for axis in "xyz"}, hovertemplate=hover,
            colorbar={"title": {"text": state.label, "side": "right"}, "len": 0.75, "thickness": 16, **state.ticks},
        )
    ]  # fmt: skip


def _axes(surface: SurfaceLike, metric: str, seen: View, colors: Scale) -> dict[str, Any]:
    """The layout of a line or a volume."""
    titles = [
        {"title": {"text": escape(axis_label(surface.about, dim, short=len(seen.dims) == 3))}} for dim in seen.dims
    ]
    if len(seen.dims) == 1:
        height = {"title": {"text": escape(metric_label(surface.about, metric))}}
        return {"xaxis": titles[0], "yaxis": height | {"type": "log" if colors.log else "linear"}}
    return {"scene": {f"{name}axis": title for name, title in zip("xyz", titles, strict=True)}}
