"""Several results in one figure: curves together, planes a panel each, volumes a row of slices each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gradvis.plots import curves
from gradvis.plots.caption import axis_label, caption, metric_label
from gradvis.plots.marks import handles, legend
from gradvis.plots.panels import Panel, label_lines, number_bar
from gradvis.plots.scale import Scale, scale, scale_of_curves
from gradvis.plots.static import SIZES, Size, blank, panel_of, slices
from gradvis.plots.view import GREEK, SurfaceLike, view


def draw(
    surfaces: Sequence[SurfaceLike], titles: Sequence[str], kind: str, metric: str, log: bool | None, size: str,
    share_scale: bool, with_caption: bool,
) -> Figure:  # fmt: skip
    """The figure of several results; see `gradvis.plots.plot_many`."""
    shape, k = SIZES[size], surfaces[0].dataset["loss"].ndim
    text = captions(surfaces, titles, share_scale) if with_caption else ""
    with matplotlib.rc_context(shape.style):
        if k == 1:
            return _curves(surfaces, titles, metric, log, shape, text)
        scales = scales_of(surfaces, metric, log, share_scale)
        if k == 3:
            rows = [_row(surface, metric, title, share_scale) for surface, title in zip(surfaces, titles, strict=True)]
            return _contours(
                [each for row in rows for each in row],
                [each for each in scales for _ in range(3)],
                3,
                shape,
                text,
                share_scale,
            )
        panels = [
            replace(panel_of(surface, kind, metric, title), bar=not share_scale)
            for surface, title in zip(surfaces, titles, strict=True)
        ]
        columns = columns_of(len(panels), shape)
        if kind == "surface":
            return _reliefs(panels, scales, columns, shape, text)
        return _contours(panels, scales, columns, shape, text, share_scale)


def scales_of(surfaces: Sequence[SurfaceLike], metric: str, log: bool | None, share: bool) -> list[Scale]:
    """The scale of each surface: its own, or that of all values together."""
    values = [view(surface, metric).values.ravel() for surface in surfaces]
    return [scale(np.concatenate(values), log)] * len(values) if share else [scale(each, log) for each in values]


def captions(surfaces: Sequence[SurfaceLike], titles: Sequence[str], share: bool) -> str:
    """One caption if it holds for all, else one for those that share it."""
    k = surfaces[0].dataset["loss"].ndim
    scales = "" if k == 1 else "All share one scale. " if share else "Each has its own scale. "
    said: dict[str, list[str]] = {}
    for surface, title in zip(surfaces, titles, strict=True):
        text = caption({**surface.about, "name": None}, float(np.mean(surface.done)), k)
        said.setdefault(text, []).append(title)
    if len(said) == 1:
        return scales + next(iter(said))
    return scales + " ".join(f"{', '.join(names)}: {text}" for text, names in said.items())


def columns_of(count: int, shape: Size) -> int:
    """How many panels stand beside each other: four are two by two."""
    return 1 if shape.stacked else count if count <= 3 else 2 if count == 4 else 3


def _row(surface: SurfaceLike, metric: str, title: str, share: bool) -> list[Panel]:
    """The slices of a volume, of which the last has the colour bar."""
    parts = slices(surface, metric, bars=False)
    return [replace(each, title=f"{title}, {each.title}", bar=each.bar and not share) for each in parts]


def _curves(
    surfaces: Sequence[SurfaceLike], titles: Sequence[str], metric: str, log: bool | None, shape: Size, text: str
) -> Figure:
    views = [view(surface, metric) for surface in surfaces]
    figure, room = blank((0.75 if shape.stacked else 0.5) * shape.width, shape, text)
    figure.set_layout_engine("constrained", rect=room)
    ax = figure.add_subplot()
    ax.set(xlabel=axis_label(surfaces[0].about, "alpha"), ylabel=metric_label(surfaces[0].about, metric))
    curves.several(ax, views, titles, scale_of_curves(views, log))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _contours(
    panels: Sequence[Panel], scales: Sequence[Scale], columns: int, shape: Size, text: str, share: bool
) -> Figure:
    rows = -(-len(panels) // columns)
    entries = max(len(each.view.marks) + bool(each.view.diverged.any()) for each in panels)
    cell = 0.8 * shape.width / columns + (entries + 1) * 1.4 * shape.font / 72
    figure, room = blank(rows * cell, shape, text)
    figure.set_layout_engine("constrained", rect=room)
    axes = [figure.add_subplot(rows, columns, place) for place in range(1, len(panels) + 1)]
    lines = [each.draw(ax, own) for ax, each, own in zip(axes, panels, scales, strict=True)]
    if share:
        _shared_bar(figure, axes, panels[0].metric, scales[0])
    figure.draw_without_rendering()  # settles the layout, which labels on lines must know
    figure.set_layout_engine("none")
    for ax, each, contours, own in zip(axes, panels, lines, scales, strict=True):
        if contours is not None:
            label_lines(ax, each, contours, own)
    return figure


def _shared_bar(figure: Figure, axes: list[Any], metric: str, scale: Scale) -> None:
    filled = [each for ax in axes for each in ax.collections if getattr(each, "filled", False)]
    if filled:  # all have the same bands
        number_bar(figure.colorbar(filled[0], ax=axes, fraction=0.04, pad=0.02, aspect=30), metric, scale)


def _reliefs(panels: Sequence[Panel], scales: Sequence[Scale], columns: int, shape: Size, text: str) -> Figure:
    rows = -(-len(panels) // columns)
    named = (max(len(each.view.marks) + bool(each.view.diverged.any()) for each in panels) + 1) * 1.5 * shape.font / 72
    cell = 0.84 * shape.width / columns + named
    figure, (_, below, _, above) = blank(rows * cell, shape, text)
    for place, (each, own) in enumerate(zip(panels, scales, strict=True)):
        row, column = divmod(place, columns)
        bottom = below + above * (1 - (row + 1) / rows)
        room = (column / columns, bottom + 0.05 * above / rows, 0.93 / columns, above / rows * (0.95 - named / cell))
        ax = figure.add_axes(room, projection="3d")
        # Panels are small: what heights mean stands above, not along them.
        replace(each, labels=tuple(GREEK[dim] for dim in each.view.dims), bar=False).draw(ax, own)
        legend(ax, handles(each.view), f"{each.title} · {each.metric.partition(' (')[0]}{own.counted}")
    return figure
