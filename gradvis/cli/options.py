"""The options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Whole(click.IntRange):
    """A whole number within limits."""

    name = "whole number"  # in click's messages


_COMPUTING = [
    click.option("--data", metavar="FILE", help="Inputs and targets (.npz, .safetensors, .pt) in place of its own."),
    click.option("--samples", type=Whole(1), metavar="N", help="A fixed subset of so many samples."),
    click.option("--loss", metavar="NAME", help="Loss by name, in place of the objective's own."),
    click.option("--metrics", metavar="A,B", multiple=True, help="Metrics by name, in place of the objective's own."),
    click.option("--batch-size", type=Whole(1), metavar="N", help="Samples a batch, for data without batches."),
    click.option(
        "--batch-norm",
        type=click.Choice(["eval", "batch", "recalibrate"]),
        help="Stored statistics, those of each batch, or new ones at every point [default: eval; recalibrate on "
        "planes through several checkpoints]",
    ),
    click.option("--micro-batch", type=Whole(1), metavar="N", help="Samples through the network at once."),
    click.option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N (rocm too) or mps [default: auto]"),
    click.option("--threads", type=Whole(1), metavar="N", help="Threads a rank; by default its share."),
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
        click.UsageError: If one is not a number or two with a colon between.

    >>> spans(("-1:1,0.5",))
    [(-1.0, 1.0), 0.5]
    """
    return _each("span", "1.0 or -1:1", values, _span)


def _span(text: str) -> float | tuple[float, float]:
    low, colon, high = text.partition(":")
    return (float(low), float(high)) if colon else float(low)


def resolutions(values: tuple[str, ...]) -> list[int]:
    """One for each axis.

    Raises:
        click.UsageError: If one is not a whole number.
    """
    return _each("resolution", "a whole number", values, int)


def _each(name: str, wanted: str, values: tuple[str, ...], read: Callable[[str], T]) -> list[T]:
    """The parts of an option, read.

    Raises:
        click.UsageError: If one cannot be read, or none is there although the option is.
    """
    given = ",".join(values)
    try:
        found = [read(part) for part in listed(values)]
    except ValueError:
        found = []
    if values and not found:
        raise click.UsageError(f"--{name} takes {wanted}, one for all axes or one each, but {given!r} came")
    return found
