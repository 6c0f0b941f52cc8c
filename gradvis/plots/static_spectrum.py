"""Figures of spectra: one, several in panels or over each other, and a film of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gradvis.plots import ridges
from gradvis.plots.caption_spectrum import HEIGHTS, caption, captions, inside
from gradvis.plots.curves import STROKES, letters_above
from gradvis.plots.eigen_axis import Axis, axis
from gradvis.plots.many import columns_of
from gradvis.plots.marks import legend
from gradvis.plots.palette import LINES
from gradvis.plots.spectra import Curve, SpectrumLike, curve, parts
from gradvis.plots.spectrum_axes import across_of, density, entries, heights_of, key, marks, shares_of, steps
from gradvis.plots.static import SIZES, Size, blank
from gradvis.plots.words import shortened


def draw(spectrum: SpectrumLike, kind: str, ax: Any, log: bool | None, size: str, with_caption: bool) -> Figure:
    """The figure of one spectrum; see `gradvis.plots.plot`."""
    across = axis([parts(spectrum)], log)
    seen = curve(spectrum, kind, across)
    if ax is not None:
        _into(ax, spectrum, seen, across, kind)
        given: Figure = ax.get_figure(root=True)
        return given
    shape = SIZES[size]
    with matplotlib.rc_context(shape.style):
        figure, room = blank(
            (0.75 if shape.stacked else 0.5) * shape.width, shape, caption(spectrum, kind) * with_caption
        )
        figure.set_layout_engine("constrained", rect=room)
        _into(figure.add_subplot(), spectrum, seen, across, kind)
        _settle(figure)
    return figure


def _settle(figure: Figure) -> None:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _into(ax: Any, spectrum: SpectrumLike, seen: Curve, across: Axis, kind: str) -> None:
    """Draw one spectrum into axes."""
    across_of(ax, across)
    if kind == "density":
        heights_of(ax, seen.least, seen.most)
        density(ax, seen, seen.least)
    else:
        shares_of(ax)
        steps(ax, seen)
    ax.set(xlabel=across.label, ylabel=HEIGHTS[kind])
    marks(ax, seen)
    legend(ax, entries([seen], inside(spectrum, across)), letters=letters_above(ax))


def draw_many(
    spectra: Sequence[SpectrumLike], titles: Sequence[str], kind: str, log: bool | None, size: str, share: bool,
    with_caption: bool,
) -> Figure:  # fmt: skip
    """The figure of several spectra; see `gradvis.plots.plot_many`."""
    across = axis([parts(each) for each in spectra], log)
    curves = [curve(each, "density" if kind == "ridge" else kind, across) for each in spectra]
    shape, text = SIZES[size], captions(spectra, titles, kind) if with_caption else ""
    with matplotlib.rc_context(shape.style):
        if kind == "ridge":
            figure = ridges.draw(curves, titles, across, shape, text)
        elif kind == "cumulative":
            figure = _together(curves, titles, across, shape, text)
        else:
            figure = _panels(curves, titles, across, shape, text, share)
        _settle(figure)
    return figure


def _together(curves: Sequence[Curve], titles: Sequence[str], across: Axis, shape: Size, text: str) -> Figure:
    """Cumulative spectra over each other."""
    figure, room = blank((0.75 if shape.stacked else 0.5) * shape.width, shape, text)
    figure.set_layout_engine("constrained", rect=room)
    ax = figure.add_subplot()
    across_of(ax, across)
    shares_of(ax, lane=False)
    said = []
    for i, (seen, title) in enumerate(zip(curves, titles, strict=True)):
        color, dashes = LINES[i % len(LINES)], STROKES[i // len(LINES) % len(STROKES)]
        said.append(steps(ax, seen, color, dashes, shortened(title, 28)))
    ax.set(xlabel=across.label, ylabel=HEIGHTS["cumulative"])
    legend(ax, said, letters=letters_above(ax))
    return figure


def _panels(
    curves: Sequence[Curve], titles: Sequence[str], across: Axis, shape: Size, text: str, share: bool
) -> Figure:
    """A density each, all over the same eigenvalues; `share` gives them the same heights."""
    columns = columns_of(len(curves), shape)
    rows = ceil(len(curves) / columns)
    tall = rows * (0.6 if shape.stacked else 0.28 if columns > 1 else 0.4) + 0.06
    figure, room = blank(tall * shape.width, shape, text)
    figure.set_layout_engine("constrained", rect=room)
    low, top = min(each.least for each in curves), max(each.most for each in curves)
    for place, (seen, title) in enumerate(zip(curves, titles, strict=True)):
        ax = figure.add_subplot(rows, columns, place + 1)
        across_of(ax, across)
        floor = low if share else seen.least
        heights_of(ax, floor, top if share else seen.most)
        density(ax, seen, floor)
        marks(ax, seen)
        ax.set_title(shortened(title, 40), loc="left")
        if place % columns == 0:
            ax.set_ylabel("density\n(share per unit)")
        if place + columns >= len(curves):
            ax.set_xlabel(across.label_short if columns > 2 else across.label)
    key(figure, entries(curves))
    return figure
