"""The options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_COMPUTING = [
    click.option("--data", metavar="FILE", help="Inputs and targets (.npz, .safetensors, .pt) in place of its own."),
    click.option("--samples", type=click.IntRange(1), metavar="N", help="A fixed subset of so many samples."),
    click.option("--loss", metavar="NAME", help="Loss by name, in place of the objective's own."),
    click.option("--metrics", metavar="A,B", multiple=True, help="Metrics by name, in place of the objective's own."),
    click.option(
        "--batch-size", type=click.IntRange(1), metavar="N", help="Samples a batch, for data without batches."
    ),
    click.option(
        "--batch-norm",
        type=click.Choice(["eval", "batch", "recalibrate"]),
        help="Stored statistics, those of each batch, or new ones at every point [default: eval; recalibrate on "
        "planes through several checkpoints]",
    ),
    click.option("--micro-batch", type=click.IntRange(1), metavar="N", help="Samples through the network at once."),
    click.option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N (rocm too) or mps [default: auto]"),
    click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads a rank; by default its share."),
    click.option("--compile", is_flag=True, help="Compile the forward pass (torch.compile)."),
    click.option("--dtype", type=click.Choice(["float32", "float64", "bfloat16"]), help="By default the model's own."),
]


def computing(command: F) -> F:
    """Give a command the options of `gradvis.objective`."""
    for option in reversed(_COMPUTING):
        command = option(command)
    return command


def chosen(**options: Any) -> dict[str, Any]:
    """The options that were given a value, lists joined."""
    given = {name: value for name, value in options.items() if value not in {None, False, ()}}
    return given | ({"metrics": listed(given["metrics"])} if "metrics" in given else {})


def listed(values: tuple[str, ...]) -> list[str]:
    """Options that take several values are comma-separated or repeated.

    >>> listed(("a,b", "c"))
    ['a', 'b', 'c']
    """
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def spans(values: tuple[str, ...]) -> list[float | tuple[float, float]]:
    """One for each axis: 1.0 means -1:1.

    Raises:
        click.BadParameter: If one is not a number or two with a colon between.

    >>> spans(("-1:1,0.5",))
    [(-1.0, 1.0), 0.5]
    """
    try:
        parts = [tuple(map(float, part.split(":"))) for part in listed(values)]
        return [ends[0] if len(ends) == 1 else (ends[0], ends[1]) for ends in parts if _short(ends)]
    except ValueError:
        raise click.BadParameter(f"--span takes 1.0 or -1:1, one for each axis, but {','.join(values)} came") from None


def _short(ends: tuple[float, ...]) -> bool:
    if len(ends) > 2:
        raise ValueError(ends)
    return True


def resolutions(values: tuple[str, ...]) -> list[int]:
    """One for each axis.

    Raises:
        click.BadParameter: If one is not a whole number.
    """
    try:
        return [int(part) for part in listed(values)]
    except ValueError:
        raise click.BadParameter(
            f"--resolution takes a whole number, one for each axis, but {','.join(values)} came"
        ) from None
