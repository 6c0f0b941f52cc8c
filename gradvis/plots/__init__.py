"""Pictures: take a result, return a figure, compute nothing. The plotting libraries live only here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

from gradvis.plots.caption import caption
from gradvis.plots.view import SurfaceLike, TrajectoryLike, check_name, under

__all__ = ["caption", "export", "plot", "plot_many"]

PICTURES = (".png", ".svg", ".pdf", ".html", ".gif", ".mp4")
TABLES = (".vtk", ".csv", ".nc")
KINDS = ("contour", "surface", "both")
SIZES = ("column", "page", "slide")
_FILMS = (".gif", ".mp4")


def plot(
    result: SurfaceLike | TrajectoryLike,
    path: str | os.PathLike[str] | None = None,
    *,
    kind: str | None = None,
    metric: str | None = None,
    ax: Any = None,
    log: bool | None = None,
    size: str = "page",
    ground: SurfaceLike | None = None,
) -> Any:
    """Draw a surface or a trajectory, and save the picture if a path is given.

    A plane comes as a contour and a 3-D surface, a line as a curve, a volume as its three central
    slices; an html page as one surface to turn about, with every metric in it, a curve, or shells of
    equal value; a film as a 3-D surface that turns about.

    A trajectory comes as its path on the plane, beside it over the steps of training the loss of the checkpoints
    themselves (true loss), that of their places on the plane, and how far off the plane they lie. A mark shows
    where the learning rate fell to a half or less between two checkpoints. A page has a slider over the steps;
    in a film the path grows. On a surface with `tracks` their paths are drawn too.

    Args:
        result: What `loss_surface`, `project_trajectory` or `open` returned.
        path: Where the picture goes: .png, .svg, .pdf, .gif, .mp4, or .html for a page that works offline.
            Written atomically.
        kind: `contour`, `surface` or `both`; lines and volumes have one kind only. Default: `both`, and `contour`
            where an `ax` is given. Of a trajectory `contour` is the path alone, and the other two show it on its
            ground in 3-D.
        metric: What is drawn; for a page, what it shows first. Default: the loss, and beside the curve of a line
            a metric between 0 and 1 (accuracy, if there is one) on a second axis.
        ax: A matplotlib axes to draw into, instead of a figure of our own.
        log: Logarithmic or linear; the default is the rule of `gradvis.plots.scale.scale`.
        size: Of a figure of our own: `column` (3.5 in wide), `page` (7.2 in) or `slide` (12 in).
        ground: For a trajectory, a surface on the same plane to draw its path on.

    Returns:
        A matplotlib Figure, or a plotly one for a page.

    Raises:
        ValueError: If the suffix, kind, metric or size is unknown, the axes do not fit, or `log` cannot be.
        ImportError: If the plotting library is not installed.
    """
    target, suffix = _checked(path, kind, size)
    if ax is not None and suffix in (".html", *_FILMS):
        raise ValueError(f"an ax is for .png, .svg or .pdf, but {suffix} came; leave one of them out")
    if not isinstance(result, SurfaceLike) and kind in ("surface", "both"):
        if ground is None:
            raise ValueError(f"kind={kind!r} shows a path on its ground, but no ground came; give one")
        result, ground = under(result, ground), None
    if isinstance(result, SurfaceLike):
        if ground is not None:
            raise ValueError("a ground is for a trajectory, but a surface came; draw one of them")
        return _surface(result, target, suffix, kind, metric, ax, log, size)
    return _trajectory(result, target, suffix, kind, metric, ax, log, size, ground)


def _surface(
    surface: SurfaceLike, target: Path | None, suffix: str, kind: str | None, metric: str | None, ax: Any,
    log: bool | None, size: str,
) -> Any:  # fmt: skip
    if target and suffix == ".html":
        page = _library("interactive")
        figure = page.draw(surface, kind, metric, log)
        _write(target, lambda file: page.save(figure, file))
        return figure
    if target and suffix in _FILMS:
        film = _library("film")
        figure = film.draw(surface, kind, metric, log, size)
        _write(target, lambda file: film.save(figure, file))
        return figure
    static = _library("static")
    figure = static.draw(surface, kind, metric, ax, log, size, with_caption=suffix == ".png")
    if target:
        _write(target, lambda file: static.save(figure, file, suffix[1:]))
    return figure


def _trajectory(
    result: TrajectoryLike, target: Path | None, suffix: str, kind: str | None, metric: str | None, ax: Any,
    log: bool | None, size: str, ground: SurfaceLike | None,
) -> Any:  # fmt: skip
    if target and suffix == ".html":
        page, paths = _library("interactive"), _library("interactive_track")
        figure = paths.draw(result, ground, kind, metric, log)
        _write(target, lambda file: page.save(figure, file))
        return figure
    drawing = _library("static_path").draw(
        result, ground, kind, metric, ax, log, size, with_caption=suffix in (".png", *_FILMS)
    )
    if target and suffix in _FILMS:
        film = _library("film")
        _write(target, lambda file: film.save_growing(drawing, result.tracks, file))
    elif target:
        _write(target, lambda file: _library("static").save(drawing.figure, file, suffix[1:]))
    return drawing.figure


def plot_many(
    surfaces: Sequence[SurfaceLike],
    path: str | os.PathLike[str] | None = None,
    *,
    titles: Sequence[str] | None = None,
    share_scale: bool = False,
    kind: str | None = None,
    metric: str | None = None,
    log: bool | None = None,
    size: str = "page",
) -> Any:
    """Draw several surfaces in one figure, and save it if a path is given.

    Lines share one axes; planes have a panel each, volumes a row of three central slices.

    Args:
        surfaces: What `loss_surface` or `open` returned; all lines, all planes or all volumes.
        path: Where the picture goes: .png, .svg, .pdf or .html. Written atomically.
        titles: What they are called; by default as their models.
        share_scale: One range of heights and colours for all, else one for each.
        kind: `contour` or `surface`, for planes. Default: `contour`, and `surface` on a page.
        metric: What is drawn. Default: the loss.
        log: Logarithmic or linear; the default is the rule of `gradvis.plots.scale.scale`.
        size: `column` (3.5 in wide), `page` (7.2 in) or `slide` (12 in).

    Returns:
        A matplotlib Figure, or a plotly one for a page.

    Raises:
        ValueError: If the surfaces or titles do not fit together, an option is unknown, or `log` cannot be.
        ImportError: If the plotting library is not installed.
    """
    target, suffix = _checked(path, kind, size)
    if suffix in _FILMS:
        raise ValueError(f"a {suffix} shows one result, but {len(surfaces)} came; save as .png, .svg, .pdf or .html")
    if kind == "both":
        raise ValueError("several results take kind 'contour' or 'surface', but 'both' came; choose one of them")
    names = _titles(surfaces, titles)
    if target and suffix == ".html":
        figure = _library("interactive_many").draw(surfaces, names, kind, metric or "loss", log, share_scale)
        _write(target, lambda file: _library("interactive").save(figure, file))
        return figure
    many, wide = _library("many"), suffix == ".png"
    figure = many.draw(surfaces, names, kind or "contour", metric or "loss", log, size, share_scale, with_caption=wide)
    if target:
        _write(target, lambda file: _library("static").save(figure, file, suffix[1:]))
    return figure


def export(result: SurfaceLike | TrajectoryLike, path: str | os.PathLike[str]) -> None:
    """Write the numbers of a result for other programs: .vtk, .csv or .nc (netCDF 3). Written atomically.

    A surface comes with a line a point. A trajectory comes with a line a checkpoint: its run, step, label, place on
    the plane, distance from it, own metrics and those of its place; as .vtk, a polyline a run.

    Raises:
        ValueError: If the suffix is another one, or the folder does not exist.
    """
    target = Path(path)
    check_name("the suffix of an export", target.suffix.lower(), TABLES)
    tables = import_module(f"gradvis.plots.{'tables' if isinstance(result, SurfaceLike) else 'tables_path'}")
    save = getattr(tables, f"as_{target.suffix.lower()[1:]}")
    _write(target, lambda file: save(result, file))


def _checked(path: str | os.PathLike[str] | None, kind: str | None, size: str) -> tuple[Path | None, str]:
    """The path and its suffix, when all are known."""
    target = None if path is None else Path(path)
    suffix = ".png" if target is None else target.suffix.lower()
    check_name("the suffix of a picture", suffix, PICTURES)
    check_name("kind", "both" if kind is None else kind, KINDS)
    check_name("size", size, SIZES)
    return target, suffix


def _titles(surfaces: Sequence[SurfaceLike], titles: Sequence[str] | None) -> list[str]:
    """A title for each surface.

    Raises:
        ValueError: If there are no surfaces, they differ in dimensions, or the titles are more or fewer.
    """
    dims = {surface.dataset["loss"].ndim for surface in surfaces}
    if len(dims) != 1:
        came = f"results of {' and '.join(map(str, sorted(dims)))} dimensions" if dims else "none"
        raise ValueError(f"a figure takes results that are all lines, all planes or all volumes, but {came} came")
    names = [str(surface.about.get("name") or f"result {i}") for i, surface in enumerate(surfaces, 1)]
    if titles is not None and len(titles) != len(names):
        raise ValueError(f"titles takes one for each of the {len(names)} results, but {len(titles)} came")
    return names if titles is None else list(titles)


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
        OSError: If the system refuses.
    """
    if not target.parent.is_dir():
        raise ValueError(f"the picture {target} needs the folder {target.parent}, which does not exist; make it first")
    part = target.with_name(f".{uuid4().hex}.{target.name}")  # its suffix tells libraries the format
    try:
        save(part)
        os.replace(part, target)
    except OSError as error:
        raise OSError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
