"""`gradvis-surface`: the loss on a line, plane or volume through a model."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from gradvis.cli.models import result_of
from gradvis.cli.options import (
    Whole,
    chosen,
    computing,
    ending,
    finding,
    resolutions,
    single,
    spans,
    suffixes,
)
from gradvis.cli.planes import CURVED, Wanted, check, plane_of
from gradvis.cli.report import Progress, estimate, found
from gradvis.cli.start import last_of, start
from gradvis.grid import grid
from gradvis.provenance import command_line
from gradvis.schedule import Scheduler
from gradvis.surface import loss_surface, surface_cost


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("model", metavar="MODEL")
@finding
@click.option(
    "--plane",
    metavar="KIND",
    default="random",
    show_default=True,
    help="random, between (MODEL and --through), pca (of --through and MODEL), hessian (sharpest directions), or a "
    "RESULT.zarr whose plane is used again.",
)
@click.option("--through", metavar="CKPT", multiple=True, help="A checkpoint for --plane between or pca; repeatable.")
@click.option("--normalize", type=click.Choice(["filter", "layer", "none"]), help="Of random planes [default: filter]")
@click.option("--include-bias", is_flag=True, help="Move biases and norm parameters too.")
@click.option("--orthogonal", is_flag=True, help="Make the directions orthogonal, filter by filter.")
@click.option(
    "--directions",
    "curved",
    type=click.Choice(CURVED),
    help="Of --plane hessian: the largest eigenvalues, largest and smallest, or gradient and largest [default: top]",
)
@click.option("--dims", type=Whole(1, 3), metavar="1|2|3", help="A line, a plane or a volume [default: a plane]")
@click.option(
    "--span", metavar="A:B", multiple=True, help="One for each axis [default: -1:1; between checkpoints -0.5:1.5]"
)
@click.option("--resolution", metavar="N", multiple=True, help="Points an axis [default: 201, 51, 21 for 1, 2, 3 dims]")
@click.option("--seed", type=Whole(0), metavar="N", help="Of the random directions [default: 0]")
@computing
@click.option("--tune", is_flag=True, help="Time some ways of computing first, and take the fastest.")
@click.option("--out", "-o", metavar="PATH", help="The result [default: MODEL-STEM.surface.zarr in this folder]")
@ending
@click.pass_obj
def surface(
    scheduler: Scheduler, /, model: str, named: str | None, arguments: tuple[str, ...], key: str | None, trust: bool,
    plane: str, through: tuple[str, ...], curved: str | None, normalize: str | None, include_bias: bool,
    orthogonal: bool, dims: int | None, span: tuple[str, ...], resolution: tuple[str, ...], seed: int | None,
    tune: bool, out: str | None, fresh: bool, pictures: tuple[str, ...], dry_run: bool, quiet: bool, debug: bool,
    **computed: Any,
) -> None:  # fmt: skip
    """The loss on a line, plane or volume through MODEL.

    MODEL is a checkpoint, or a recording, whose last step is meant. It names its objective
    (gradvis.save_checkpoint writes such files), or --objective does; a whole network, such as a .keras
    file, takes --data in its place. Run it alone, or under mpirun or srun: `mpirun -n 8 gradvis-surface
    model.pt`. The same command goes on with a result that was interrupted.
    """
    del debug  # the door reads it
    wanted_pictures = suffixes(pictures)
    drawn = chosen(normalize=normalize, include_bias=include_bias, orthogonal=orthogonal, seed=seed)
    wanted = Wanted(plane, through, dims, drawn, curved)
    check(wanted)
    axes = {"span": single(spans(span)), "resolution": single(resolutions(resolution))}
    if wanted.reused is None:  # a mistake in them is told before anything is loaded
        grid(wanted.k, 1.0 if axes["span"] is None else axes["span"], axes["resolution"])
    talks = scheduler.is_root and not quiet
    state = last_of(model)
    begun = start(state, named, arguments, computed, scheduler, key=key, trust=trust, talks=talks)
    objective = begun.objective
    where, own = plane_of(wanted, begun, state, scheduler)
    axes = {name: own.get(name) if value is None else value for name, value in axes.items()}
    if tune:
        objective = objective.again(scheduler.share(partial(objective.on(where).tune, where)))
    if dry_run or not quiet:
        cost = surface_cost(objective, where, **axes, scheduler=scheduler)
        if scheduler.is_root:
            click.echo(estimate(cost, scheduler, begun.threads), err=not dry_run)
    if dry_run:
        return
    path = result_of(model, "surface") if out is None else Path(out)
    with Progress(talks) as progress:
        result = loss_surface(
            objective, where, **axes, out=path, fresh=fresh, scheduler=scheduler, progress=progress,
            provenance={"name": Path(model).name, "command": command_line(sys.argv), "source": Path(begun.source).name},
        )  # fmt: skip
    base = path.name.removesuffix(".zarr")
    files = [path.with_name(f"{base}.{suffix}") for suffix in wanted_pictures]
    scheduler.share(lambda: [result.plot(file) and None for file in files])
    if scheduler.is_root:
        click.echo(found(result, path, files))
