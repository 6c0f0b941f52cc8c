"""The page of lines: curves with their standard errors, and a second metric on the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
from plotly import graph_objects as go
from plotly.colors import hex_to_rgb

from gradvis.plots.caption import metric_label
from gradvis.plots.interactive_parts import axes, hover_mark, style
from gradvis.plots.interactive_path import over_line, thinned
from gradvis.plots.palette import LINES
from gradvis.plots.paths import own, scale_over_line
from gradvis.plots.scale import Scale, limits, scale_of_curves
from gradvis.plots.view import SurfaceLike, View, companion, intervals, runs, view

_DASHES = ("solid", "dash", "dot")
_BAND = "± 1 standard error"


def draw(surface: SurfaceLike, metric: str | None, log: bool | None) -> go.Figure:
    """The figure of one line; without a metric, the loss and what suits a second axis."""
    name, other = metric or "loss", None if metric else companion(surface)
    seen, figure = view(surface, name), go.Figure()
    _frame(figure, surface, name, [seen], log, lambda each: scale_over_line(seen, name, each))
    _add(figure, seen, name, name)
    if other:
        label = metric_label(surface.about, other)
        _add(figure, view(surface, other), other, other, 1, yaxis="y2")
        title = {"text": escape(label), "font": {"color": LINES[1]}}
        right = {"overlaying": "y", "side": "right", "range": [-0.05, 1.05], "showgrid": False, "title": title}
        right["tickvals"] = [0, 0.2, 0.4, 0.6, 0.8, 1]  # else plotly has one for each on the left
        figure.update_layout(yaxis2=right, yaxis_title_font_color=LINES[0])
    for mark in seen.marks:
        figure.add_scatter(
            x=mark.coords, y=[mark.value], mode="markers+text" if mark.name else "markers", marker=style(mark, 12),
            text=[escape(mark.name)], textposition="top center", name=escape(mark.text),
            hovertemplate=hover_mark(mark, seen.dims),
        )  # fmt: skip
    tracks = thinned(seen.tracks)
    figure.add_traces([over_line(tracks, run, name) for run in range(len(tracks))])
    _shade(figure, seen)
    return figure


def draw_several(surfaces: Sequence[SurfaceLike], names: Sequence[str], metric: str, log: bool | None) -> go.Figure:
    """The curves of several results on the same axes."""
    views, figure = [view(surface, metric) for surface in surfaces], go.Figure()
    _frame(figure, surfaces[0], metric, views, log, lambda each: scale_of_curves(views, each))
    for number, (seen, name) in enumerate(zip(views, names, strict=True)):
        _add(figure, seen, name, metric, number)
        for mark in seen.marks:
            if mark.kind == "minimum":
                figure.add_scatter(
                    x=mark.coords, y=[mark.value], mode="markers", legendgroup=name, showlegend=False,
                    marker=style(mark, 11) | {"color": _color(number)}, hovertemplate=hover_mark(mark, seen.dims),
                )  # fmt: skip
    return figure


def _frame(
    figure: go.Figure, surface: SurfaceLike, metric: str, views: Sequence[View], log: bool | None,
    choose: Callable[[bool | None], Scale],
) -> None:  # fmt: skip
    """The axes, with buttons for the scale where there is a choice."""
    chosen = choose(log)
    (x,) = axes(surface.about, views[0])
    x["range"] = [min(seen.axes[0].min() for seen in views), max(seen.axes[0].max() for seen in views)]
    figure.update_layout(xaxis=x, yaxis_title_text=escape(metric_label(surface.about, metric)))
    figure.update_layout({key.replace(".", "_"): value for key, value in _heights(chosen).items()})
    known = [own(track, metric) for seen in views for track in seen.tracks]
    if chosen.low == chosen.high or not np.nanmin(np.concatenate([*(seen.values for seen in views), *known])) > 0:
        return
    scales = [choose(each) for each in (False, True)]
    buttons = [
        {"label": label, "method": "relayout", "args": [_heights(each)]}
        for label, each in zip(("linear", "log"), scales, strict=True)
    ]
    place = {"x": 0.02, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "direction": "right", "type": "buttons"}
    figure.update_layout(updatemenus=[{"buttons": buttons, "active": int(chosen.log), **place}])


def _heights(scale: Scale) -> dict[str, Any]:
    """The axis of heights, by the names that a button calls it."""
    if scale.low == scale.high:
        return {"yaxis.type": "linear"}
    if not scale.log:
        return {"yaxis.type": "linear", "yaxis.range": list(limits(scale)), "yaxis.tickmode": "auto"}
    levels = scale.levels(8)
    ticks = {"tickmode": "array", "tickvals": levels, "ticktext": scale.texts(levels)}
    return {"yaxis.type": "log", "yaxis.range": np.log10(limits(scale)).tolist()} | {
        f"yaxis.{key}": value for key, value in ticks.items()
    }


def _color(number: int) -> str:
    return LINES[number % len(LINES)]


def _add(figure: go.Figure, seen: View, label: str, metric: str, number: int = 0, **where: Any) -> None:
    """A curve, broken where points are missing, with its band below it."""
    (x,) = seen.axes
    if seen.stderr is not None:
        red, green, blue = hex_to_rgb(_color(number))
        look = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": label, **where}
        # Between gaps the lower edge, then the upper one back: plotly fills no curve that has gaps.
        edges = [_around(x, seen, start, stop) for start, stop in runs(np.isfinite(seen.values))]
        figure.add_scatter(
            x=[place for part in edges for place in part[0]], y=[height for part in edges for height in part[1]],
            fill="toself", fillcolor=f"rgba({red},{green},{blue},0.22)", name=f"{escape(label)} {_BAND}",
            legendrank=1001, **look,
        )  # fmt: skip
    figure.add_scatter(
        x=x, y=seen.values, mode="lines+markers", name=escape(label), legendgroup=label,
        line={"color": _color(number), "dash": _dash(number, where)}, connectgaps=False,
        marker={"size": _dots(seen), "line": {"width": 0}},
        hovertemplate=f"α %{{x:.4g}}<br>{escape(metric)} %{{y:.6g}}<extra>{escape(label)}</extra>", **where,
    )  # fmt: skip


def _dash(number: int, where: dict[str, Any]) -> str:
    return "dash" if where else _DASHES[number // len(LINES) % len(_DASHES)]


def _dots(seen: View) -> list[int]:
    """Sizes of the points: only those without neighbours, which no line would show, are seen."""
    lonely = {start for start, stop in runs(np.isfinite(seen.values)) if stop - start == 1}
    return [5 * (i in lonely) for i in range(seen.values.size)]


def _around(x: Any, seen: View, start: int, stop: int) -> tuple[list[float | None], list[float | None]]:
    """The outline of a band, (2 n + 1,) places and heights; None parts it from the next one."""
    assert seen.stderr is not None
    part = slice(start, stop)
    lower, upper = (seen.values[part] + sign * seen.stderr[part] for sign in (-1, 1))
    return [*x[part], *x[part][::-1], None], [*lower, *upper[::-1], None]


def _shade(figure: go.Figure, seen: View) -> None:
    """Grey where the curve diverged."""
    for number, (start, stop) in enumerate(intervals(seen.axes[0], seen.diverged)):
        figure.add_vrect(
            x0=start, x1=stop, fillcolor="#888", opacity=0.25, line_width=0, layer="below",
            name="diverged", showlegend=number == 0,
        )  # fmt: skip
