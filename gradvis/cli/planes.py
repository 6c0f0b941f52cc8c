"""`--plane` and what goes with it: where the surface lies, and its grid where the options leave that open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

import gradvis
from gradvis.between import names_of, plane_between
from gradvis.cli.start import Start
from gradvis.directions import random_plane
from gradvis.eigenpairs import hessian_plane
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.provenance import digest
from gradvis.recording import Recording
from gradvis.runs import in_order, runs_of
from gradvis.schedule import Scheduler
from gradvis.spectrum import Spectrum
from gradvis.surface import Surface
from gradvis.trajectory import Trajectory, principal_plane

KINDS = ("random", "between", "pca", "hessian")
CURVED = ("top", "ends", "gradient")


@dataclass(frozen=True)
class Wanted:
    """What the options say of the plane.

    Attributes:
        kind: `random`, `between`, `pca`, `hessian`, or the path of a result whose plane is meant.
        through: Checkpoints, paths.
        dims: How many dimensions; None where not said.
        random: The options of a random plane that were given.
        curved: Which directions a Hessian plane has; None where not said.
    """

    kind: str
    through: tuple[str, ...]
    dims: int | None
    random: Mapping[str, Any]
    curved: str | None = None

    @property
    def reused(self) -> Path | None:
        """The result whose plane is meant, if one is."""
        return None if self.kind in KINDS else Path(self.kind)

    @property
    def k(self) -> int:
        """How many dimensions a plane that is made anew has."""
        return len(self.through) if self.kind == "between" else self.dims or 2


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
    if wanted.curved and wanted.kind != "hessian":
        raise click.UsageError(f"--directions belongs to --plane hessian; leave it out with --plane {wanted.kind}")
    if wanted.curved not in {None, "top"} and wanted.dims not in {None, 2}:
        raise click.UsageError(f"--directions {wanted.curved} are two, but --dims {wanted.dims} came; leave it out")
    if wanted.kind in {"random", "hessian"} and wanted.through:
        raise click.UsageError(
            "--through names checkpoints for --plane between or pca; give one of these, or leave --through out"
        )
    if wanted.kind == "pca" and not wanted.through:
        raise click.UsageError(
            "--plane pca is the principal plane of checkpoints that end with MODEL, but no others came; give each, or "
            "a recording or folder of them, with --through"
        )
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


def plane_of(wanted: Wanted, begun: Start, model: Any, scheduler: Scheduler) -> tuple[Plane, dict[str, Any]]:
    """The plane, and the `span` and `resolution` that are its own where the options name none.

    Args:
        wanted: What the options say.
        begun: The objective of the model, and how it reads checkpoints.
        model: MODEL, a path or a recorded step.
        scheduler: Who computes.

    Raises:
        ValueError: If the plane is not of this model's space, or of other dimensions than asked for.
    """
    if wanted.kind == "random":
        return random_plane(begun.objective, wanted.k, **wanted.random), {}
    if wanted.kind == "pca":
        runs = begun.readable([*runs_of(in_order(wanted.through)), *runs_of([model])])
        components = range(1, wanted.k + 1)
        return principal_plane(runs, begun.objective, components=components, scheduler=scheduler), {}
    if wanted.kind == "hessian":
        return hessian_plane(begun.objective, wanted.curved or "top", wanted.k, scheduler=scheduler), {}
    names = names_of([str(model), *wanted.through])
    if wanted.kind == "between":
        return plane_between(begun.objective, *map(begun.read, (model, *wanted.through)), names=names), {}
    marked = dict(zip(names[1:], map(begun.read, wanted.through), strict=True))
    plane, own = reused(wanted.kind, begun.objective, wanted.dims)
    return replace(plane, checkpoints=marked), own


def reused(path: str, objective: Objective, dims: int | None = None) -> tuple[Plane, dict[str, Any]]:
    """The plane of a result, and its grid if it has one.

    Args:
        path: The result.
        objective: Whose space it must be of.
        dims: How many dimensions it must have, if that is said.

    Raises:
        ValueError: If the result has no plane, or one that cannot be used here.
    """
    result = gradvis.open(path)
    if isinstance(result, (Recording, Spectrum)):
        what, other = ("recording", "pca") if isinstance(result, Recording) else ("spectrum", "hessian")
        raise ValueError(f"--plane takes a result that has a plane, but {path} is a {what}; give --plane {other}")
    _check_fits(result, objective, path, dims)
    if not isinstance(result, Surface):
        return result.plane, {}
    axes = [result.dataset[dim].values for dim in result.dataset["loss"].dims]
    return result.plane, {
        "span": [(float(points[0]), float(points[-1])) for points in axes],
        "resolution": [len(points) for points in axes],
    }


def _check_fits(result: Surface | Trajectory, objective: Objective, path: str, dims: int | None) -> None:
    """See that a result's plane can be used here.

    Raises:
        ValueError: If not.
    """
    if result.plane.d != objective.space.d:
        raise ValueError(
            f"the plane of {path} has points of {result.plane.d} parameters, but MODEL has {objective.space.d}; "
            "take a result of the same architecture"
        )
    if result.about.get("space") not in {None, digest("; ".join(objective.space.names).encode())}:
        raise ValueError(
            f"the plane of {path} belongs to a network with other layers, though with as many parameters as "
            "MODEL; take a result of the same architecture"
        )
    if dims not in {None, result.plane.k}:
        raise ValueError(f"the plane of {path} has --dims {result.plane.k}, but {dims} came; leave it out")
