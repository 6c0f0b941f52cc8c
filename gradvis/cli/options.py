"""The options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

import gradvis
from gradvis.plots import PICTURES

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Whole(click.IntRange):
    """A whole number within limits."""

    name = "whole number"  # in click's messages


_FINDING = [
    click.option("--objective", "named", metavar="FILE.py:NAME", help="The function that returns the Objective."),
    click.option("--objective-arg", "arguments", metavar="KEY=VALUE", multiple=True, help="Passed to that function."),
    click.option("--key", metavar="NAME", help="Which state of a checkpoint that has several: model, model_ema, G."),
    click.option(
        "--trust",
        is_flag=True,
        help="Load files whose loading can run code (pickled networks, TorchScript, SavedModel, Lambda layers).",
    ),
]
_ENDING = [
    click.option("--fresh", is_flag=True, help="Move an earlier result aside and start anew."),
    click.option("--plot", "pictures", metavar="png,html,...", multiple=True, default=("png,html",), show_default=True),
    click.option("--dry-run", is_flag=True, help="Say what it would take, and stop."),
    click.option("--quiet", is_flag=True, help="No estimate and no progress."),
    click.option("--debug", is_flag=True, help="A traceback with an error."),
    click.version_option(gradvis.__version__, message="%(prog)s %(version)s"),
]
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


def finding(command: F) -> F:
    """Give a command the options that tell where the objective is."""
    return _given(command, _FINDING)


def computing(command: F) -> F:
    """Give a command the options of `gradvis.objective`."""
    return _given(command, _COMPUTING)


def ending(command: F) -> F:
    """Give a command the options on its result, its pictures and what it tells."""
    return _given(command, _ENDING)


def _given(command: F, options: list[Callable[[Any], Any]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def suffixes(pictures: tuple[str, ...]) -> list[str]:
    """Those of `--plot`; none for `none`.

    Raises:
        click.UsageError: If one is unknown.
    """
    known = tuple(suffix[1:] for suffix in PICTURES)
    wanted = listed(pictures)
    unknown = [suffix for suffix in wanted if suffix not in {*known, "none"}]
    if unknown:
        raise click.UsageError(f"--plot takes {', '.join(known)} or none, but {unknown[0]} came; leave it out")
    return [suffix for suffix in wanted if suffix != "none"]


def keywords(arguments: tuple[str, ...]) -> dict[str, str]:
    """Those of `--objective-arg`.

    Raises:
        click.UsageError: If one is not KEY=VALUE.
    """
    if wrong := [argument for argument in arguments if argument.find("=") < 1]:
        raise click.UsageError(f"--objective-arg takes KEY=VALUE, but {wrong[0]!r} came; give one as samples=100")
    return dict(argument.split("=", 1) for argument in arguments)


def single(values: list[Any]) -> Any:
    """One value stands for all axes; none at all, None, for the default."""
    return values[0] if len(values) == 1 else values or None


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
    return _each("span", "1.0 or -1:1, one for all axes or one each", values, _span)


def _span(text: str) -> float | tuple[float, float]:
    low, colon, high = text.partition(":")
    return (float(low), float(high)) if colon else float(low)


def components(values: tuple[str, ...]) -> list[int]:
    """Of a principal plane, by number.

    Raises:
        click.UsageError: If one is not a whole number.
    """
    return _each("components", "whole numbers such as 1,2", values, int)


def resolutions(values: tuple[str, ...]) -> list[int]:
    """One for each axis.

    Raises:
        click.UsageError: If one is not a whole number.
    """
    return _each("resolution", "a whole number, one for all axes or one each", values, int)


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
        raise click.UsageError(f"--{name} takes {wanted}, but {given!r} came")
    return found
