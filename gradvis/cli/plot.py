"""`gradvis-plot`: any result again, as a picture, a page, a film or a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import gradvis
from gradvis.cli.options import listed
from gradvis.plots import KINDS, PICTURES, SIZES, TABLES, export, plot_many, spectra
from gradvis.plots.view import check_name
from gradvis.provenance import digest
from gradvis.recording import Recording
from gradvis.schedule import Scheduler
from gradvis.spectrum import Spectrum
from gradvis.surface import Surface
from gradvis.trajectory import Trajectory

_SUFFIXES = tuple(suffix[1:] for suffix in (*PICTURES, *TABLES))


@click.command(
    short_help="Any RESULT again, in any format.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("results", metavar="RESULT...", nargs=-1, required=True)
@click.option(
    "--kind",
    metavar="KIND",
    help=f"{'|'.join(KINDS)} for planes and paths on them [default: both, or for several results contour]; "
    f"{'|'.join(spectra.KINDS_MANY)} for spectra [default: density]",
)
@click.option("--metric", metavar="NAME", help="What is drawn [default: loss, and accuracy beside a curve]")
@click.option(
    "--log/--linear",
    default=None,
    help="Scale of heights and colours, of a spectrum that of eigenvalues; by default what the values suggest.",
)
@click.option("--share-scale", is_flag=True, help="One scale over several results.")
@click.option("--size", metavar="|".join(SIZES), default="page", show_default=True, help="For a paper or a talk.")
@click.option("--out", "-o", metavar="PATH", help="One file; its suffix is one of those of --plot.")
@click.option(
    "--plot",
    "wanted",
    metavar="SUFFIX,...",
    multiple=True,
    help=f"Files in this folder, by suffix: {', '.join(_SUFFIXES)} [default: png,html]",
)
@click.option("--debug", is_flag=True, help="A traceback with an error.")
@click.version_option(gradvis.__version__, message="%(prog)s %(version)s")
@click.pass_obj
def plot(
    scheduler: Scheduler, /, results: tuple[str, ...], kind: str | None, metric: str | None, log: bool | None,
    share_scale: bool, size: str, out: str | None, wanted: tuple[str, ...], debug: bool,
) -> None:  # fmt: skip
    """Draw any RESULT again, as far as it is computed; several come in one figure.

    Pictures: png, svg, pdf. A page to turn about: html. A film (a surface turns about, a path grows):
    gif, mp4. Numbers for other programs: vtk, csv, nc. The files are named after the result:
    run.surface.zarr gives run.surface.png and run.surface.html in this folder; several give
    surfaces.png and surfaces.html, or spectra.png and spectra.html. A trajectory is drawn on the surface that lies
    beside it. Several spectra have a panel each; with --kind ridge they stand one below the other, and a film
    shows them in their order.
    """
    del debug  # the door reads it
    options: dict[str, Any] = {"kind": kind, "metric": metric, "log": log, "size": size}
    titles = [Path(result).resolve().name.removesuffix(".zarr") for result in results]
    names = [title.removesuffix(".surface").removesuffix(".spectrum") for title in titles]
    files = _files(out, wanted, titles)

    def draw() -> None:
        opened = [_opened(result) for result in results]
        for file in files:
            if len(opened) == 1:
                _one(opened[0], file, options | _ground(opened[0], results[0]))
            else:
                _several(opened, file, options | {"titles": names, "share_scale": share_scale})

    scheduler.share(draw)
    if scheduler.is_root:
        click.echo("\n".join(map(str, files)))


def _files(out: str | None, wanted: tuple[str, ...], titles: list[str]) -> list[Path]:
    """Where the files go.

    Raises:
        ValueError: If a suffix is unknown, or they are to go to two places.
    """
    if out and wanted:
        raise ValueError("the files are named by --out or by --plot, but both were given; leave one of them out")
    if out:
        check_name("the suffix of --out", Path(out).suffix.lower(), [f".{suffix}" for suffix in _SUFFIXES])
        return [Path(out)]
    suffixes = listed(wanted) or ["png", "html"]
    for suffix in suffixes:
        check_name("--plot", suffix, _SUFFIXES)
    several = "spectra" if all(title.endswith(".spectrum") for title in titles) else "surfaces"
    base = titles[0] if len(titles) == 1 else several
    return [Path(f"{base}.{suffix}") for suffix in suffixes]


def _opened(path: str) -> Surface | Trajectory | Spectrum:
    """A result that can be drawn.

    Raises:
        ValueError: If it is a recording.
    """
    result = gradvis.open(path)
    if isinstance(result, Recording):
        raise ValueError(f"{path} is a recording; gradvis-trajectory {path} makes a result of it that can be drawn")
    return result


def _ground(result: Surface | Trajectory | Spectrum, path: str) -> dict[str, Any]:
    """The surface that was computed around a trajectory, where it lies beside it under its name."""
    if not isinstance(result, Trajectory):
        return {}
    beside = Path(f"{path.rstrip('/').removesuffix('.zarr').removesuffix('.trajectory')}.surface.zarr")
    ground = gradvis.open(beside) if beside.is_dir() else None
    same = isinstance(ground, Surface) and _plane(ground) == _plane(result)
    return {"ground": ground} if same else {}


def _plane(result: Surface | Trajectory) -> str:
    return digest(result.plane.origin, result.plane.directions)


def _one(result: Surface | Trajectory | Spectrum, file: Path, options: dict[str, Any]) -> None:
    if file.suffix.lower() in TABLES:
        export(result, file)
    else:
        result.plot(file, **options)


def _several(results: list[Surface | Trajectory | Spectrum], file: Path, options: dict[str, Any]) -> None:
    """Draw them together.

    Raises:
        ValueError: If the file holds one result only, or they are no surfaces and no spectra.
    """
    if file.suffix.lower() in TABLES:
        raise ValueError(f"a {file.suffix} holds one result, but {len(results)} came; write one after the other")
    spectral = [result for result in results if isinstance(result, Spectrum)]
    if len(spectral) == len(results):
        blocks = spectra.blocks(spectral)
        plot_many(spectral, file, **options | ({"titles": blocks} if blocks else {}))
        return
    surfaces = [result for result in results if isinstance(result, Surface)]
    if len(surfaces) < len(results):
        raise ValueError(
            "several results are drawn together if all are surfaces or all are spectra; several training runs go on "
            "one plane with gradvis-trajectory RUN RUN..."
        )
    plot_many(surfaces, file, **options)
