"""`gradvis-surface`: the loss on a line, plane or volume through a model."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

import gradvis
from gradvis.cli.find import checkpoint, find_objective
from gradvis.cli.options import Whole, chosen, computing, listed, resolutions, spans
from gradvis.cli.planes import Wanted, check, plane_of
from gradvis.cli.report import Progress, estimate, found
from gradvis.grid import grid
from gradvis.machine import threads as fair_threads
from gradvis.plots import PICTURES
from gradvis.provenance import command_line
from gradvis.schedule import Scheduler
from gradvis.surface import loss_surface, surface_cost

_PICTURES = tuple(suffix[1:] for suffix in PICTURES)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("model", metavar="MODEL")
@click.option("--objective", "named", metavar="FILE.py:NAME", help="The function that returns the Objective.")
@click.option("--objective-arg", "arguments", metavar="KEY=VALUE", multiple=True, help="Passed to that function.")
@click.option("--key", metavar="NAME", help="Which state of a checkpoint that has several: model, model_ema, G.")
@click.option("--trust", is_flag=True, help="Load files whose loading can run code (pickled networks, TorchScript).")
@click.option(
    "--plane",
    metavar="KIND",
    default="random",
    show_default=True,
    help="random, between (MODEL and --through), or a RESULT.zarr whose plane is used again.",
)
@click.option("--through", metavar="CKPT", multiple=True, help="A checkpoint for --plane between; repeatable.")
@click.option("--normalize", type=click.Choice(["filter", "layer", "none"]), help="Of random planes [default: filter]")
@click.option("--include-bias", is_flag=True, help="Move biases and norm parameters too.")
@click.option("--orthogonal", is_flag=True, help="Make the directions orthogonal, filter by filter.")
@click.option("--dims", type=Whole(1, 3), metavar="1|2|3", help="A line, a plane or a volume [default: a plane]")
@click.option(
    "--span", metavar="A:B", multiple=True, help="One for each axis [default: -1:1; between checkpoints -0.5:1.5]"
)
@click.option("--resolution", metavar="N", multiple=True, help="Points an axis [default: 201, 51, 21 for 1, 2, 3 dims]")
@click.option("--seed", type=Whole(0), metavar="N", help="Of the random directions [default: 0]")
@computing
@click.option("--tune", is_flag=True, help="Time some ways of computing first, and take the fastest.")
@click.option("--out", "-o", metavar="PATH", help="The result [default: MODEL-STEM.surface.zarr in this folder]")
@click.option("--fresh", is_flag=True, help="Move an earlier result aside and start anew.")
@click.option("--plot", "pictures", metavar="png,html,...", multiple=True, default=("png,html",), show_default=True)
@click.option("--dry-run", is_flag=True, help="Say what it would take, and stop.")
@click.option("--quiet", is_flag=True, help="No estimate and no progress.")
@click.option("--debug", is_flag=True, help="A traceback with an error.")
@click.version_option(gradvis.__version__, message="%(prog)s %(version)s")
@click.pass_obj
def surface(
    scheduler: Scheduler, /, model: str, named: str | None, arguments: tuple[str, ...], key: str | None, trust: bool,
    plane: str, through: tuple[str, ...], normalize: str | None, include_bias: bool, orthogonal: bool,
    dims: int | None, span: tuple[str, ...], resolution: tuple[str, ...], seed: int | None, tune: bool,
    out: str | None, fresh: bool, pictures: tuple[str, ...], dry_run: bool, quiet: bool, debug: bool, **computed: Any,
) -> None:  # fmt: skip
    """The loss on a line, plane or volume through MODEL.

    MODEL is a checkpoint. It names its objective (gradvis.save_checkpoint writes such files), or
    --objective does. Run it alone, or under mpirun or srun: `mpirun -n 8 gradvis-surface model.pt`.
    The same command goes on with a result that was interrupted.
    """
    del debug  # the door reads it
    suffixes = _suffixes(pictures)
    drawn = chosen(normalize=normalize, include_bias=include_bias, orthogonal=orthogonal, seed=seed)
    wanted = Wanted(plane, through, dims, drawn)
    check(wanted)
    axes = {"span": _single(spans(span)), "resolution": _single(resolutions(resolution))}
    if wanted.reused is None:  # a mistake in them is told before anything is loaded
        grid(len(through) or dims or 2, 1.0 if axes["span"] is None else axes["span"], axes["resolution"])
    threads = computed["threads"] or fair_threads(scheduler.cpu_sharers)
    defaults = {"threads": threads, "device": "auto", "local": (scheduler.local_rank, scheduler.local_size)}
    objective, source = find_objective(
        model, named, _keywords(arguments), chosen(**computed), defaults=defaults, key=key, trust=trust
    )
    talks = scheduler.is_root and not quiet
    if talks and named is None:
        itself = "is its own network" if source == model else f"names its objective: {source}, found in this folder"
        click.echo(f"{model} {itself}", err=True)
    checkpoints = [checkpoint(path, objective, key, trust) for path in (model, *through)]
    where, own = plane_of(wanted, objective, model, checkpoints)
    axes = {name: own.get(name) if value is None else value for name, value in axes.items()}
    if tune:
        objective = objective.again(scheduler.share(partial(objective.on(where).tune, where)))
    if dry_run or not quiet:
        cost = surface_cost(objective, where, **axes, scheduler=scheduler)
        if scheduler.is_root:
            click.echo(estimate(cost, scheduler, threads), err=not dry_run)
    if dry_run:
        return
    path = Path(f"{Path(model).stem}.surface.zarr" if out is None else out)
    with Progress(talks) as progress:
        result = loss_surface(
            objective, where, **axes, out=path, fresh=fresh, scheduler=scheduler, progress=progress,
            provenance={"name": Path(model).name, "command": command_line(sys.argv), "source": Path(source).name},
        )  # fmt: skip
    base = path.name.removesuffix(".zarr")
    files = [path.with_name(f"{base}.{suffix}") for suffix in suffixes]
    scheduler.share(lambda: [result.plot(file) and None for file in files])
    if scheduler.is_root:
        click.echo(found(result, path, files))


def _single(values: list[Any]) -> Any:
    """One value stands for all axes; none at all, None, for the default."""
    return values[0] if len(values) == 1 else values or None


def _suffixes(pictures: tuple[str, ...]) -> list[str]:
    wanted = listed(pictures)
    unknown = [suffix for suffix in wanted if suffix not in {*_PICTURES, "none"}]
    if unknown:
        raise click.UsageError(f"--plot takes {', '.join(_PICTURES)} or none, but {unknown[0]} came; leave it out")
    return [suffix for suffix in wanted if suffix != "none"]


def _keywords(arguments: tuple[str, ...]) -> dict[str, str]:
    if wrong := [argument for argument in arguments if argument.find("=") < 1]:
        raise click.UsageError(f"--objective-arg takes KEY=VALUE, but {wrong[0]!r} came; give one as samples=100")
    return dict(argument.split("=", 1) for argument in arguments)
