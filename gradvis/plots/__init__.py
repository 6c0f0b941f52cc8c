"""Pictures: take a result, return a figure, compute nothing. The plotting libraries live only here."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

from gradvis.plots.caption import caption
from gradvis.plots.view import SurfaceLike, check_name

__all__ = ["caption", "plot"]

SUFFIXES = (".png", ".svg", ".pdf", ".html")
KINDS = ("contour", "surface", "both")
SIZES = ("column", "page", "slide")


def plot(
    surface: SurfaceLike,
    path: str | os.PathLike[str] | None = None,
    *,
    kind: str | None = None,
    metric: str = "loss",
    ax: Any = None,
    log: bool | None = None,
    size: str = "page",
) -> Any:
    """Draw a surface, and save the picture if a path is given.

    A plane comes as a contour and a 3-D surface, a line as a curve, a volume as its three central
    slices; an html page as one surface to turn about, with every metric in it.

    Args:
        surface: What `loss_surface` or `open` returned.
        path: Where the picture goes: .png, .svg, .pdf, or .html for a page that works offline. Written atomically.
        kind: `contour`, `surface` or `both`; lines and volumes have one kind only. Default: `both`, and `contour`
            where an `ax` is given.
        metric: What is drawn; for a page, what it shows first.
        ax: A matplotlib axes to draw into, instead of a figure of our own.
        log: Logarithmic or linear; the default is the rule of `gradvis.plots.scale.scale`.
        size: Of a figure of our own: `column` (3.5 in wide), `page` (7.2 in) or `slide` (12 in).

    Returns:
        A matplotlib Figure, or a plotly one for a page.

    Raises:
        ValueError: If the suffix, kind, metric or size is unknown, the axes do not fit, or `log` cannot be.
        ImportError: If the plotting library is not installed.
    """
    target = None if path is None else Path(path)
    suffix = ".png" if target is None else target.suffix.lower()
    check_name("the suffix of a picture", suffix, SUFFIXES)
    check_name("kind", kind or "both", KINDS)
    check_name("size", size, SIZES)
    if suffix == ".html" and target is not None:
        if ax is not None:
            raise ValueError("an html page takes no ax; leave it out, or save as .png, .svg or .pdf")
        page = _library("interactive")
        figure = page.draw(surface, kind, metric, log)
        _write(target, lambda file: page.save(figure, surface, file))
        return figure
    static = _library("static")
    figure = static.draw(surface, kind, metric, ax, log, size, with_caption=suffix == ".png")
    if target is not None:
        _write(target, lambda file: static.save(figure, file, suffix[1:]))
    return figure


def _library(module: str) -> ModuleType:
    """Our module for a plotting library, imported when it is needed.

    Raises:
        ImportError: If the library is not installed.
    """
    try:
        return import_module(f"gradvis.plots.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(f'this picture needs {error.name}, which is not here; pip install "gradvis[plot]"') from error


def _write(target: Path, save: Callable[[Path], None]) -> None:
    """Save beside the target under another name, then rename: a reader never sees half a picture.

    Raises:
        ValueError: If the folder does not exist.
    """
    if not target.parent.is_dir():
        raise ValueError(f"the picture {target} needs the folder {target.parent}, which does not exist; make it first")
    part = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        save(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
