"""The page of several results: curves together, else a field each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from gradvis.plots.caption import metric_label
from gradvis.plots.interactive import furnish
from gradvis.plots.interactive_line import draw_several
from gradvis.plots.interactive_parts import CAMERA, TALL, axes, bar, hover, hover_mark, named, pins, sheet, style, ticks
from gradvis.plots.interactive_path import flat_paths, in_space, on_sheet, thinned
from gradvis.plots.interactive_volume import CAMERA as VOLUME_CAMERA
from gradvis.plots.interactive_volume import solid, spots
from gradvis.plots.many import captions, scales_of
from gradvis.plots.palette import GROUND
from gradvis.plots.scale import Scale
from gradvis.plots.view import GREEK, SurfaceLike, View, view

_MOST_SCENES = 8  # browsers keep some sixteen WebGL drawings, telephones eight


def draw(
    surfaces: Sequence[SurfaceLike], titles: Sequence[str], kind: str | None, metric: str, log: bool | None, share: bool
) -> go.Figure:
    """The figure of several results; see `gradvis.plots.plot_many`.

    Raises:
        ValueError: If they are more 3-D fields than browsers draw.
    """
    k, count = surfaces[0].dataset["loss"].ndim, len(surfaces)
    flat = k == 1 or kind == "contour"
    if not flat and count > _MOST_SCENES:
        raise ValueError(
            f"a page holds at most {_MOST_SCENES} 3-D surfaces, but {count} came; use kind='contour' or fewer results"
        )
    if k == 1:
        figure = draw_several(surfaces, titles, metric, log)
    else:
        figure = _fields(surfaces, titles, metric, scales_of(surfaces, metric, log, share), share, flat)
    furnish(figure, metric_label(surfaces[0].about, metric), captions(surfaces, titles, share), flat=flat)
    return figure


def _fields(
    surfaces: Sequence[SurfaceLike],
    titles: Sequence[str],
    metric: str,
    scales: Sequence[Scale],
    share: bool,
    flat: bool,
) -> go.Figure:
    """A field each, in rows."""
    columns = len(titles) if len(titles) <= 3 else 2 if len(titles) == 4 else 3
    rows = -(-len(titles) // columns)
    figure = make_subplots(
        rows, columns, specs=[[{"type": "xy" if flat else "scene"}] * columns] * rows,
        subplot_titles=list(map(escape, titles)), horizontal_spacing=0.14 if flat and not share else 0.06,
        vertical_spacing=0.2 if flat else 0.1,
    )  # fmt: skip
    for place, (surface, colors) in enumerate(zip(surfaces, scales, strict=True)):
        seen = view(surface, metric)
        seen = replace(seen, tracks=thinned(seen.tracks))
        label = named(surface.about, metric, colors)
        traces = (_flat if flat else _solid)(seen, metric, colors, label)
        row, column = divmod(place, columns)
        figure.add_traces(traces, rows=[row + 1] * len(traces), cols=[column + 1] * len(traces))
        first = figure.data[-len(traces)]
        right, middle, height = _axes(figure, first, surface, seen, colors)
        first.colorbar.update(x=right + 0.005, y=middle, len=height, thickness=10)
        first.showscale = flat or len(seen.dims) == 3  # a plane's axis of heights says it too
        if share:
            first.colorbar.update(x=1.0, xanchor="left", y=0.5, len=0.75)
            first.showscale = place == 0
    figure.update_traces(showlegend=False)
    figure.update_annotations(yshift=8)
    return figure


def _flat(seen: View, metric: str, colors: Scale, label: str) -> list[Any]:
    """A contour and its marks; plotly wants a row for each y."""
    low, high = colors.bands()[[0, -1]]
    contour = go.Contour(
        x=seen.axes[0], y=seen.axes[1], z=colors.draw(seen.values).T, hovertext=hover(seen, metric).T,
        hoverinfo="text", zmin=low, zmax=high, colorscale=GROUND, colorbar=bar(label, colors),
        contours={"start": low, "end": high, "size": (high - low) / 15}, line={"width": 0.5, "color": "black"},
    )  # fmt: skip
    paths = flat_paths(seen.tracks, metric, "white")
    return [contour, *paths] + [
        go.Scatter(
            x=[mark.coords[0]], y=[mark.coords[1]], mode="markers+text" if mark.name else "markers",
            marker=style(mark, 10), text=[escape(mark.name)], textposition="top center",
            textfont={"color": "white", "shadow": "auto"}, hovertemplate=hover_mark(mark, seen.dims),
        )
        for mark in seen.marks
    ]  # fmt: skip


def _solid(seen: View, metric: str, colors: Scale, label: str) -> list[Any]:
    if len(seen.dims) == 3:
        return [solid(seen, colors, label), *in_space(seen.tracks, metric), *spots(seen)]
    return [sheet(seen, metric, colors, label), *on_sheet(seen, metric, colors), *pins(seen, colors)]


def _axes(figure: go.Figure, trace: Any, surface: SurfaceLike, seen: View, colors: Scale) -> tuple[float, float, float]:
    """Name the axes of a field; its right end, its middle and its height come back, as shares of the figure."""
    names = axes(surface.about, seen, short=True)
    if trace.type == "contour":
        x, y = (figure.layout[f"{axis}axis{trace[f'{axis}axis'][1:]}"] for axis in "xy")
        x.update(names[0])
        y.update(names[1])
        across, up = x.domain, y.domain
    else:
        scene, names = figure.layout[trace.scene], [{"title": {"text": GREEK[dim]}} for dim in seen.dims]
        scene.update(dict(zip(("xaxis", "yaxis", "zaxis"), names, strict=False)))
        if len(names) == 2:
            low, high = colors.bands()[[0, -1]]
            scene.zaxis.update(
                title={"text": colors.counted.strip()}, range=[low - 0.04 * (high - low), high], **ticks(colors)
            )
            scene.update(aspectmode="manual", aspectratio={"x": 1, "y": 1, "z": TALL})
        camera = CAMERA if len(names) == 2 else VOLUME_CAMERA
        away = 0.6 * round(1 / (scene.domain.x[1] - scene.domain.x[0]))  # a field is narrow
        eye = {name: away * value for name, value in camera["eye"].items()}
        scene.camera = camera | {"eye": eye}
        across, up = scene.domain.x, scene.domain.y
    return across[1], sum(up) / 2, up[1] - up[0]
