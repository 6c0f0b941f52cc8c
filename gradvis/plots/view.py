"""What a picture shows of a result: one metric on its axes, holes filled, with what lies on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from gradvis.arrays import Values
from gradvis.landmarks import Landmark
from gradvis.plots.places import Mark, marks
from gradvis.tracks import Track

GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}


@runtime_checkable
class SurfaceLike(Protocol):
    """What a picture needs of a Surface; it may also have `checkpoints`, of `Landmark`s, and `tracks`, of `Track`s."""

    @property
    def dataset(self) -> xr.Dataset:
        """A variable a metric over the dims alpha, beta, gamma (the first k of them)."""

    @property
    def metrics(self) -> Sequence[str]:
        """The metrics, without their standard errors."""

    @property
    def center(self) -> Mapping[str, float]:
        """Each metric where every coordinate is zero."""

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which points are computed, in the shape of the grid."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Where the numbers come from."""


@dataclass(frozen=True)
class Slice:
    """A surface at one place of an axis: a surface of a dimension less."""

    dataset: xr.Dataset
    metrics: Sequence[str]
    center: Mapping[str, float]
    done: NDArray[np.bool_]
    about: Mapping[str, Any]
    checkpoints: tuple[Landmark, ...] = ()
    tracks: tuple[Track, ...] = ()


class TrajectoryLike(Protocol):
    """What a picture needs of a Trajectory."""

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The training runs, all on one plane of k = 1, 2 or 3 dimensions."""

    @property
    def metrics(self) -> Sequence[str]:
        """The metrics, without their standard errors."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Where the numbers come from."""


@dataclass(frozen=True, eq=False)
class View:
    """One metric, ready to be drawn.

    Attributes:
        dims: The names of the axes, k of them.
        axes: Their coordinates, k arrays.
        values: The metric in the order of the axes; a point that diverged is NaN. One not computed yet
            has the value of its nearest computed neighbour, or on a line is NaN.
        diverged: Which computed points came out as NaN or inf, in the shape of `values`.
        marks: The centre, the minimum, checkpoints and ends of paths, where there are such.
        stderr: The standard errors of the values, in their shape, where they are known.
        tracks: The training runs whose paths lie on it.
    """

    dims: tuple[str, ...]
    axes: tuple[Values, ...]
    values: Values
    diverged: NDArray[np.bool_]
    marks: tuple[Mark, ...]
    stderr: Values | None = None
    tracks: tuple[Track, ...] = ()


def check_name(kind: str, asked: Any, known: Sequence[str]) -> None:
    """See that a name is known.

    Raises:
        ValueError: If it is not; with the list, and the name that may have been meant.
    """
    if asked not in known:
        close = get_close_matches(str(asked), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{kind} must be one of {', '.join(known)}, but {asked!r} came{hint}")


def view(surface: SurfaceLike, metric: str) -> View:
    """One metric of a surface, ready to be drawn; the surface is only read.

    Raises:
        ValueError: If the surface has no such metric, or no point is computed yet.
    """
    check_name("metric", metric, list(surface.metrics))
    done = np.asarray(surface.done, bool)
    if not done.any():
        raise ValueError("a picture needs at least one computed point, but this surface has none yet")
    array = surface.dataset[metric]
    dims = tuple(str(dim) for dim in array.dims)
    axes = tuple(np.asarray(surface.dataset[dim].values, np.float64) for dim in dims)
    values = np.asarray(array.values, np.float64)
    finite = np.where(np.isfinite(values), values, np.nan)
    if len(dims) > 1:  # a curve shows its gaps
        finite = _fill(finite, done)
    diverged = done & ~np.isfinite(values)
    found = marks(surface, metric, axes)
    tracks = tuple(getattr(surface, "tracks", ()))
    return View(dims, axes, finite, diverged, found, _stderr(surface, metric), tracks)


def _stderr(surface: SurfaceLike, metric: str) -> Values | None:
    name = f"{metric}_stderr"
    return np.asarray(surface.dataset[name].values, np.float64) if name in surface.dataset else None


def companion(surface: SurfaceLike) -> str | None:
    """What suits a second axis beside the loss: accuracy, or the first metric that is never below 0 or above 1."""
    others = sorted((name for name in surface.metrics if name != "loss"), key=lambda name: name != "accuracy")
    for name in others:
        values = np.asarray(surface.dataset[name].values, np.float64)[np.asarray(surface.done, bool)]
        values = values[np.isfinite(values)]
        if values.size and values.min() >= 0 and values.max() <= 1:
            return name
    return None


def _fill(values: Values, done: NDArray[np.bool_]) -> Values:
    """Give every point that is not computed the value of its nearest computed neighbour (in grid steps)."""
    where = distance_transform_edt(~done, return_distances=False, return_indices=True)
    filled: Values = values[tuple(where)]
    return filled


def central(surface: SurfaceLike, dim: str) -> tuple[Slice, float]:
    """The slice of a surface nearest to zero of one axis, and where it is."""
    axis = np.asarray(surface.dataset[dim].values)
    index = int(np.argmin(np.abs(axis)))
    done = np.take(surface.done, index, list(surface.dataset["loss"].dims).index(dim))
    center = surface.center if axis[index] == 0 else {}
    place = float(axis[index])
    checkpoints = _on_slice(surface, dim, place, 1e-6 * float(np.ptp(axis)))
    flat = surface.dataset.isel({dim: index})
    tracks = along(getattr(surface, "tracks", ()), [name for name in GREEK if name != dim])
    return Slice(flat, surface.metrics, center, done, surface.about, checkpoints, tracks), place


def along(tracks: Sequence[Track], dims: Sequence[str]) -> tuple[Track, ...]:
    """Tracks on some axes of their plane: seen along the other ones."""
    kept = [list(GREEK).index(dim) for dim in dims]
    return tuple(replace(track, coords=track.coords[:, kept]) for track in tracks)


def _on_slice(surface: SurfaceLike, dim: str, place: float, near: float) -> tuple[Landmark, ...]:
    """The checkpoints of a surface that lie on a slice, with the coordinates that remain."""
    gone = list(GREEK).index(dim)
    return tuple(
        replace(each, coords=(*each.coords[:gone], *each.coords[gone + 1 :]))
        for each in getattr(surface, "checkpoints", ())
        if abs(each.coords[gone] - place) <= near
    )


def under(result: TrajectoryLike, ground: SurfaceLike) -> Slice:
    """A surface with the paths of a trajectory on it.

    Raises:
        ValueError: If it has another number of dimensions.
    """
    k, dims = result.tracks[0].coords.shape[1], ground.dataset["loss"].ndim
    if k != dims:
        raise ValueError(f"a path of {k} dimensions needs a ground of as many, but one of {dims} came; leave it out")
    about = {**ground.about, **{name: result.about[name] for name in ("plane", "name") if name in result.about}}
    checkpoints = tuple(getattr(ground, "checkpoints", ()))
    return Slice(ground.dataset, ground.metrics, ground.center, ground.done, about, checkpoints, tuple(result.tracks))


def runs(chosen: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where chosen points of an axis follow each other: first index, and the one after the last.

    >>> runs(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    turns = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(int)))
    return [(int(start), int(stop)) for start, stop in turns.reshape(-1, 2)]


def intervals(x: Values, chosen: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Intervals around chosen points of an axis, half way to their neighbours."""
    edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    return [(float(edges[start]), float(edges[stop])) for start, stop in runs(chosen)]
