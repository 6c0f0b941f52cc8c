"""Pages to turn a surface about, with plotly: self-contained, for a browser without a network."""

from __future__ import annotations

import textwrap
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from plotly import graph_objects as go

from gradvis.plots import interactive_line, interactive_plane, interactive_volume
from gradvis.plots.caption import caption, subject
from gradvis.plots.view import SurfaceLike

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title></head>
<body style="margin:0">{figure}</body></html>
"""
# Of a legend: right of the buttons above flat axes, else in the corner that a 3-D field leaves free.
_BESIDE = {"orientation": "h", "x": 0.2, "xanchor": "left", "y": 1.0, "yanchor": "bottom"}
_WITHIN = {"orientation": "v", "x": 0.02, "xanchor": "left", "y": 0.99, "yanchor": "top", "bgcolor": "rgba(0,0,0,0)"}
_LETTERS = 150  # of a caption, in a line of the page


def draw(surface: SurfaceLike, kind: str | None, metric: str | None, log: bool | None) -> go.Figure:
    """The figure of a surface; see `gradvis.plots.plot`. A contour is the surface seen from above."""
    k = surface.dataset["loss"].ndim
    if k == 1:
        figure = interactive_line.draw(surface, metric, log)
    elif k == 2:
        figure = interactive_plane.draw(surface, kind, metric or "loss", log)
    else:
        figure = interactive_volume.draw(surface, metric or "loss", log)
    furnish(figure, subject(surface.about, k), caption(surface.about, float(np.mean(surface.done)), k), flat=k == 1)
    return figure


def furnish(figure: go.Figure, title: str, text: str, flat: bool) -> None:
    """Add what every page has: a title above, and a caption below the axes."""
    lines = list(map(escape, textwrap.wrap(text.replace("gradvis ", "gradvis\u00a0"), _LETTERS)))
    place: dict[str, Any] = {"xref": "paper", "yref": "paper", "x": 0.01, "xanchor": "left", "y": 0, "yanchor": "top"}
    note = {
        "text": "<br>".join(lines),
        "showarrow": False,
        "align": "left",
        "font": {"size": 12, "color": "#444"},
        **place,
    }
    figure.add_annotation(note | {"yshift": -55 if flat else -8})  # below the labels of flat axes
    figure.update_layout(
        title={"text": escape(title), "x": 0.02, "y": 0.98, "yanchor": "top"},
        legend=_BESIDE if flat else _WITHIN,
        margin={"l": 80 if flat else 10, "r": 70 if flat else 10, "t": 90, "b": (75 if flat else 25) + 17 * len(lines)},
        template="plotly_white",
    )


def save(figure: go.Figure, file: Path) -> None:
    """Write the page, with the whole of plotly.js in it."""
    # Plotly's own bar has a button that uploads the figure to a server of theirs; this page talks to nobody.
    config = {"displaylogo": False, "responsive": True, "showSendToCloud": False, "plotlyServerURL": ""}
    options = {"full_html": False, "include_plotlyjs": True, "default_height": "100vh", "auto_play": False}
    body = figure.to_html(config=config, **options)
    file.write_text(_PAGE.format(title=figure.layout.title.text, figure=body), encoding="utf-8")
