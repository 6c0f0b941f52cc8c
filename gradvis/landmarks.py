"""Checkpoints on a plane: where each one lies, its own metrics, and those of the point that stands for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite, isnan
from typing import Any

from gradvis.notes import note
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.schedule import Scheduler

_APART = 0.01  # contract: own loss and plane loss that differ by more are told


@dataclass(frozen=True)
class Landmark:
    """A checkpoint on a plane.

    Attributes:
        name: What it is called in pictures.
        coords: Its place on the plane, (k,), in units of the directions.
        off_plane: Its distance from the plane, in parameter units (Euclidean).
        own: Its metrics with its own parameters and buffers.
        plane: Metrics of the point of the plane at `coords`, under the policy of the surface.
    """

    name: str
    coords: tuple[float, ...]
    off_plane: float
    own: Mapping[str, float]
    plane: Mapping[str, float]

    @property
    def apart(self) -> float:
        """How far own loss and plane loss are apart, as a share of the own loss."""
        own, plane = self.own["loss"], self.plane["loss"]
        if own == plane or (isnan(own) and isnan(plane)):
            return 0.0
        return abs(plane - own) / abs(own) if own and isfinite(own) and isfinite(plane) else float("inf")


def landmarks(objective: Objective, plane: Plane, scheduler: Scheduler) -> tuple[Landmark, ...]:
    """Measure the checkpoints of a plane; the ranks share the work.

    Args:
        objective: As on this plane.
        plane: With its `checkpoints`.
        scheduler: Who computes.
    """
    names = list(plane.checkpoints)

    def measure(index: int) -> Landmark:
        checkpoint = plane.checkpoints[names[index]]
        theta = objective.read(checkpoint)
        coords, off = plane.project(theta[None])
        own = objective.at(checkpoint).stored().measure(theta)
        there = dict(zip(objective.metrics, objective.evaluate(plane, coords)[0].tolist(), strict=True))
        return Landmark(names[index], tuple(coords[0].tolist()), float(off[0]), own, there)

    found = tuple(scheduler.map(measure, len(names)))
    for landmark in found:
        if landmark.apart > _APART:
            note(_apart(landmark, objective))
    return found


def _apart(landmark: Landmark, objective: Objective) -> str:
    policy = objective.about.get("batch_norm")
    own, why = ("statistics", f" (batch_norm={policy})") if policy else ("buffers", "")
    return (
        f"{landmark.name} has the loss {landmark.own['loss']:.4g} with its own {own}, but its place on the plane "
        f"has {landmark.plane['loss']:.4g}{why}, {landmark.apart:.0%} apart; both are stored"
    )


def as_records(found: tuple[Landmark, ...]) -> list[dict[str, Any]]:
    """In JSON values; what is not finite as text, for which JSON has no number."""
    return [{**asdict(mark), "own": _plain(mark.own), "plane": _plain(mark.plane)} for mark in found]


def _plain(values: Mapping[str, float]) -> dict[str, Any]:
    return {name: value if isfinite(value) else repr(value) for name, value in values.items()}


def from_records(records: list[dict[str, Any]]) -> tuple[Landmark, ...]:
    """Undo `as_records`."""
    return tuple(
        Landmark(each["name"], tuple(each["coords"]), each["off_plane"], _numbers(each["own"]), _numbers(each["plane"]))
        for each in records
    )


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
