"""Pictures: take a result, return a figure, compute nothing. The plotting libraries live only here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from gradvis.plots import spectra
from gradvis.plots.caption import caption
from gradvis.plots.spectra import Quadrature, SpectrumLike
from gradvis.plots.view import SurfaceLike, TrajectoryLike, check_name, under
from gradvis.plots.writing import library, page, picture, write

__all__ = ["caption", "export", "plot", "plot_many"]

PICTURES = (".png", ".svg", ".pdf", ".html", ".gif", ".mp4")
TABLES = (".vtk", ".csv", ".nc")
KINDS = ("contour", "surface", "both")
SIZES = ("column", "page", "slide")
_FILMS = (".gif", ".mp4")


def plot(
    result: SurfaceLike | TrajectoryLike | SpectrumLike,
    path: str | os.PathLike[str] | None = None,
    *,
    kind: str | None = None,
    metric: str | None = None,
    ax: Any = None,
    log: bool | None = None,
    size: str = "page",
    ground: SurfaceLike | None = None,
) -> Any:
    """Draw a surface, a trajectory or a spectrum, and save the picture if a path is given.

    A plane comes as a contour and a 3-D surface, a line as a curve, a volume as its three central
    slices; an html page as one surface to turn about, with every metric in it, a curve, or shells of
    equal value; a film as a 3-D surface that turns about.

    A trajectory comes as its path on the plane, beside it over the steps of training the loss of the checkpoints
    themselves (true loss), that of their places on the plane, and how far off the plane they lie. A mark shows
    where the learning rate fell to a half or less between two checkpoints. A page has a slider over the steps;
    in a film the path grows. On a surface with `tracks` their paths are drawn too.

    A spectrum comes as its smoothed density on a logarithmic axis with the standard error over the probes, and its
    extreme eigenvalues as marks: open ones have not converged.

    Args:
        result: What `loss_surface`, `project_trajectory`, `hessian_spectrum` or `open` returned.
        path: Where the picture goes: .png, .svg, .pdf, .gif, .mp4, or .html for a page that works offline.
            Written atomically.
        kind: `contour`, `surface` or `both`; lines and volumes have one kind only. Default: `both`, and `contour`
            where an `ax` is given. Of a trajectory `contour` is the path alone, and the other two show it on its
            ground in 3-D. Of a spectrum `density` or `cumulative`.
        metric: What is drawn; for a page, what it shows first. Default: the loss, and beside the curve of a line
            a metric between 0 and 1 (accuracy, if there is one) on a second axis.
        ax: A matplotlib axes to draw into, instead of a figure of our own.
        log: Logarithmic or linear; the default is the rule of `gradvis.plots.scale.scale`. Of a spectrum the axis of
            eigenvalues, symmetric-logarithmic or linear, by the rule of `gradvis.plots.eigen_axis.axis`.
        size: Of a figure of our own: `column` (3.5 in wide), `page` (7.2 in) or `slide` (12 in).
        ground: For a trajectory, a surface on the same plane to draw its path on.

    Returns:
        A matplotlib Figure, or a plotly one for a page.

    Raises:
        ValueError: If the suffix, kind, metric or size is unknown, the axes do not fit, or `log` cannot be.
        ImportError: If the plotting library is not installed.
    """
    target, suffix = _checked(path, size)
    if isinstance(result, Quadrature):
        return _spectrum(result, target, suffix, kind, metric, ax, log, size, ground)
    check_name("kind", "both" if kind is None else kind, KINDS)
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
    if suffix == ".html":
        return page(library("interactive").draw(surface, kind, metric, log), target)
    if target and suffix in _FILMS:
        film = library("film")
        figure = film.draw(surface, kind, metric, log, size)
        write(target, lambda file: film.save(figure, file))
        return figure
    figure = library("static").draw(surface, kind, metric, ax, log, size, with_caption=suffix == ".png")
    return picture(figure, target, suffix)


def _trajectory(
    result: TrajectoryLike, target: Path | None, suffix: str, kind: str | None, metric: str | None, ax: Any,
    log: bool | None, size: str, ground: SurfaceLike | None,
) -> Any:  # fmt: skip
    if suffix == ".html":
        return page(library("interactive_track").draw(result, ground, kind, metric, log), target)
    drawing = library("static_path").draw(
        result, ground, kind, metric, ax, log, size, with_caption=suffix in (".png", *_FILMS)
    )
    if target and suffix in _FILMS:
        film = library("film")
        write(target, lambda file: film.save_growing(drawing, result.tracks, file))
        return drawing.figure
    return picture(drawing.figure, target, suffix)


def _spectrum(
    result: Any, target: Path | None, suffix: str, kind: str | None, metric: str | None, ax: Any, log: bool | None,
    size: str, ground: SurfaceLike | None,
) -> Any:  # fmt: skip
    """Draw one spectrum.

    Raises:
        ValueError: If what is asked for is not for a spectrum.
    """
    kind = spectra.check([result], kind, metric)
    if ground is not None:
        raise ValueError("a ground is for a trajectory, but a spectrum came; leave it out")
    if suffix in _FILMS:
        raise ValueError(f"a {suffix} shows several spectra one after the other, but one came; save as .png or .html")
    if suffix == ".html":
        if ax is not None:
            raise ValueError("an ax is for .png, .svg or .pdf, but .html came; leave one of them out")
        return page(library("interactive_spectrum").draw(result, kind, log), target)
    figure = library("static_spectrum").draw(result, kind, ax, log, size, with_caption=suffix == ".png")
    return picture(figure, target, suffix)


def _spectra(
    results: Sequence[Any], target: Path | None, suffix: str, titles: Sequence[str] | None, share: bool,
    kind: str | None, metric: str | None, log: bool | None, size: str,
) -> Any:  # fmt: skip
    """Draw several spectra."""
    kind = spectra.check(results, kind, metric)
    names = spectra.titles(results, titles)
    if target and suffix in _FILMS:
        film = library("film_spectra")
        drawn = film.draw(results, names, kind, log, size)
        write(target, lambda file: film.save(drawn, file))
        return drawn.figure
    if suffix == ".html":
        return page(library("interactive_spectra").draw(results, names, kind, log, share), target)
    figure = library("static_spectrum").draw_many(results, names, kind, log, size, share, suffix == ".png")
    return picture(figure, target, suffix)


def plot_many(
    results: Sequence[SurfaceLike] | Sequence[SpectrumLike],
    path: str | os.PathLike[str] | None = None,
    *,
    titles: Sequence[str] | None = None,
    share_scale: bool = False,
    kind: str | None = None,
    metric: str | None = None,
    log: bool | None = None,
    size: str = "page",
) -> Any:
    """Draw several surfaces or several spectra in one figure, and save it if a path is given.

    Lines share one axes; planes have a panel each, volumes a row of three central slices. Spectra share the axis of
    eigenvalues.

    Args:
        results: What `loss_surface`, `hessian_spectrum` or `open` returned; all lines, all planes, all volumes or all
            spectra.
        path: Where the picture goes: .png, .svg, .pdf or .html, and for spectra .gif or .mp4, which show one after the
            other. Written atomically.
        titles: What they are called; by default as their models, or spectra as their blocks if these differ.
        share_scale: One range of heights and colours for all, else one for each.
        kind: For planes `contour` or `surface`. Default: `contour`, and `surface` on a page. For spectra `density`
            (the default) has a panel each, `cumulative` has one axes, and `ridge` has densities one below the other,
            in their order.
        metric: What is drawn. Default: the loss.
        log: Logarithmic or linear; the default is the rule of `gradvis.plots.scale.scale`, and of
            `gradvis.plots.eigen_axis.axis` for the eigenvalues of spectra.
        size: `column` (3.5 in wide), `page` (7.2 in) or `slide` (12 in).

    Returns:
        A matplotlib Figure, or a plotly one for a page.

    Raises:
        ValueError: If the results or titles do not fit together, an option is unknown, or `log` cannot be.
        ImportError: If the plotting library is not installed.
    """
    target, suffix = _checked(path, size)
    if any(isinstance(each, Quadrature) for each in results):
        return _spectra(results, target, suffix, titles, share_scale, kind, metric, log, size)
    return _surfaces(results, target, suffix, titles, share_scale, kind, metric or "loss", log, size)


def _surfaces(
    surfaces: Sequence[Any], target: Path | None, suffix: str, titles: Sequence[str] | None, share: bool,
    kind: str | None, metric: str, log: bool | None, size: str,
) -> Any:  # fmt: skip
    """Draw several surfaces.

    Raises:
        ValueError: If a film or two kinds are asked for.
    """
    check_name("kind", "both" if kind is None else kind, KINDS)
    if suffix in _FILMS:
        raise ValueError(f"a {suffix} shows one result, but {len(surfaces)} came; save as .png, .svg, .pdf or .html")
    if kind == "both":
        raise ValueError("several results take kind 'contour' or 'surface', but 'both' came; choose one of them")
    names = _titles(surfaces, titles)
    if suffix == ".html":
        return page(library("interactive_many").draw(surfaces, names, kind, metric, log, share), target)
    figure = library("many").draw(surfaces, names, kind or "contour", metric, log, size, share, suffix == ".png")
    return picture(figure, target, suffix)


def export(result: SurfaceLike | TrajectoryLike | SpectrumLike, path: str | os.PathLike[str]) -> None:
    """Write the numbers of a result for other programs: .vtk, .csv or .nc (netCDF 3). Written atomically.

    A surface comes with a line a point. A trajectory comes with a line a checkpoint: its run, step, label, place on
    the plane, distance from it, own metrics and those of its place; as .vtk, a polyline a run. A spectrum comes with
    a line a node of each probe, and one an eigenpair; it has no .vtk.

    Raises:
        ValueError: If the suffix is another one, or the folder does not exist.
    """
    target = Path(path)
    check_name("the suffix of an export", target.suffix.lower(), TABLES)
    spectral = isinstance(result, Quadrature)
    if spectral and target.suffix.lower() == ".vtk":
        raise ValueError("a .vtk holds what lies in space, but a spectrum came; write a .csv or an .nc")
    kind = "tables_spectrum" if spectral else "tables" if isinstance(result, SurfaceLike) else "tables_path"
    tables = import_module(f"gradvis.plots.{kind}")
    save = getattr(tables, f"as_{target.suffix.lower()[1:]}")
    write(target, lambda file: save(result, file))


def _checked(path: str | os.PathLike[str] | None, size: str) -> tuple[Path | None, str]:
    """The path and its suffix, when all are known."""
    target = None if path is None else Path(path)
    suffix = ".png" if target is None else target.suffix.lower()
    check_name("the suffix of a picture", suffix, PICTURES)
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
