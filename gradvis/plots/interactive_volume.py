"""The page of a volume: shells of equal value, which a slider peels, or three slices through its middle."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from plotly import graph_objects as go

from gradvis.arrays import Values
from gradvis.plots.interactive_parts import axes, bar, hover_mark, named, style
from gradvis.plots.interactive_path import in_space, thinned
from gradvis.plots.palette import GROUND
from gradvis.plots.scale import Scale, scale
from gradvis.plots.view import SurfaceLike, View, view
from gradvis.plots.words import number

_SHELLS, _AT_FIRST = 7, 4  # the outer ones hide what is inside
_OPACITY = 0.35
CAMERA = {"eye": {"x": 1.4, "y": -1.65, "z": 0.95}}


def draw(surface: SurfaceLike, metric: str, log: bool | None) -> go.Figure:
    """The figure of a volume."""
    seen = view(surface, metric)
    colors = scale(seen.values, log)
    figure = go.Figure([
        solid(seen, colors, named(surface.about, metric, colors)),
        *in_space(thinned(seen.tracks), metric),
        *spots(seen),
    ])
    names = dict(zip(("xaxis", "yaxis", "zaxis"), axes(surface.about, seen, short=True), strict=True))
    figure.update_layout(scene={**names, "aspectmode": "cube", "camera": CAMERA, "domain_y": [0.1, 1]})
    if colors.low < colors.high:
        figure.update_layout(updatemenus=[_menu(seen, colors)], sliders=[_slider(colors)])
    return figure


def shells(scale: Scale) -> Values:
    """The heights of the shells, evenly between the ends: on a logarithmic scale, evenly in the logarithm."""
    low, high = scale.bands()[[0, -1]]
    edges: Values = np.linspace(low, high, _SHELLS + 2)[1:-1]
    return edges


def solid(seen: View, colors: Scale, label: str) -> go.Isosurface:
    """A volume as shells of equal value."""
    x, y, z = (axis.ravel() for axis in np.meshgrid(*seen.axes, indexing="ij"))
    low, high = colors.bands()[[0, -1]]
    at = shells(colors)
    return go.Isosurface(
        x=x, y=y, z=z, value=colors.draw(seen.values).ravel(), isomin=at[0], isomax=at[_AT_FIRST - 1],
        surface_count=_AT_FIRST, opacity=_OPACITY, colorscale=GROUND, cmin=low, cmax=high,
        caps={f"{axis}_show": False for axis in "xyz"}, colorbar=bar(label, colors),
        hovertemplate="α %{x:.4g}<br>β %{y:.4g}<br>γ %{z:.4g}<extra></extra>",
    )  # fmt: skip


def spots(seen: View) -> list[go.Scatter3d]:
    """The marks of a volume."""
    return [
        go.Scatter3d(
            x=[mark.coords[0]], y=[mark.coords[1]], z=[mark.coords[2]], name=escape(mark.text),
            mode="markers+text" if mark.name else "markers", marker=style(mark, 6), text=[escape(mark.name)],
            hovertemplate=hover_mark(mark, seen.dims),
        )
        for mark in seen.marks
    ]  # fmt: skip


def _slider(colors: Scale) -> dict[str, Any]:
    """Peels the volume: shells up to a value, so that what is inside is seen."""
    heights = shells(colors)
    steps = [
        {
            "label": number(_value(colors, float(top))),
            "method": "restyle",
            "args": [{"isomax": float(top), "surface.count": count}, [0]],
        }
        for count, top in enumerate(heights, 1)
    ]
    place = {"x": 0.02, "len": 0.45, "y": 0.0, "yanchor": "bottom", "pad": {"t": 0}}
    return {"steps": steps, "active": _AT_FIRST - 1, "currentvalue": {"prefix": "shells up to "}, **place}


def _value(colors: Scale, height: float) -> float:
    """The value that is drawn at a height."""
    return 10**height if colors.log else colors.offset + height * colors.unit


def _menu(seen: View, colors: Scale) -> dict[str, Any]:
    """Shells, or the slices nearest to zero; slices show all values, shells begin as the slider does at first."""
    middle = {name: float(axis[np.argmin(np.abs(axis))]) for name, axis in zip("xyz", seen.axes, strict=True)}
    places: dict[str, Any] = {f"slices.{name}.locations": [[place]] for name, place in middle.items()}
    heights, (low, high) = shells(colors), colors.bands()[[0, -1]]
    ends = {False: (heights[0], heights[_AT_FIRST - 1]), True: (low, high)}
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [
                {"surface.show": not cut, "surface.count": _AT_FIRST, "opacity": 1 if cut else _OPACITY}
                | {"isomin": float(ends[cut][0]), "isomax": float(ends[cut][1])}
                | {f"slices.{name}.show": cut for name in middle}
                | places,
                {"sliders[0].active": _AT_FIRST - 1},
                [0],
            ],
        }
        for label, cut in (("shells", False), ("slices", True))
    ]
    place = {"x": 0.02, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "direction": "right", "type": "buttons"}
    return {"buttons": buttons, "active": 0, "showactive": True, **place}
