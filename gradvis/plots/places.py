"""The places of a plane worth marking: its centre, its lowest point, checkpoints, and the ends of paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradvis.arrays import Values
from gradvis.landmarks import Landmark
from gradvis.plots.words import number, own_and_plane, shortened
from gradvis.tracks import Track

if TYPE_CHECKING:
    from gradvis.plots.view import SurfaceLike


@dataclass(frozen=True)
class Mark:
    """A place worth marking.

    Attributes:
        kind: `centre`, `minimum`, `checkpoint`, or `start` and `end` of a path.
        coords: Where it is, (k,).
        value: The metric there, on the plane; on a line, for the end of a path, its own.
        text: What the legend calls it.
        name: What is written at the place, if anything.
        details: What more is to be said of it, in lines.
        run: Which of several runs it belongs to; the legend has an entry for the run, none for the mark.
    """

    kind: str
    coords: tuple[float, ...]
    value: float
    text: str
    name: str = ""
    details: tuple[str, ...] = ()
    run: int | None = None


def marks(surface: SurfaceLike, metric: str, axes: tuple[Values, ...]) -> tuple[Mark, ...]:
    """All marks of a surface that lie within its axes."""
    tracks = tuple(getattr(surface, "tracks", ()))
    found = ends(tracks, metric)
    on_path = {label for track in tracks for label in track.labels}
    lone = [
        each
        for each in getattr(surface, "checkpoints", ())
        if each.name not in on_path and not any(_same(each.coords, tip.coords, axes) for tip in found)
    ]
    found = [mark for mark in [*(_checkpoint(each, metric) for each in lone), *found] if inside(mark.coords, axes)]
    return (*found, *_centre(surface, metric, axes, found), *_minimum(surface, metric, axes))


def _same(one: Sequence[float], other: Sequence[float], axes: tuple[Values, ...]) -> bool:
    """Whether two places are one to the eye: within a thousandth of each axis."""
    return all(abs(a - b) <= 1e-3 * np.ptp(axis) for a, b, axis in zip(one, other, axes, strict=True))


def ends(tracks: Sequence[Track], metric: str) -> list[Mark]:
    """Where each run starts and ends on the plane: its first and last checkpoint that has a finite place."""
    found = []
    for run, track in enumerate(tracks):
        there = np.flatnonzero(np.isfinite(track.coords).all(axis=1))
        if there.size > 1:
            found.append(_end("start", track, int(there[0]), metric, run if len(tracks) > 1 else None))
        if there.size:
            found.append(_end("end", track, int(there[-1]), metric, run if len(tracks) > 1 else None))
    return found


def _end(kind: str, track: Track, index: int, metric: str, run: int | None) -> Mark:
    own, plane = (float(values[metric][index]) if metric in values else np.nan for values in (track.own, track.plane))
    who = kind if run is None else f"{kind} of {shortened(track.name, 28)}"
    coords = tuple(map(float, track.coords[index]))
    details = (track.labels[index], f"step {number(float(track.steps[index]))}")
    height = own if len(coords) == 1 and np.isfinite(own) else plane
    name = "" if run is None or kind == "start" else shortened(track.name, 18)  # starts are often one place
    return Mark(kind, coords, height, " ".join(filter(None, [who, own_and_plane(own, plane)])), name, details, run)


def inside(coords: tuple[float, ...], axes: tuple[Values, ...]) -> bool:
    """Whether a place lies within the axes; a projection rounds."""
    near = [1e-6 * np.ptp(axis) for axis in axes]
    return all(
        axis.min() - room <= place <= axis.max() + room for place, axis, room in zip(coords, axes, near, strict=True)
    )


def outside(tracks: Sequence[Track], surface: SurfaceLike | None) -> int:
    """How many checkpoints lie beside a surface."""
    if surface is None:
        return 0
    axes = tuple(np.asarray(surface.dataset[dim].values, np.float64) for dim in surface.dataset["loss"].dims)
    places = np.concatenate([track.coords for track in tracks])
    return sum(not inside(tuple(place), axes) for place in places[np.isfinite(places).all(axis=1)].tolist())


def _checkpoint(checkpoint: Landmark, metric: str) -> Mark:
    names = [name for name in checkpoint.own if not name.endswith("_stderr")]
    details = [f"{name} {_told(checkpoint, name)}" for name in names]
    if checkpoint.off_plane > 0:
        details.append(f"{checkpoint.off_plane:.3g} off the plane")
    text = " ".join(filter(None, [shortened(checkpoint.name, 28), _told(checkpoint, metric)]))
    coords = tuple(map(float, checkpoint.coords))
    value = float(checkpoint.plane.get(metric, np.nan))
    return Mark("checkpoint", coords, value, text, shortened(checkpoint.name, 18), tuple(details))


def _told(checkpoint: Landmark, metric: str) -> str:
    return own_and_plane(*(float(values.get(metric, np.nan)) for values in (checkpoint.own, checkpoint.plane)))


def _centre(surface: SurfaceLike, metric: str, axes: tuple[Values, ...], others: Sequence[Mark]) -> list[Mark]:
    """The centre, unless another mark stands there."""
    origin, near = (0.0,) * len(axes), 1e-3 * min(map(np.ptp, axes))
    free = all(np.abs(mark.coords).max() > near for mark in others)
    if not free or not inside(origin, axes) or not np.isfinite(surface.center.get(metric, np.nan)):
        return []
    value = float(surface.center[metric])
    return [Mark("centre", origin, value, f"centre {number(value)}")]


def _minimum(surface: SurfaceLike, metric: str, axes: tuple[Values, ...]) -> list[Mark]:
    # Whether more is better only the user knows of other metrics: they are marked where the loss is lowest.
    judge = "loss" if "loss" in surface.metrics else metric
    losses = np.asarray(surface.dataset[judge].values, np.float64)
    losses = np.where(np.asarray(surface.done, bool) & np.isfinite(losses), losses, np.inf)
    if not np.isfinite(losses).any():
        return []
    place = np.unravel_index(np.argmin(losses), losses.shape)
    value = float(surface.dataset[metric].values[place])
    coords = tuple(float(axis[i]) for axis, i in zip(axes, place, strict=True))
    return [Mark("minimum", coords, value, f"{'minimum' if judge == metric else 'lowest loss'} {number(value)}")]
