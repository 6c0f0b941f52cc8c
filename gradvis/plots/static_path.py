"""Figures of a trajectory: its path on the plane, and beside it how training went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from gradvis.plots import fields, progress
from gradvis.plots.caption import metric_label
from gradvis.plots.caption_path import caption
from gradvis.plots.fields import Field
from gradvis.plots.marks import handles, rows_of
from gradvis.plots.panels import label_lines
from gradvis.plots.places import outside
from gradvis.plots.static import SIZES, Size, blank
from gradvis.plots.trails import Grow
from gradvis.plots.view import SurfaceLike, TrajectoryLike, check_name


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure, and what shows it as far as training was at a step."""

    figure: Figure
    grow: list[Grow]


def draw(
    result: TrajectoryLike, ground: SurfaceLike | None, kind: str | None, metric: str | None, ax: Any,
    log: bool | None, size: str, with_caption: bool,
) -> Drawing:  # fmt: skip
    """The figure of a trajectory; see `gradvis.plots.plot`.

    Raises:
        ValueError: If the metric is unknown, the ground is no surface of as many dimensions, or `log` cannot be.
    """
    name = metric or "loss"
    check_name("metric", name, list(result.metrics))
    shown = fields.of(result, ground, name, log)
    if ax is not None:
        return _into(ax, shown)
    shape = SIZES[size]
    text = caption(result, outside(result.tracks, ground)) if with_caption else ""
    with matplotlib.rc_context(shape.style):
        return _figure(result, shown, kind, name, log, shape, text)


def _into(ax: Any, shown: list[Field]) -> Drawing:
    """Draw the path alone into axes of the user's.

    Raises:
        ValueError: If it needs several axes, or a flat one.
    """
    if len(shown) > 1:
        raise ValueError(f"a path of 3 dimensions is {len(shown)} panels, but one ax came; leave it out")
    if hasattr(ax, "plot_surface"):
        raise ValueError(f"a path needs a flat ax, but {type(ax).__name__} came")
    lines, grow = shown[0].draw(ax, own=False, key=True)
    figure: Figure = ax.get_figure(root=True)
    _label(ax, shown[0], lines)
    return Drawing(figure, grow)


def _figure(
    result: TrajectoryLike, shown: list[Field], kind: str | None, metric: str, log: bool | None, shape: Size, text: str
) -> Drawing:
    alone = kind == "contour"
    figure, rect = blank(_height(shown, alone, shape), shape, text)
    figure.set_layout_engine("constrained", rect=rect)
    grid, beside = _grid(figure, len(shown), alone, shape)
    axes = [figure.add_subplot(cell) for cell in grid]
    drawn = [each.draw(ax, own=True, key=alone) for ax, each in zip(axes, shown, strict=True)]
    grow = [one for _, found in drawn for one in found]
    if beside is not None:
        grow += _progress(figure, beside, result, metric, log)
    figure.draw_without_rendering()  # settles the layout, which labels on lines must know
    figure.set_layout_engine("none")
    for ax, each, (lines, _) in zip(axes, shown, drawn, strict=True):
        _label(ax, each, lines)
    return Drawing(figure, grow)


def _label(ax: Any, field: Field, lines: Any) -> None:
    if lines is not None and field.panel is not None and field.colors is not None:
        label_lines(ax, field.panel, lines, field.colors)


def _grid(figure: Figure, count: int, alone: bool, shape: Size) -> tuple[list[Any], Any]:
    """The cells of the paths, and that of the curves over steps."""
    if alone or count == 0:
        grid = GridSpec(*((count, 1) if shape.stacked else (1, count)), figure=figure)
        return [grid[i] for i in range(count)], None
    if shape.stacked:
        grid = GridSpec(count + 1, 1, figure=figure)
        return [grid[i] for i in range(count)], grid[count]
    if count == 1:
        grid = GridSpec(1, 2, figure=figure, width_ratios=[1.2, 1])
        return [grid[0]], grid[1]
    grid = GridSpec(2, count, figure=figure)
    return [grid[0, i] for i in range(count)], grid[1, :]


def _progress(figure: Figure, cell: Any, result: TrajectoryLike, metric: str, log: bool | None) -> list[Grow]:
    """True loss and plane loss, below them the distance from the plane, and the colours of steps for a single run."""
    tracks = result.tracks
    single = len(tracks) == 1
    grid = cell.subgridspec(2 + single, 1, height_ratios=[2.6, 1.1, 0.09][: 2 + single], hspace=0.04)
    above = figure.add_subplot(grid[0])
    rows = [above, *(figure.add_subplot(grid[i], sharex=above) for i in range(1, 2 + single))]
    label = metric_label(result.about, metric).partition(" (")[0]
    grow = progress.losses(rows[0], tracks, metric, label, log, bool(result.about.get("complete", True)))
    grow += progress.distances(rows[1], tracks)
    if single:
        progress.strip(rows[2], tracks)
    for ax in rows[:-1]:
        ax.tick_params(labelbottom=False)
    rows[-1].set_xlabel("step, the colour of the path" if single else "step")
    figure.align_ylabels(rows[:2])
    return grow


def _height(shown: list[Field], alone: bool, shape: Size) -> float:
    """Inches, as looked at for each size."""
    entries = [handles(field.view) for field in shown]
    legend = max(max(len(rows_of(each) or each) for each in entries) - 4, 0) * 0.7 * shape.font / 72
    if shape.stacked:
        return (0.85 * len(shown) + 0.8 * (not alone)) * shape.width + legend
    if len(shown) > 1:
        return (0.4 + 0.36 * (not alone)) * shape.width + legend
    return (0.8 if alone else 0.46) * shape.width + legend
