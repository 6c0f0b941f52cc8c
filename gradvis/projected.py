"""Training runs read and dropped onto a plane, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradvis.notes import note
from gradvis.objective import NotFiniteError, Objective, Reader
from gradvis.plane import Plane
from gradvis.principal import box, principal
from gradvis.projection import Places, finite, places
from gradvis.provenance import digest
from gradvis.runs import Run
from gradvis.schedule import Scheduler, Serial


@dataclass(frozen=True, eq=False)
class Projected:
    """Runs on a plane.

    Attributes:
        runs: Those that were finite.
        readers: Of their checkpoints, run after run, t of them.
        plane: What they were dropped on.
        places: Where they fell.
        digest: A fingerprint of all their parameters.
    """

    runs: tuple[Run, ...]
    readers: tuple[Reader, ...]
    plane: Plane
    places: Places
    digest: str

    @property
    def checkpoints(self) -> tuple[Any, ...]:
        """Those of all runs."""
        return tuple(checkpoint for run in self.runs for checkpoint in run.checkpoints)


def projected(
    objective: Objective | None,
    runs: Sequence[Run],
    plane: Plane | None,
    components: Sequence[int],
    anchored: bool,
    scheduler: Scheduler,
) -> Projected:
    """Drop runs onto a plane, or onto their principal one; see `gradvis.project_trajectory`.

    Args:
        objective: Reads the checkpoints; vectors where not given.
        runs: What is dropped.
        plane: Where; the principal plane of them all where not given.
        components: See `gradvis.principal.principal`.
        anchored: See there.
        scheduler: Who computes.

    Raises:
        ValueError: If checkpoints do not fit the objective or each other, or the plane.
    """
    readers = [reader for run in runs for reader in _readers(objective, run)]
    d = objective.space.d if objective else len(runs[0].checkpoints[0])
    if plane is not None and plane.d != d:
        raise ValueError(f"a plane of {d} parameters was wanted, but this one has {plane.d}; give one of this network")

    def drop(runs: Sequence[Run], readers: Sequence[Reader]) -> Projected:
        reads = [reader.read for reader in readers]
        if plane is None:
            found, fallen, products = principal(reads, d, components, anchored, scheduler)
            if len(runs) > 1:  # several walks have no such null
                about = {name: value for name, value in found.about.items() if name != "random_walk"}
                found = replace(found, about=about)
            return Projected(tuple(runs), tuple(readers), found, fallen, digest(products))
        fallen = places(reads, plane.origin, plane.directions, scheduler)
        mark = digest(fallen.coords, fallen.off_plane)
        return Projected(tuple(runs), tuple(readers), _of_others(plane, fallen), fallen, mark)

    try:
        return drop(runs, readers)
    except NotFiniteError:
        return drop(*_finite(runs, readers, finite([reader.read for reader in readers], d, scheduler)))


def _of_others(plane: Plane, fallen: Places) -> Plane:
    """A plane without what is true of those checkpoints alone from which it was made, if it is a principal one."""
    if plane.about.get("kind") != "pca":
        return plane
    kept = {name: value for name, value in plane.about.items() if name not in {"explained_variance", "random_walk"}}
    return replace(plane, about={**kept, "box": box(fallen.coords), "reused": True})


def last_finite(objective: Objective, run: Run) -> Any:
    """The last checkpoint of a run whose parameters are finite; its last one if none is."""
    for checkpoint in reversed(run.checkpoints):
        if all(finite([objective.reader(checkpoint).read], objective.space.d, Serial())):
            return checkpoint
    return run.checkpoints[-1]


def _readers(objective: Objective | None, run: Run) -> Iterator[Reader]:
    """The checkpoints of a run, ready to be read in parts.

    Raises:
        ValueError: If one is of another architecture than the objective; it is named.
    """
    for label, checkpoint in zip(run.labels, run.checkpoints, strict=True):
        if objective is None:
            yield Reader(checkpoint.__getitem__, str)
            continue
        try:
            yield objective.reader(checkpoint)
        except ValueError as error:
            raise error if label in str(error) else ValueError(f"{label} of {run.name}: {error}") from error


def _finite(runs: Sequence[Run], readers: Sequence[Reader], good: Sequence[bool]) -> tuple[list[Run], list[Reader]]:
    """The runs without the checkpoints that are not finite, of which a note tells.

    Raises:
        ValueError: If too few remain.
    """
    kept, start = [], 0
    for run in runs:
        here = good[start : start + len(run.labels)]
        start += len(run.labels)
        if bad := [label for label, fine in zip(run.labels, here, strict=True) if not fine]:
            what = f"{bad[0]} and {len(bad) - 1} more of {run.name} hold NaN or inf and are left out"
            what = what if len(bad) > 1 else f"{bad[0]} of {run.name} holds NaN or inf and is left out"
            note(f"{what}; {sum(here)} checkpoint{'s remain' if sum(here) != 1 else ' remains'}")
        kept.append(run.kept([index for index, fine in enumerate(here) if fine]))
    if not all(run.labels for run in kept) or all(good):
        raise ValueError(
            "checkpoints with finite parameters were wanted, but a training run has none, or they are too large to "
            "square; give checkpoints from before training diverged"
        )
    return kept, [reader for reader, fine in zip(readers, good, strict=True) if fine]
