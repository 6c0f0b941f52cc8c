"""Pictures for paper: figures of one panel or more, with matplotlib and without pyplot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.gridspec import GridSpec
from matplotlib.textpath import text_to_path

from gradvis.plots.caption import axis_label, caption, metric_label
from gradvis.plots.panels import Panel, label_lines
from gradvis.plots.paths import scale_over_line
from gradvis.plots.scale import Scale, scale
from gradvis.plots.view import GREEK, SurfaceLike, View, central, companion, view
from gradvis.plots.words import number

Room = tuple[float, float, float, float]
SAVING: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "gradvis", "text.usetex": False}


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
        return SAVING | {
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
    surface: SurfaceLike, kind: str | None, metric: str | None, ax: Any, log: bool | None, size: str, with_caption: bool
) -> Figure:
    """The figure of a surface; see `gradvis.plots.plot`.

    Raises:
        ValueError: If the given axes cannot hold what is asked for.
    """
    name = metric or "loss"
    seen = view(surface, name)
    colors = scale(seen.values, log) if len(seen.dims) > 1 else scale_over_line(seen, name, log)
    if ax is not None:
        return _draw_into(ax, surface, kind or "contour", name, colors)
    shape = SIZES[size]
    panels = _panels(surface, kind or "both", name, bars=shape.stacked)
    if metric is None and panels[0].kind == "line":
        panels = [replace(panels[0], second=_second(surface))]
    with matplotlib.rc_context(shape.style):
        return _figure(panels, colors, shape, told(surface, len(seen.dims)) * with_caption)


def told(surface: SurfaceLike, k: int) -> str:
    """The caption of a surface."""
    return caption(surface.about, float(np.mean(surface.done)), k)


def _second(surface: SurfaceLike) -> tuple[View, str] | None:
    name = companion(surface)
    return (view(surface, name), metric_label(surface.about, name)) if name else None


def save(figure: Figure, file: Path, suffix: str) -> None:
    """Write a figure; the same figure gives the same bytes."""
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
    with matplotlib.rc_context(SAVING):
        figure.savefig(file, format=suffix, dpi=300, metadata=undated)


def panel_of(surface: SurfaceLike, kind: str, metric: str, title: str = "", bar: bool = True) -> Panel:
    """One metric of a surface, with what stands around it.

    Raises:
        ValueError: If a contour or a surface has too few points.
    """
    seen = view(surface, metric)
    labels = tuple(axis_label(surface.about, dim, short=kind == "surface" or bool(title)) for dim in seen.dims)
    if kind != "line" and min(seen.values.shape) < 2:
        raise ValueError(f"a {kind} needs two points along each axis, but the grid is {seen.values.shape}")
    return Panel(kind, seen, labels, metric_label(surface.about, metric), metric, title, bar=bar)


def _panels(surface: SurfaceLike, kind: str, metric: str, bars: bool) -> list[Panel]:
    """What is drawn, panel by panel; for `bars` see `slices`."""
    dims = [str(dim) for dim in surface.dataset[metric].dims]
    if len(dims) == 1:
        return [panel_of(surface, "line", metric)]
    if len(dims) == 2:
        if kind == "both":
            return [panel_of(surface, "contour", metric), panel_of(surface, "surface", metric, bar=False)]
        return [panel_of(surface, kind, metric)]
    return slices(surface, metric, bars)


def slices(surface: SurfaceLike, metric: str, bars: bool) -> list[Panel]:
    """The three central slices of a volume; `bars` gives each a colour bar, else the last alone has one."""
    panels = []
    dims = [str(dim) for dim in surface.dataset[metric].dims]
    for dim in reversed(dims):
        part, place = central(surface, dim)
        panels.append(panel_of(part, "contour", metric, f"{GREEK[dim]} = {number(place)}", bars or dim == dims[0]))
    return panels


def blank(height: float, shape: Size, text: str) -> tuple[Picture, Room]:
    """An empty figure with its caption, and the room that remains above it."""
    lines = wrap(text, shape)
    below = len(lines) * 1.5 * shape.font / 72
    figure = Picture(figsize=(shape.width, height + below))
    FigureCanvasAgg(figure)
    share = below / (height + below)
    figure.text(0.01, 0.3 * share / max(len(lines), 1), "\n".join(lines), fontsize=0.9 * shape.font)
    return figure, (0, share, 1, 1 - share)


def _figure(panels: list[Panel], colors: Scale, shape: Size, text: str) -> Figure:
    figure, room = blank(_height(panels, shape), shape, text)
    flat, solid = _rooms(panels, shape, room)
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


def wrap(text: str, shape: Size) -> list[str]:
    """Cut a caption into lines of the figure's width."""
    font, room = FontProperties(family="DejaVu Sans", size=0.9 * shape.font), 0.97 * shape.width * 72
    whole = text.replace("gradvis ", "gradvis\u00a0").replace(" %", "\u00a0%")  # no break within
    lines: list[str] = []
    for word in filter(None, whole.split(" ")):
        longer = f"{lines[-1]} {word}" if lines else word
        wide = text_to_path.get_text_width_height_descent(longer, font, ismath=False)[0] > room
        lines[-1:] = [*lines[-1:], word] if wide else [longer]
    return lines


def _height(panels: list[Panel], shape: Size) -> float:
    """The height of the panels in inches, as looked at for each size."""
    kinds = [panel.kind for panel in panels]
    named = sum(bool(mark.name) and mark.run is None for mark in panels[0].view.marks)
    return _alone(kinds, shape) + named * 1.4 * shape.font / 72  # each has a line of the legend


def _alone(kinds: list[str], shape: Size) -> float:
    """The height without a long legend."""
    if "line" in kinds:
        return (0.75 if shape.stacked else 0.5) * shape.width
    if len(kinds) == 1:
        return 0.8 * shape.width
    if kinds == ["contour", "surface"]:
        return (1.65 if shape.stacked else 0.41) * shape.width
    return 0.8 * shape.width * len(kinds) if shape.stacked else 0.36 * shape.width


def _rooms(panels: list[Panel], shape: Size, room: Room) -> tuple[Room, Room]:
    """Where the flat panels are and where the 3-D one is: left, bottom, width, height as shares of the figure."""
    if len({panel.kind for panel in panels}) == 1:
        return room, room
    _, below, _, above = room
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
