"""`gradvis-spectrum`: how curved the loss is where a model stands."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from gradvis.cli.models import result_of
from gradvis.cli.options import Whole, computing, ending, finding, suffixes
from gradvis.cli.report import Progress, checked, curved, estimate
from gradvis.cli.start import last_of, start
from gradvis.consistency import check_curvature
from gradvis.objective import Objective
from gradvis.provenance import command_line
from gradvis.restart import Which
from gradvis.schedule import Scheduler, TaskError
from gradvis.spectrum import Spectrum, hessian_spectrum, spectrum_cost


@click.command(
    short_help="Extreme eigenpairs, trace and density of the Hessian.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("model", metavar="MODEL")
@finding
@click.option(
    "--operator",
    type=click.Choice(["hessian", "ggn", "fisher"]),
    default="hessian",
    show_default=True,
    help="The Hessian, the generalised Gauss-Newton matrix, or the empirical Fisher matrix.",
)
@click.option("--probes", type=Whole(1), metavar="N", default=10, show_default=True, help="Random start vectors.")
@click.option("--steps", type=Whole(1), metavar="N", default=80, show_default=True, help="Of each Krylov run.")
@click.option("--top", type=Whole(0), metavar="N", default=10, show_default=True, help="Extreme eigenpairs to keep.")
@click.option(
    "--which",
    type=click.Choice(["largest", "smallest", "both"]),
    default="largest",
    show_default=True,
    help="Of which end of the spectrum, by sign; both: --top of each.",
)
@click.option("--parameters", metavar="GLOB", help="Only the parameters whose names match, such as 'layer3.*'.")
@click.option(
    "--tol",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    default=1e-4,
    show_default=True,
    help="Residual of the pairs, over the norm.",
)
@click.option(
    "--reorthogonalise",
    type=click.Choice(["full", "none"]),
    help="Keep the whole basis, or three vectors of it (no eigenpairs) [default: by memory]",
)
@click.option("--storage", type=click.Choice(["float32", "float64"]), help="Of the basis; by default the model's own.")
@click.option("--seed", type=Whole(0), metavar="N", default=0, show_default=True, help="Of the probes.")
@click.option(
    "--check",
    is_flag=True,
    help="Find the numbers again in other ways: from the loss, and a small model's dense matrix; sharpest with --dtype "
    "float64.",
)
@computing
@click.option("--tune", is_flag=True, help="Time some ways of computing first, and take the fastest.")
@click.option("--out", "-o", metavar="PATH", help="The result [default: MODEL-STEM.spectrum.zarr in this folder]")
@ending
@click.pass_obj
def spectrum(
    scheduler: Scheduler, /, model: str, named: str | None, arguments: tuple[str, ...], key: str | None, trust: bool,
    operator: str, probes: int, steps: int, top: int, which: Which, parameters: str | None, tol: float,
    reorthogonalise: str | None, storage: str | None, seed: int, check: bool, tune: bool, out: str | None, fresh: bool,
    pictures: tuple[str, ...], dry_run: bool, quiet: bool, debug: bool, **computed: Any,
) -> None:  # fmt: skip
    """Extreme eigenpairs, trace and density of the curvature at MODEL.

    MODEL is a checkpoint, or a recording, whose last step is meant; see gradvis-surface. The same command goes on
    with a result that was interrupted. With --check it ends with status 1 if a number does not hold.
    """
    del debug  # the door reads it
    wanted_pictures = suffixes(pictures)
    talks = scheduler.is_root and not quiet
    begun = start(last_of(model), named, arguments, computed, scheduler, key=key, trust=trust, talks=talks)
    objective = begun.objective.restrict(parameters) if parameters else begun.objective
    if tune:
        ways = partial(objective.tune_products, objective.parameters(), min(probes, 5))
        objective = objective.again(scheduler.share(ways))
    asked: dict[str, Any] = {"reorthogonalise": reorthogonalise, "storage": storage}
    if dry_run or not quiet:
        cost = spectrum_cost(objective, probes, steps, operator=operator, **asked, scheduler=scheduler)
        if scheduler.is_root:
            click.echo(estimate(cost, scheduler, begun.threads, "products"), err=not dry_run)
    if dry_run:
        return
    path = result_of(model, "spectrum") if out is None else Path(out)
    about = {"name": Path(model).name, "command": command_line(sys.argv), "source": Path(begun.source).name}
    with Progress(talks, "products") as progress:
        result = hessian_spectrum(
            objective, probes, steps, seed, operator=operator, top=top, which=which, tol=tol, **asked, out=path,
            fresh=fresh, scheduler=scheduler, progress=progress, provenance=about,
        )  # fmt: skip
    files = [path.with_name(f"{path.name.removesuffix('.zarr')}.{suffix}") for suffix in wanted_pictures]
    scheduler.share(lambda: [result.plot(file) and None for file in files])
    if scheduler.is_root:
        click.echo(curved(result, path, files))
    if check:
        _check(objective, result, operator, scheduler)


def _check(objective: Objective, result: Spectrum, operator: str, scheduler: Scheduler) -> None:
    """Print a table.

    Raises:
        TaskError: If something in it does not hold.
    """
    pairs = result.pairs if result.about.get("late") else None
    rows = scheduler.share(lambda: check_curvature(objective, pairs, operator))
    if scheduler.is_root:
        click.echo(checked(rows))
    if failed := sum(not row.passed for row in rows):
        raise TaskError(f"{failed} of {len(rows)} checks failed: see the table; --dtype float64 tells rounding apart")
