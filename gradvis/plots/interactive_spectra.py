"""Pages of several spectra: densities in panels or one below the other, cumulative spectra together."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from plotly import graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from gradvis.plots.caption_spectrum import HEIGHTS, captions
from gradvis.plots.eigen_axis import Axis
from gradvis.plots.interactive import furnish
from gradvis.plots.interactive_spectrum import (
    Placed,
    choices,
    density,
    furnish_across,
    heights,
    marks,
    place,
    shares,
    steps,
)
from gradvis.plots.palette import LINES, STEPS, STEPS_TO
from gradvis.plots.ridge_rows import OVERLAP, rows_of
from gradvis.plots.spectra import Curve, SpectrumLike, curve

_DASHES = ("solid", "dash", "dot")


def draw(spectra: Sequence[SpectrumLike], titles: Sequence[str], kind: str, log: bool | None, share: bool) -> go.Figure:
    """The figure of several spectra; see `gradvis.plots.plot_many`."""
    ways = choices(spectra, log)
    curves = [curve(each, "cumulative" if kind == "cumulative" else "density", ways[0], ways[1:]) for each in spectra]
    if kind == "density":
        figure = _panels(spectra, curves, titles, ways, share)
    else:
        figure = (_ridges if kind == "ridge" else _together)(curves, titles, ways)
    text = captions(spectra, titles, kind)
    furnish(figure, text.partition(". ")[0], text, flat=True)
    if kind == "density":  # titles of panels stand where the legend and the buttons would be
        figure.update_layout(margin_t=125, legend_y=1.07)
        for menu in figure.layout.updatemenus:
            menu.y = 1.07
    return figure


def _together(curves: Sequence[Curve], titles: Sequence[str], ways: Sequence[Axis]) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(yaxis=shares()[0] | {"title": {"text": HEIGHTS["cumulative"]}, "range": [-0.03, 1.03]})
    looks = [(LINES[i % len(LINES)], _DASHES[i // len(LINES) % len(_DASHES)]) for i in range(len(curves))]
    lines = [steps(seen, title, *look) for seen, title, look in zip(curves, titles, looks, strict=True)]
    place(figure, lines, ways, ["xaxis"])
    return figure


def _panels(
    spectra: Sequence[SpectrumLike], curves: Sequence[Curve], titles: Sequence[str], ways: Sequence[Axis], share: bool
) -> go.Figure:
    """A density each; `share` gives them the same heights."""
    columns = 1 if len(curves) == 1 else 2 if len(curves) in (2, 4) else 3
    rows = -(-len(curves) // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=list(map(escape, titles)), horizontal_spacing=0.08, vertical_spacing=0.3 / rows
    )
    low, top = min(each.least for each in curves), max(each.most for each in curves)
    found: list[Placed] = []
    for i, (spectrum, seen) in enumerate(zip(spectra, curves, strict=True)):
        floor, most = (low, top) if share else (seen.least, seen.most)
        up, foot = heights(floor, most)
        number = "" if i == 0 else str(i + 1)
        figure.layout[f"yaxis{number}"].update(**up)
        placed = [*density(seen, int(spectrum.done.sum()), floor), *marks(seen, foot)]
        for trace, x in placed:
            trace.update(x=ways[0].draw(x), xaxis=f"x{number}", yaxis=f"y{number}")
            trace.showlegend = trace.name not in {each.name for each, _ in found}
            found.append((trace, x))
    figure.add_traces([trace for trace, _ in found])
    names = ["xaxis", *(f"xaxis{i + 1}" for i in range(1, len(curves)))]
    furnish_across(figure, found, ways, names, titled=columns)
    figure.update_xaxes(matches="x")
    return figure


def _ridges(curves: Sequence[Curve], titles: Sequence[str], ways: Sequence[Axis]) -> go.Figure:
    """Densities one below the other, each on a logarithmic scale of its own place."""
    count, figure = len(curves), go.Figure()
    found: list[Placed] = []
    for i, (seen, row, title) in enumerate(zip(curves, rows_of(curves), titles, strict=True)):
        base, color = count - 1.0 - i, sample_colorscale(STEPS, [STEPS_TO * i / max(count - 1, 1)])[0]
        said = f"{escape(title)}<br>eigenvalue %{{customdata[0]:.5g}}<br>density %{{customdata[1]:.4g}}<extra></extra>"
        foot = go.Scatter(y=np.full(2, base), mode="lines", line={"width": 0}, hoverinfo="skip", showlegend=False)
        crest = go.Scatter(
            y=base + row, customdata=np.column_stack([seen.x, seen.y]), mode="lines", fill="tonexty",
            fillcolor=_clear(color), line={"color": color, "width": 1}, hovertemplate=said, showlegend=False,
        )  # fmt: skip
        found += [(foot, seen.x[[0, -1]]), (crest, seen.x)]
    for i, seen in enumerate(curves):
        placed = marks(seen, count - 1.0 - i, dots=True, color="black")
        for trace, x in placed:
            trace.showlegend = trace.name not in {each.name for each, _ in found}
            found.append((trace, x))
    ticks = {"tickvals": [count - 1 - i for i in range(count)], "ticktext": list(map(escape, titles))}
    figure.update_layout(yaxis={"range": [-0.3, count - 1 + 1.05 * OVERLAP], "showgrid": False, **ticks})
    place(figure, found, ways, ["xaxis"])
    return figure


def _clear(color: str) -> str:
    """A colour that lets something through."""
    return color.replace("rgb(", "rgba(").replace(")", ", 0.75)")
