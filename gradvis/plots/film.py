"""Films: a 3-D surface that turns about once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, PillowWriter
from matplotlib.figure import Figure

from gradvis.plots import static
from gradvis.plots.view import SurfaceLike

_FRAMES, _PER_SECOND, _DPI = 72, 18, 120


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
    """Write all frames, by what the suffix says.

    Raises:
        ValueError: If a film format needs a program that is not here.
    """
    ax: Any = figure.axes[0]
    writer: AbstractMovieWriter = PillowWriter(fps=_PER_SECOND)
    if file.suffix.lower() == ".mp4":
        if not FFMpegWriter.isAvailable():
            raise ValueError("an .mp4 needs the program ffmpeg, which is not here; install it, or save as .gif")
        writer = FFMpegWriter(fps=_PER_SECOND)
    start = ax.azim
    with matplotlib.rc_context(static.SAVING), writer.saving(figure, str(file), _DPI):
        for turn in np.arange(_FRAMES) * 360 / _FRAMES:
            ax.view_init(elev=ax.elev, azim=start + turn)
            writer.grab_frame()
    ax.view_init(elev=ax.elev, azim=start)
