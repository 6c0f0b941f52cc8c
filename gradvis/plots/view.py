"""What a picture shows of a result: one metric on its axes, holes filled, the places worth marking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from gradvis.arrays import Values

GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}


class SurfaceLike(Protocol):
    """What a picture needs of a Surface."""

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


@dataclass(frozen=True)
class Mark:
    """A place worth marking.

    Attributes:
        kind: `centre` or `minimum`.
        coords: Where it is, (k,).
        value: The metric there.
        text: What the legend calls it.
    """

    kind: str
    coords: tuple[float, ...]
    value: float
    text: str


@dataclass(frozen=True, eq=False)
class View:
    """One metric, ready to be drawn.

    Attributes:
        dims: The names of the axes, k of them.
        axes: Their coordinates, k arrays.
        values: The metric in the order of the axes; a point not computed yet has the value
            of its nearest computed neighbour, one that diverged is NaN.
        diverged: Which computed points came out as NaN or inf, in the shape of `values`.
        marks: The centre and the minimum, where there are such.
    """

    dims: tuple[str, ...]
    axes: tuple[Values, ...]
    values: Values
    diverged: NDArray[np.bool_]
    marks: tuple[Mark, ...]


def check_name(kind: str, asked: str, known: Sequence[str]) -> None:
    """See that a name is known.

    Raises:
        ValueError: If it is not; with the list, and the name that may have been meant.
    """
    if asked not in known:
        close = get_close_matches(asked, known, n=1)
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
    return View(dims, axes, _fill(finite, done), done & ~np.isfinite(values), _marks(surface, metric, axes))


def _fill(values: Values, done: NDArray[np.bool_]) -> Values:
    """Give every point that is not computed the value of its nearest computed neighbour (in grid steps)."""
    where = distance_transform_edt(~done, return_distances=False, return_indices=True)
    filled: Values = values[tuple(where)]
    return filled


def _marks(surface: SurfaceLike, metric: str, axes: tuple[Values, ...]) -> tuple[Mark, ...]:
    marks = []
    inside = all(axis.min() <= 0 <= axis.max() for axis in axes)
    if inside and np.isfinite(surface.center.get(metric, np.nan)):
        value = float(surface.center[metric])
        marks.append(Mark("centre", (0.0,) * len(axes), value, f"centre {number(value)}"))
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


def central(surface: SurfaceLike, dim: str) -> tuple[Slice, float]:
    """The slice of a surface nearest to zero of one axis, and where it is."""
    axis = np.asarray(surface.dataset[dim].values)
    index = int(np.argmin(np.abs(axis)))
    done = np.take(surface.done, index, list(surface.dataset["loss"].dims).index(dim))
    center = surface.center if axis[index] == 0 else {}
    part = Slice(surface.dataset.isel({dim: index}), surface.metrics, center, done, surface.about)
    return part, float(axis[index])


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
