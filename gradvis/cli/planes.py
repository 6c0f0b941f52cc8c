"""`--plane` and what goes with it: where the surface lies, and its grid where the options leave that open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

import gradvis
from gradvis.between import names_of, plane_between
from gradvis.directions import random_plane
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.provenance import digest
from gradvis.surface import Surface

KINDS = ("random", "between")


@dataclass(frozen=True)
class Wanted:
    """What the options say of the plane.

    Attributes:
        kind: `random`, `between`, or the path of a result whose plane is meant.
        through: Checkpoints, paths.
        dims: How many dimensions; None where not said.
        random: The options of a random plane that were given.
    """

    kind: str
    through: tuple[str, ...]
    dims: int | None
    random: Mapping[str, Any]

    @property
    def reused(self) -> Path | None:
        """The result whose plane is meant, if one is."""
        return None if self.kind in KINDS else Path(self.kind)


def check(wanted: Wanted) -> None:
    """See that the options of a plane fit together, before anything is loaded.

    Raises:
        click.UsageError: If they do not.
    """
    if wanted.reused is not None and not wanted.kind.rstrip("/").endswith(".zarr"):
        near = get_close_matches(wanted.kind, KINDS, 1)
        hint = f"did you mean {near[0]}?" if near else "give one of these"
        raise click.UsageError(f"--plane takes {', '.join(KINDS)} or a RESULT.zarr, but {wanted.kind} came; {hint}")
    if wanted.random and wanted.kind != "random":
        names = ", ".join(f"--{name.replace('_', '-')}" for name in wanted.random)
        raise click.UsageError(f"{names} belongs to random planes; leave it out with --plane {wanted.kind}")
    if wanted.kind == "random" and wanted.through:
        raise click.UsageError("--through names checkpoints for --plane between; give that, or leave --through out")
    if wanted.kind == "between" and not 1 <= len(wanted.through) <= 3:
        raise click.UsageError(
            f"--plane between goes through MODEL and one to three more checkpoints, but {len(wanted.through)} came; "
            "give each with --through"
        )
    if wanted.kind == "between" and wanted.dims not in {None, len(wanted.through)}:
        raise click.UsageError(
            f"--plane between through {len(wanted.through) + 1} checkpoints has --dims {len(wanted.through)}, but "
            f"{wanted.dims} came; leave it out"
        )


def plane_of(
    wanted: Wanted, objective: Objective, model: str, checkpoints: Sequence[Any]
) -> tuple[Plane, dict[str, Any]]:
    """The plane, and the `span` and `resolution` that are its own where the options name none.

    Args:
        wanted: What the options say.
        objective: Of the model.
        model: MODEL, a path.
        checkpoints: MODEL and those of `--through`, as the objective reads them.

    Raises:
        ValueError: If the plane is not of this model's space, or of other dimensions than asked for.
    """
    names = names_of([model, *wanted.through])
    if wanted.kind == "random":
        return random_plane(objective, wanted.dims or 2, **wanted.random), {}
    if wanted.kind == "between":
        return plane_between(objective, *checkpoints, names=names), {}
    result = gradvis.open(wanted.kind)
    _check_fits(result, objective, wanted)
    marked = dict(zip(names[1:], checkpoints[1:], strict=True))
    axes = [result.dataset[dim].values for dim in result.dataset["loss"].dims]
    plane = replace(result.plane, checkpoints=marked)
    return plane, {
        "span": [(float(points[0]), float(points[-1])) for points in axes],
        "resolution": [len(points) for points in axes],
    }


def _check_fits(result: Surface, objective: Objective, wanted: Wanted) -> None:
    """See that a result's plane can be used here.

    Raises:
        ValueError: If not.
    """
    if result.plane.d != objective.space.d:
        raise ValueError(
            f"the plane of {wanted.kind} has points of {result.plane.d} parameters, but MODEL has {objective.space.d}; "
            "take a result of the same architecture"
        )
    if result.about.get("space") not in {None, digest("; ".join(objective.space.names).encode())}:
        raise ValueError(
            f"the plane of {wanted.kind} belongs to a network with other layers, though with as many parameters as "
            "MODEL; take a result of the same architecture"
        )
    if wanted.dims not in {None, result.plane.k}:
        raise ValueError(
            f"the plane of {wanted.kind} has --dims {result.plane.k}, but {wanted.dims} came; leave it out"
        )
