"""`gradvis-trajectory`: where training went, projected, with the surface under it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from gradvis.between import names_of, plane_between
from gradvis.cli.options import (
    Whole,
    components,
    computing,
    ending,
    finding,
    resolutions,
    single,
    spans,
    suffixes,
)
from gradvis.cli.planes import reused
from gradvis.cli.report import Progress, estimate, went
from gradvis.cli.start import Start, start
from gradvis.directions import random_plane
from gradvis.eigenpairs import hessian_plane
from gradvis.grid import around, grid, grid_on
from gradvis.plane import Plane
from gradvis.projected import last_finite
from gradvis.provenance import command_line
from gradvis.runs import Run, in_order, runs_of
from gradvis.schedule import Scheduler
from gradvis.surface import Surface, surface_cost
from gradvis.trajectory import Trajectory, principal_plane, project_trajectory, trajectory_cost

_MARGIN = 0.2
_PLANES = ("pca", "between", "random", "hessian")


@click.command(
    short_help="Where training went, on a plane, with the loss around it.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("checkpoints", metavar="CKPT...", nargs=-1, required=True)
@finding
@click.option("--components", metavar="1,2", multiple=True, help="Of the principal plane, by number [default: 1,2]")
@click.option("--anchored", is_flag=True, help="Variance about the last checkpoint, not about the mean over time.")
@click.option(
    "--plane",
    metavar="KIND",
    default="pca",
    show_default=True,
    help="pca, between (the ends of the runs, and --through), random, hessian (the sharpest directions at the end), or "
    "a RESULT.zarr whose plane is used again.",
)
@click.option("--through", metavar="CKPT", multiple=True, help="One more checkpoint for --plane between; repeatable.")
@click.option("--every", type=Whole(1), metavar="N", default=1, help="Take every N-th checkpoint, and the last one.")
@click.option("--surface", "ground", is_flag=True, help="Compute the loss surface around the path too.")
@click.option(
    "--margin",
    type=float,
    metavar="SHARE",
    help="What the surface shows beyond the path on each side [default: 0.2 of its extent]",
)
@click.option("--span", metavar="A:B", multiple=True, help="Of the surface, in place of the path's box and margin.")
@click.option("--resolution", metavar="N", multiple=True, help="Points an axis [default: 201, 51, 21 for 1, 2, 3 dims]")
@computing
@click.option("--out", "-o", metavar="PATH", help="The result [default: RUN.trajectory.zarr in this folder]")
@ending
@click.pass_obj
def trajectory(
    scheduler: Scheduler, /, checkpoints: tuple[str, ...], named: str | None, arguments: tuple[str, ...],
    key: str | None, trust: bool, anchored: bool, plane: str, through: tuple[str, ...], every: int,
    ground: bool, margin: float | None, span: tuple[str, ...], resolution: tuple[str, ...], out: str | None,
    fresh: bool, pictures: tuple[str, ...], dry_run: bool, quiet: bool, debug: bool, **rest: Any,
) -> None:  # fmt: skip
    """Where training went: checkpoints dropped onto a plane, with their own loss and that of the plane.

    CKPT... are the checkpoints of one training run in their order (ckpt-2.pt before ckpt-10.pt, as a shell's
    ckpt-*.pt is read), or recordings of gradvis.record, or folders of checkpoints: each of these is a run of its own.
    The checkpoints name their objective, or --objective does. --surface adds the loss around the path.
    """
    del debug  # the door reads it
    numbers = components(rest.pop("components")) or [1, 2]
    wanted_pictures = suffixes(pictures)
    axes = {"span": single(spans(span)), "resolution": single(resolutions(resolution))}
    _check(plane, numbers, anchored, through, ground, {**axes, "margin": margin})
    runs = runs_of(in_order(checkpoints), every)
    talks = scheduler.is_root and not quiet
    first = runs[-1].checkpoints[0]  # the last one may have diverged
    begun = start(first, named, arguments, rest, scheduler, key=key, trust=trust, talks=talks)
    if talks:
        click.echo("\n".join(map(_told, runs)), err=True)
    runs = begun.readable(runs)
    begun = replace(begun, objective=begun.objective.at(last_finite(begun.objective, runs[-1])))
    where = _plane(plane, begun, runs, through, scheduler)
    if ground and where is not None:
        grid_on(where, **axes)
    if dry_run or not quiet:
        costs = [("measurements", trajectory_cost(begun.objective, runs, scheduler))]
        if dry_run and ground:
            found = where or principal_plane(runs, begun.objective, components=numbers, scheduler=scheduler)
            costs.append(("points", surface_cost(begun.objective, found, 1.0, axes["resolution"], scheduler)))
        if scheduler.is_root:
            lines = [estimate(cost, scheduler, begun.threads, things) for things, cost in costs]
            click.echo("\n".join(lines), err=not dry_run)
    if dry_run:
        return
    path = Path(f"{_name(runs)}.trajectory.zarr" if out is None else out)
    about = {"name": _name(runs), "command": command_line(sys.argv), "source": Path(begun.source).name}
    options: dict[str, Any] = {"fresh": fresh, "scheduler": scheduler, "provenance": about}
    with Progress(talks, "checkpoints") as progress:
        result = project_trajectory(
            begun.objective, runs, where, components=numbers, anchored=anchored, out=path, progress=progress,
            **options,
        )  # fmt: skip
    below = _ground(result, begun, path, axes, margin, options, talks) if ground else None
    base = path.name.removesuffix(".zarr")
    files = [path.with_name(f"{base}.{suffix}") for suffix in wanted_pictures]
    scheduler.share(lambda: [result.plot(file, ground=below) and None for file in files])
    if scheduler.is_root:
        click.echo(went(result, path, files))


def _check(
    plane: str, numbers: Sequence[int], anchored: bool, through: tuple[str, ...], ground: bool, axes: dict[str, Any]
) -> None:
    """See that the options fit together, before anything is loaded.

    Raises:
        click.UsageError: If they do not.
    """
    if plane not in _PLANES and not plane.rstrip("/").endswith(".zarr"):
        raise click.UsageError(
            f"--plane takes {', '.join(_PLANES)} or a RESULT.zarr, but {plane} came; give one of these"
        )
    if plane != "pca" and (anchored or [*numbers] != [1, 2]):
        raise click.UsageError("--components and --anchored belong to --plane pca; leave them out, or --plane")
    if plane != "between" and through:
        raise click.UsageError("--through names checkpoints for --plane between; give that, or leave --through out")
    if not 1 <= len({*numbers}) == len(numbers) <= 3 or min(numbers) < 1:
        raise click.UsageError(
            f"--components takes one to three different numbers from 1, but {', '.join(map(str, numbers))} came"
        )
    if given := [name for name, value in axes.items() if value is not None and not ground]:
        raise click.UsageError(f"--{given[0]} belongs to the surface; give --surface too, or leave it out")
    if ground:
        if plane == "pca":  # the others' dimensions are known when they are made
            grid(len(numbers), 1.0 if axes["span"] is None else axes["span"], axes["resolution"])
        around([[0.0, 1.0]], _MARGIN if axes["margin"] is None else axes["margin"])


def _plane(
    kind: str, begun: Start, runs: Sequence[Run], through: tuple[str, ...], scheduler: Scheduler
) -> Plane | None:
    """The plane of that kind; None for the principal one of the runs.

    Raises:
        click.UsageError: If a plane between checkpoints has too few of them, or too many.
    """
    if kind == "pca":
        return None
    if kind == "random":
        return random_plane(begun.objective)
    if kind == "hessian":
        return hessian_plane(begun.objective, scheduler=scheduler)
    if kind != "between":
        return reused(kind, begun.objective)[0]
    names = [*(run.name for run in runs), *names_of(through)] if through else [run.name for run in runs]
    if not 2 <= len(names) <= 4:
        raise click.UsageError(
            "--plane between goes through the ends of the runs and each --through, two to four checkpoints, but "
            f"{len(names)} came; add or drop some"
        )
    ends = [*(last_finite(begun.objective, run) for run in runs), *map(begun.read, through)]
    return plane_between(begun.objective, *ends, names=names)


def _ground(
    result: Trajectory, begun: Start, path: Path, axes: dict[str, Any], margin: float | None,
    options: dict[str, Any], talks: bool,
) -> Surface:  # fmt: skip
    """The surface around the path, beside the result."""
    out = path.with_name(f"{path.name.removesuffix('.zarr').removesuffix('.trajectory')}.surface.zarr")
    wide = _MARGIN if margin is None else margin
    if talks:
        cost = surface_cost(begun.objective, result.plane, 1.0, axes["resolution"])
        click.echo(estimate(cost, options["scheduler"], begun.threads), err=True)
    with Progress(talks) as progress:
        return result.surface(begun.objective, **axes, margin=wide, out=out, progress=progress, **options)


def _name(runs: Sequence[Run]) -> str:
    return runs[0].name if len(runs) == 1 else "trajectories"


def _told(run: Run) -> str:
    """What was understood of the arguments: the order of checkpoints is the user's to check."""
    count = len(run.labels)
    ends = f"{run.labels[0]} to {run.labels[-1]}" if count > 1 else run.labels[0]
    return f"{run.name}: {count} checkpoint{'s' * (count != 1)}, {ends}"
