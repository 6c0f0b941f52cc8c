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
from matplotlib.gridspec import GridSpec

from gradvis.plots.caption import axis_label, caption, metric_label
from gradvis.plots.panels import Panel, label_lines
from gradvis.plots.scale import Scale, scale
from gradvis.plots.view import GREEK, SurfaceLike, central, number, view

Room = tuple[float, float, float, float]
_SAVING: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "gradvis", "text.usetex": False}


@dataclass(frozen=True)
class Size:
    """A figure's width in inches, its font in points, and whether two panels stand above each other."""

    width: float
    font: float
    stacked: bool = False

    @property
    def style(self) -> dict[Any, Any]:
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
    shape = SIZES[size]
    panels = _panels(surface, kind or "both", metric, bars=shape.stacked)
    with matplotlib.rc_context(shape.style):
        return _figure(panels, colors, shape, caption(surface.about, float(np.mean(surface.done))) * with_caption)


def save(figure: Figure, file: Path, suffix: str) -> None:
    """Write a figure; the same figure gives the same bytes."""
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
    with matplotlib.rc_context(_SAVING):
        figure.savefig(file, format=suffix, dpi=300, metadata=undated)


def _panel(surface: SurfaceLike, kind: str, metric: str, title: str = "", bar: bool = True) -> Panel:
    seen = view(surface, metric)
    labels = tuple(axis_label(surface.about, dim, short=kind == "surface" or bool(title)) for dim in seen.dims)
    if kind != "line" and min(seen.values.shape) < 2:
        raise ValueError(f"a {kind} needs two points along each axis, but the grid is {seen.values.shape}")
    return Panel(kind, seen, labels, metric_label(surface.about, metric), title, bar=bar)


def _panels(surface: SurfaceLike, kind: str, metric: str, bars: bool) -> list[Panel]:
    """What is drawn, panel by panel; `bars` gives every slice of a volume a colour bar, else the last alone has one."""
    dims = [str(dim) for dim in surface.dataset[metric].dims]
    if len(dims) == 1:
        return [_panel(surface, "line", metric)]
    if len(dims) == 2:
        if kind == "both":
            return [_panel(surface, "contour", metric), _panel(surface, "surface", metric, bar=False)]
        return [_panel(surface, kind, metric)]
    panels = []
    for dim in reversed(dims):
        part, place = central(surface, dim)
        panels.append(_panel(part, "contour", metric, f"{GREEK[dim]} = {number(place)}", bars or dim == dims[0]))
    return panels


def _figure(panels: list[Panel], colors: Scale, shape: Size, text: str) -> Figure:
    lines = _wrap(text, shape)
    below = len(lines) * 1.5 * shape.font / 72
    height = _height(panels, shape) + below
    figure = Picture(figsize=(shape.width, height))
    FigureCanvasAgg(figure)
    figure.text(0.01, 0.3 * below / height / max(len(lines), 1), "\n".join(lines), fontsize=0.9 * shape.font)
    flat, solid = _rooms(panels, shape, below / height)
    count = sum(panel.kind != "surface" for panel in panels)
    if count:
        figure.set_layout_engine("constrained", rect=flat)
    grid = GridSpec(*((count or 1, 1) if shape.stacked else (1, count or 1)), figure=figure)
    axes = [
        figure.add_axes(solid, projection="3d") if panel.kind == "surface" else figure.add_subplot(grid[i])
        for i, panel in enumerate(panels)
    ]
    drawn = [panel.draw(ax, colors) for ax, panel in zip(axes, panels, strict=True)]
    figure.draw_without_rendering()  # settles the layout, which labels on lines must know
    figure.set_layout_engine("none")
    for ax, panel, contours in zip(axes, panels, drawn, strict=True):
        if contours is not None:
            label_lines(ax, panel, contours, colors)
    return figure


def _wrap(text: str, shape: Size) -> list[str]:
    """Cut a caption into lines of the figure's width: a letter of this font is some 0.53 em wide."""
    whole = text.replace("gradvis ", "gradvis\u00a0").replace(" %", "\u00a0%")  # no break within
    return textwrap.wrap(whole, int(shape.width * 72 / (0.9 * shape.font * 0.53)), break_on_hyphens=False)


def _height(panels: list[Panel], shape: Size) -> float:
    """The height of the panels in inches, as looked at for each size."""
    kinds = [panel.kind for panel in panels]
    if "line" in kinds:
        return (0.75 if shape.stacked else 0.5) * shape.width
    if len(panels) == 1:
        return 0.8 * shape.width
    if kinds == ["contour", "surface"]:
        return (1.65 if shape.stacked else 0.41) * shape.width
    return 0.8 * shape.width * len(panels) if shape.stacked else 0.36 * shape.width


def _rooms(panels: list[Panel], shape: Size, below: float) -> tuple[Room, Room]:
    """Where the flat panels are and where the 3-D one is: left, bottom, width, height as shares of the figure."""
    above = 1 - below
    if len({panel.kind for panel in panels}) == 1:
        return (0, below, 1, above), (0, below, 1, above)
    if shape.stacked:
        return (0, below + 0.5 * above, 1, 0.5 * above), (0, below, 1, 0.5 * above)
    return (0, below, 0.55, above), (0.545, below, 0.43, above)


def _draw_into(ax: Any, surface: SurfaceLike, kind: str, metric: str, colors: Scale) -> Figure:
    """Draw one panel into axes of the user's, whose style is the user's too.

    Raises:
        ValueError: If the axes have the wrong projection, or two panels are asked for.
    """
    if kind == "both":
        raise ValueError("kind='both' is two panels, but one ax came; ask for 'contour' or 'surface'")
    panel = _panels(surface, kind, metric, bars=True)[0]
    solid = hasattr(ax, "plot_surface")
    if solid != (panel.kind == "surface"):
        wanted = "an ax with projection='3d'" if panel.kind == "surface" else "a flat ax"
        raise ValueError(f"a {panel.kind} needs {wanted}, but {type(ax).__name__} came")
    lines = panel.draw(ax, colors, own=False)
    if lines is not None:
        label_lines(ax, panel, lines, colors)
    figure: Figure = ax.get_figure(root=True)
    return figure
