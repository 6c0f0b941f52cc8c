"""Films of spectra: one after the other on the same axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from gradvis.plots.caption_spectrum import HEIGHTS, captions
from gradvis.plots.curves import letters_above
from gradvis.plots.eigen_axis import axis
from gradvis.plots.film import save_stops
from gradvis.plots.marks import legend
from gradvis.plots.spectra import SpectrumLike, curve, parts
from gradvis.plots.spectrum_axes import across_of, density, entries, heights_of, marks, shares_of, steps
from gradvis.plots.static import SIZES, blank
from gradvis.plots.words import shortened

_SECONDS = 6  # of all spectra together, where that is between 2 and 12 a second


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure, and what shows one of so many spectra in it."""

    figure: Figure
    show: Callable[[int], None]
    count: int


def draw(spectra: Sequence[SpectrumLike], titles: Sequence[str], kind: str, log: bool | None, size: str) -> Drawing:
    """The figure with the first spectrum.

    Raises:
        ValueError: If it would show all of them at once.
    """
    if kind == "ridge":
        raise ValueError("a film shows one spectrum after the other, but kind 'ridge' came; take kind 'density'")
    shape = SIZES[size]
    with matplotlib.rc_context(shape.style):
        figure, room = blank((0.75 if shape.stacked else 0.5) * shape.width, shape, captions(spectra, titles, kind))
        figure.set_layout_engine("constrained", rect=room)
        show = _shower(figure, spectra, titles, kind, log)
        show(0)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")

    def styled(number: int) -> None:
        with matplotlib.rc_context(shape.style):
            show(number)

    return Drawing(figure, styled, len(spectra))


def save(drawing: Drawing, file: Path) -> None:
    """Write the film.

    Raises:
        ValueError: If a film format needs a program that is not here.
    """
    per_second = min(max(round(drawing.count / _SECONDS), 2), 12)
    stops = [*range(drawing.count), *[drawing.count - 1] * per_second]
    save_stops(drawing.figure, drawing.show, stops, per_second, file)


def _shower(
    figure: Figure, spectra: Sequence[SpectrumLike], titles: Sequence[str], kind: str, log: bool | None
) -> Callable[[int], None]:
    """What shows one spectrum on axes that suit all."""
    across = axis([parts(each) for each in spectra], log)
    curves = [curve(each, kind, across) for each in spectra]
    low, top = min(each.least for each in curves), max(each.most for each in curves)
    ax = figure.add_subplot()

    def show(number: int) -> None:
        seen = curves[number]
        ax.clear()
        across_of(ax, across)
        ax.set(xlabel=across.label, ylabel=HEIGHTS[kind])
        if kind == "density":
            heights_of(ax, low, top)
            density(ax, seen, low)
        else:
            shares_of(ax)
            steps(ax, seen)
        marks(ax, seen)
        ax.set_title(shortened(titles[number], 40), loc="right")
        legend(ax, entries(curves), letters=letters_above(ax))

    return show
