"""Pages of spectra: a density or a cumulative spectrum with its extreme eigenvalues, on either axis."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from plotly import graph_objects as go
from plotly.colors import hex_to_rgb

from gradvis.arrays import Values
from gradvis.plots.caption_spectrum import HEIGHTS, caption, inside, subject
from gradvis.plots.curves import BAND
from gradvis.plots.eigen_axis import Axis, axis
from gradvis.plots.interactive import furnish
from gradvis.plots.palette import LINES
from gradvis.plots.scale import Scale
from gradvis.plots.spectra import Curve, SpectrumLike, curve, known, parts
from gradvis.plots.words import number

MARK = LINES[1]
_LANE = 0.1  # of the heights: for marks
_DIGITS = 7  # of places in a button: enough for any screen

Placed = tuple[Any, Values]
"""A trace and its eigenvalues, which an axis puts in their places."""


def draw(spectrum: SpectrumLike, kind: str, log: bool | None) -> go.Figure:
    """The figure of one spectrum; see `gradvis.plots.plot`."""
    ways = choices([spectrum], log)
    seen = curve(spectrum, kind, ways[0], ways[1:])
    figure = go.Figure()
    up, foot = heights(seen.least, seen.most) if kind == "density" else shares()
    figure.update_layout(yaxis=up | {"title": {"text": HEIGHTS[kind]}})
    count = int(spectrum.done.sum())
    placed = [*(density(seen, count) if kind == "density" else [steps(seen)]), *marks(seen, foot)]
    place(figure, placed, ways, ["xaxis"])
    furnish(figure, subject(spectrum.about, kind), caption(spectrum, kind, inside(spectrum, ways[0])), flat=True)
    return figure


def choices(spectra: Sequence[SpectrumLike], log: bool | None) -> list[Axis]:
    """The axis that is shown first, and the other one, where there is one."""
    measured = [parts(each) for each in spectra]
    first, other = axis(measured, log), axis(measured, False)
    if not first.log:
        other = axis(measured, True)
    return [first, other] if other.log != first.log else [first]


def heights(low: float, top: float) -> tuple[dict[str, Any], float]:
    """The axis of densities, logarithmic, and where marks stand on it."""
    room = Scale(True, low, top)
    levels, ends = room.levels(8), np.log10([low, top])
    bottom = ends[0] - _LANE * (ends[1] - ends[0])
    ticks = {"tickmode": "array", "tickvals": levels, "ticktext": room.texts(levels)}
    foot = 10 ** (bottom + 0.3 * (ends[0] - bottom))
    return {"type": "log", "range": [bottom, ends[1] + 0.05 * (ends[1] - ends[0])], **ticks}, float(foot)


def shares() -> tuple[dict[str, Any], float]:
    """The axis of shares, and where marks stand on it."""
    return {"range": [-_LANE, 1.03], "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]}, -0.7 * _LANE


def density(seen: Curve, probes: int, low: float | None = None) -> list[Placed]:
    """A density and its band, with what is said where the pointer is."""
    floor = 1e-3 * (seen.least if low is None else low)
    said, found = "eigenvalue %{customdata[0]:.5g}<br>density %{y:.4g}", []
    columns = [seen.x]
    if known(seen):
        assert seen.stderr is not None
        red, green, blue = hex_to_rgb(LINES[0])
        lower, upper = ((seen.y + sign * seen.stderr).clip(floor) for sign in (-1, 1))
        band = go.Scatter(
            y=np.concatenate([lower, upper[::-1]]), mode="lines", line={"width": 0}, fill="toself", hoverinfo="skip",
            fillcolor=f"rgba({red},{green},{blue},0.22)", name=BAND, legendgroup="band",
        )  # fmt: skip
        found.append((band, np.concatenate([seen.x, seen.x[::-1]])))
        said, columns = said + " ± %{customdata[1]:.2g}", [seen.x, seen.stderr]
    line = go.Scatter(
        y=seen.y.clip(floor), customdata=np.column_stack(columns), mode="lines", line={"color": LINES[0], "width": 1.8},
        name="density", legendgroup="density",
        hovertemplate=f"{said}<br>{probes} probe{'s' * (probes != 1)}<extra></extra>",
    )  # fmt: skip
    return [*found, (line, seen.x)]


def steps(seen: Curve, name: str = "cumulative", color: str = LINES[0], dash: str = "solid") -> Placed:
    """A cumulative spectrum."""
    said = f"%{{y:.2%}} of the eigenvalues are<br>%{{customdata[0]:.5g}} or less<extra>{escape(name)}</extra>"
    line = go.Scatter(
        y=seen.y, customdata=seen.x[:, None], mode="lines", line={"shape": "hv", "color": color, "dash": dash},
        name=escape(name), hovertemplate=said,
    )  # fmt: skip
    return line, seen.x


def marks(seen: Curve, foot: float, dots: bool = False, color: str = MARK, key: bool = True) -> list[Placed]:
    """The extreme eigenvalues at a height; open ones have not converged."""
    found = []
    for converged, name in ((True, "converged eigenvalue"), (False, "not converged")):
        chosen = seen.converged == converged
        values = seen.values[chosen]
        if not len(values):
            continue
        ends = {value: f"{name} {number(value)}" for name, value in seen.named.items()}
        symbol = "line-ns" if dots else f"triangle-up{'' if converged else '-open'}"
        look = {"symbol": symbol, "color": color, "size": 9, "line": {"color": color, "width": 1.5}}
        trace = go.Scatter(
            y=np.full(len(values), foot), mode="markers+text", marker=look, opacity=1 if converged or not dots else 0.4,
            text=[("" if dots else ends.get(value, "")) for value in values.tolist()],
            textposition=["top left" if value > 0 else "top right" for value in values.tolist()],
            textfont={"color": color}, customdata=np.column_stack([values, seen.residuals[chosen]]), name=name,
            legendgroup=name, showlegend=key,
            hovertemplate=f"{name}<br>%{{customdata[0]:.6g}}<br>residual %{{customdata[1]:.2g}}<extra></extra>",
        )  # fmt: skip
        found.append((trace, values))
    return found


def place(figure: go.Figure, placed: Sequence[Placed], ways: Sequence[Axis], names: Sequence[str]) -> None:
    """Put traces where their eigenvalues are on the first axis, with buttons for the other one."""
    for trace, x in placed:
        trace.x = ways[0].draw(x)
    figure.add_traces([trace for trace, _ in placed])
    furnish_across(figure, placed, ways, names)


def furnish_across(
    figure: go.Figure, placed: Sequence[Placed], ways: Sequence[Axis], names: Sequence[str], titled: int = 1
) -> None:
    """Give all axes of eigenvalues their numbers, the last ones their titles, and buttons for the other way."""
    for name, value in _across_all(ways[0], names, titled).items():
        figure.update_layout({name.replace(".", "_"): value})
    if len(ways) == 1:
        return
    buttons = []
    for way in sorted(ways, key=lambda each: each.log):
        places = [[float(f"{each:.{_DIGITS}g}") for each in way.draw(x)] for _, x in placed]
        moved = _across_all(way, names, titled)
        label = "symmetric log" if way.log else "linear"
        buttons.append({"label": label, "method": "update", "args": [{"x": places}, moved]})
    beside = {"x": 0.0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "direction": "right", "type": "buttons"}
    figure.update_layout(updatemenus=[{"buttons": buttons, "active": int(ways[0].log), **beside}])


def _across_all(way: Axis, names: Sequence[str], titled: int) -> dict[str, Any]:
    """All axes of eigenvalues, by the names that a button calls them."""
    found = {f"{name}.{key}": value for name in names for key, value in _across(way).items()}
    return found | {f"{name}.title.text": way.label for name in names[-titled:]}


def _across(way: Axis) -> dict[str, Any]:
    """An axis of eigenvalues, by the names of its parts."""
    levels = way.ticks()
    ticks = {
        "tickmode": "array",
        "tickvals": way.draw(np.array(levels)).tolist(),
        "ticktext": list(map(number, levels)),
    }
    shown = ticks if way.log else {"tickmode": "auto", "tickvals": None, "ticktext": None}
    return {"range": way.draw(np.array(way.limits())).tolist(), **shown}
