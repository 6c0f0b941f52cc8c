"""Films: a 3-D surface that turns about once, or a path that grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, PillowWriter
from matplotlib.figure import Figure

from gradvis.plots import static
from gradvis.plots.paths import moments
from gradvis.plots.static_path import Drawing
from gradvis.plots.view import SurfaceLike
from gradvis.tracks import Track

_FRAMES, _PER_SECOND, _DPI = 72, 18, 120
_STOPS, _SECONDS = 60, 6  # of a path that grows


def draw(surface: SurfaceLike, kind: str | None, metric: str | None, log: bool | None, size: str) -> Figure:
    """The first frame.

    Raises:
        ValueError: If there is nothing to turn.
    """
    if surface.dataset["loss"].ndim != 2:
        raise ValueError("a film turns the 3-D surface of a plane, but this is no plane; save as .png or .html")
    if kind == "contour":
        raise ValueError("a film turns a 3-D surface, but kind='contour' came; leave it out, or save as .png")
    return static.draw(surface, "surface", metric, None, log, size, with_caption=True)


def save(figure: Figure, file: Path) -> None:
    """Write a film of a surface that turns about, by what the suffix says.

    Raises:
        ValueError: If a film format needs a program that is not here.
    """
    ax: Any = figure.axes[0]
    writer, start = _writer(file, _PER_SECOND), ax.azim
    with _settled(figure), writer.saving(figure, str(file), _DPI):
        for turn in np.arange(_FRAMES) * 360 / _FRAMES:
            ax.view_init(elev=ax.elev, azim=start + turn)
            writer.grab_frame()
    ax.view_init(elev=ax.elev, azim=start)


def save_growing(drawing: Drawing, tracks: Sequence[Track], file: Path) -> None:
    """Write a film of a path that grows from its first checkpoint to its last one, where it stands a while.

    Raises:
        ValueError: If a film format needs a program that is not here.
    """
    stops = moments(tracks, _STOPS).tolist()
    per_second = min(max(round(len(stops) / _SECONDS), 2), 12)
    stops = [*stops, *stops[-1:] * per_second]

    def show(step: float) -> None:
        for grow in drawing.grow:
            grow(step)

    save_stops(drawing.figure, show, stops, per_second, file)


def save_stops(figure: Figure, show: Callable[[Any], None], stops: Sequence[Any], per_second: int, file: Path) -> None:
    """Write a film with a frame for each stop.

    Raises:
        ValueError: If a film format needs a program that is not here.
    """
    writer = _writer(file, per_second)
    with _settled(figure), writer.saving(figure, str(file), _DPI):
        for stop in stops:
            show(stop)
            writer.grab_frame()


@contextmanager
def _settled(figure: Figure) -> Iterator[None]:
    """A figure without a layout engine: matplotlib would draw every frame twice to ask it."""
    with matplotlib.rc_context(static.SAVING | {"figure.autolayout": False, "figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)
        yield


def _writer(file: Path, per_second: int) -> AbstractMovieWriter:
    """What writes films of this suffix.

    Raises:
        ValueError: If it needs a program that is not here.
    """
    if file.suffix.lower() != ".mp4":
        return PillowWriter(fps=per_second)
    if not FFMpegWriter.isAvailable():
        raise ValueError("an .mp4 needs the program ffmpeg, which is not here; install it, or save as .gif")
    return FFMpegWriter(fps=per_second)
