"""Pictures for paper: figures of one panel or more, with matplotlib and without pyplot."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradvis.plots.caption import axis_label, caption, metric_label
from gradvis.plots.panels import Panel, label_lines
from gradvis.plots.scale import Scale, scale
from gradvis.plots.view import GREEK, SurfaceLike, central, number, view

_SAVING = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "gradvis", "text.usetex": False}


@dataclass(frozen=True)
class Size:
    """A figure's width in inches, its font in points, and whether two panels stand above each other."""

    width: float
    font: float
    stacked: bool = False

    @property
    def style(self) -> dict[str, Any]:
        """The settings it is drawn with."""
        scale = self.font / 8
        return _SAVING | {
            "font.family": "DejaVu Sans",
            "font.size": self.font,
            "axes.labelsize": self.font,
            "axes.titlesize": self.font,
            "xtick.labelsize": 0.9 * self.font,
            "ytick.labelsize": 0.9 * self.font,
            "legend.fontsize": 0.9 * self.font,
            "axes.linewidth": 0.6 * scale,
            "xtick.major.width": 0.6 * scale,
            "ytick.major.width": 0.6 * scale,
            "grid.linewidth": 0.4 * scale,
            "hatch.linewidth": 0.6 * scale,
            "lines.linewidth": 1.2 * scale,
            "text.parse_math": False,  # a name with a dollar sign is a name
        }


SIZES = {"column": Size(3.5, 7.5, stacked=True), "page": Size(7.2, 8.0), "slide": Size(12.0, 14.0)}


class Picture(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png", dpi=150)
        return file.getvalue()


def draw(
    surface: SurfaceLike, kind: str | None, metric: str, ax: Any, log: bool | None, size: str, with_caption: bool
) -> Figure:
    """The figure of a surface; see `gradvis.plots.plot`.

    Raises:
        ValueError: If the given axes cannot hold what is asked for.
    """
    seen = view(surface, metric)
    colors = scale(seen.values, log)
    if ax is not None:
        return _draw_into(ax, surface, kind or "contour", metric, colors)
    panels = _panels(surface, kind or "both", metric)
    shape = SIZES[size]
    with matplotlib.rc_context(shape.style):
        return _figure(panels, colors, shape, caption(surface.about, float(np.mean(surface.done))) * with_caption)


def save(figure: Figure, file: Path, suffix: str) -> None:
    """Write a figure; the same figure gives the same bytes."""
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
    with matplotlib.rc_context(_SAVING):
        figure.savefig(file, format=suffix, dpi=300, metadata=undated)


def _panel(surface: SurfaceLike, kind: str, metric: str, title: str = "", last: bool = True) -> Panel:
    seen = view(surface, metric)
    labels = tuple(axis_label(surface.about, dim, short=kind == "surface" or bool(title)) for dim in seen.dims)
    if kind != "line" and min(seen.values.shape) < 2:
        raise ValueError(f"a {kind} needs two points along each axis, but the grid is {seen.values.shape}")
    return Panel(kind, seen, labels, metric_label(surface.about, metric), title, bar=last)


def _panels(surface: SurfaceLike, kind: str, metric: str) -> list[Panel]:
    dims = [str(dim) for dim in surface.dataset[metric].dims]
    if len(dims) == 1:
        return [_panel(surface, "line", metric)]
    if len(dims) == 2:
        return [_panel(surface, each, metric) for each in (("contour", "surface") if kind == "both" else (kind,))]
    cuts = [(dim, *central(surface, dim)) for dim in reversed(dims)]
    return [_panel(part, "contour", metric, f"{GREEK[dim]} = {number(place)}", dim == dims[0]) for dim, part, place in cuts]


def _figure(panels: list[Panel], colors: Scale, shape: Size, text: str) -> Figure:
    columns = 1 if shape.stacked else len(panels)
    rows = len(panels) // columns
    characters = int(shape.width * 72 / (0.9 * shape.font * 0.56))  # the mean width of a letter of this font, in em
    lines = textwrap.wrap(text, characters)
    tall = 0.5 if panels[0].kind == "line" else 0.8 if shape.stacked else 0.84
    height = rows * tall * shape.width / columns + len(lines) * 1.5 * shape.font / 72
    figure = Picture(figsize=(shape.width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [
        figure.add_subplot(rows, columns, i + 1, projection="3d" if panel.kind == "surface" else None)
        for i, panel in enumerate(panels)
    ]
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=0.9 * shape.font, linespacing=1.3)
    lines = [panel.draw(ax, colors) for ax, panel in zip(axes, panels, strict=True)]
    figure.draw_without_rendering()  # settles the layout, which labels on lines must know
    figure.set_layout_engine("none")
    for ax, panel, each in zip(axes, panels, lines, strict=True):
        if panel.kind == "surface":  # the box stands low in its axes
            place = ax.get_position()
            ax.set_position((place.x0, place.y0 + 0.08 * place.height, place.width, place.height))
        if each is not None:
            label_lines(ax, each, colors)
    return figure


def _draw_into(ax: Any, surface: SurfaceLike, kind: str, metric: str, colors: Scale) -> Figure:
    """Draw one panel into axes of the user's, whose style is the user's too.

    Raises:
        ValueError: If the axes have the wrong projection, or two panels are asked for.
    """
    if kind == "both":
        raise ValueError("kind='both' is two panels, but one ax came; ask for 'contour' or 'surface'")
    panel = _panels(surface, kind, metric)[0]
    solid = hasattr(ax, "plot_surface")
    if solid != (panel.kind == "surface"):
        wanted = "an ax with projection='3d'" if panel.kind == "surface" else "a flat ax"
        raise ValueError(f"a {panel.kind} needs {wanted}, but {type(ax).__name__} came")
    lines = panel.draw(ax, colors, own=False)
    if lines is not None:
        label_lines(ax, lines, colors)
    figure: Figure = ax.get_figure(root=True)
    return figure


