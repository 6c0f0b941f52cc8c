"""What a picture shows of a result: one metric on its axes, holes filled, the places worth marking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from gradvis.arrays import Values
from gradvis.landmarks import Landmark

GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}


class SurfaceLike(Protocol):
    """What a picture needs of a Surface; it may also have `checkpoints`, a tuple of `Landmark`s."""

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


@dataclass(frozen=True)
class Mark:
    """A place worth marking.

    Attributes:
        kind: `centre`, `minimum` or `checkpoint`.
        coords: Where it is, (k,).
        value: The metric there, on the plane.
        text: What the legend calls it.
        name: What is written at the place, if anything.
        details: What more is to be said of it, in lines.
    """

    kind: str
    coords: tuple[float, ...]
    value: float
    text: str
    name: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class View:
    """One metric, ready to be drawn.

    Attributes:
        dims: The names of the axes, k of them.
        axes: Their coordinates, k arrays.
        values: The metric in the order of the axes; a point that diverged is NaN. One not computed yet
            has the value of its nearest computed neighbour, or on a line is NaN.
        diverged: Which computed points came out as NaN or inf, in the shape of `values`.
        marks: The centre, the minimum and the checkpoints, where there are such.
        stderr: The standard errors of the values, in their shape, where they are known.
    """

    dims: tuple[str, ...]
    axes: tuple[Values, ...]
    values: Values
    diverged: NDArray[np.bool_]
    marks: tuple[Mark, ...]
    stderr: Values | None = None


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
    marks = _marks(surface, metric, axes)
    return View(dims, axes, finite, done & ~np.isfinite(values), marks, _stderr(surface, metric))


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


def _marks(surface: SurfaceLike, metric: str, axes: tuple[Values, ...]) -> tuple[Mark, ...]:
    marks = [_checkpoint(each, metric) for each in getattr(surface, "checkpoints", ())]
    marks = [mark for mark in marks if _inside(mark.coords, axes)]
    origin, near = (0.0,) * len(axes), 1e-3 * min(map(np.ptp, axes))
    free = all(np.abs(mark.coords).max() > near for mark in marks)  # else the checkpoint is the centre
    if free and _inside(origin, axes) and np.isfinite(surface.center.get(metric, np.nan)):
        value = float(surface.center[metric])
        marks.append(Mark("centre", origin, value, f"centre {number(value)}"))
    # Whether more is better only the user knows of other metrics: they are marked where the loss is lowest.
    judge = "loss" if "loss" in surface.metrics else metric
    losses = np.asarray(surface.dataset[judge].values, np.float64)
    losses = np.where(np.asarray(surface.done, bool) & np.isfinite(losses), losses, np.inf)
    if np.isfinite(losses).any():
        place = np.unravel_index(np.argmin(losses), losses.shape)
        value = float(surface.dataset[metric].values[place])
        coords = tuple(float(axis[i]) for axis, i in zip(axes, place, strict=True))
        marks.append(
            Mark("minimum", coords, value, f"{'minimum' if judge == metric else 'lowest loss'} {number(value)}")
        )
    return tuple(marks)


def _inside(coords: tuple[float, ...], axes: tuple[Values, ...]) -> bool:
    near = [1e-6 * np.ptp(axis) for axis in axes]  # a projection rounds
    return all(
        axis.min() - room <= place <= axis.max() + room for place, axis, room in zip(coords, axes, near, strict=True)
    )


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
    """A checkpoint's own value, and that of the plane where it is another by over 1 %: its own buffers make that."""
    own, plane = (float(values.get(metric, np.nan)) for values in (checkpoint.own, checkpoint.plane))
    if np.isfinite(own) and abs(plane - own) <= 0.01 * abs(own):
        return number(own)
    return ", ".join(
        f"{number(value)}{where}" for value, where in ((own, ""), (plane, " on the plane")) if np.isfinite(value)
    )


def central(surface: SurfaceLike, dim: str) -> tuple[Slice, float]:
    """The slice of a surface nearest to zero of one axis, and where it is."""
    axis = np.asarray(surface.dataset[dim].values)
    index = int(np.argmin(np.abs(axis)))
    done = np.take(surface.done, index, list(surface.dataset["loss"].dims).index(dim))
    center = surface.center if axis[index] == 0 else {}
    place = float(axis[index])
    checkpoints = _on_slice(surface, dim, place, 1e-6 * float(np.ptp(axis)))
    return Slice(surface.dataset.isel({dim: index}), surface.metrics, center, done, surface.about, checkpoints), place


def _on_slice(surface: SurfaceLike, dim: str, place: float, near: float) -> tuple[Landmark, ...]:
    """The checkpoints of a surface that lie on a slice, with the coordinates that remain."""
    gone = list(GREEK).index(dim)
    return tuple(
        replace(each, coords=(*each.coords[:gone], *each.coords[gone + 1 :]))
        for each in getattr(surface, "checkpoints", ())
        if abs(each.coords[gone] - place) <= near
    )


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


def number(value: float) -> str:
    """A value for people, four digits at most.

    >>> number(0.04312), number(-2.0), number(1e20)
    ('0.04312', '−2', '1e20')
    """
    return tidy(f"{value:.4g}")


def tidy(text: str) -> str:
    """A formatted number with a real minus sign and a short exponent."""
    mantissa, _, exponent = text.partition("e")
    return (mantissa + (f"e{int(exponent)}" if exponent else "")).replace("-", "−")


def shortened(name: str, most: int) -> str:
    """A long name without its middle: its beginning and its end tell most.

    >>> shortened("a-very-long-name-of-a-checkpoint-001.pt", 28)
    'a-very-long-n…ckpoint-001.pt'
    """
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"
