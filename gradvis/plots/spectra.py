"""What a picture shows of a spectrum: its density, its cumulative spectrum, its extreme eigenvalues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gradvis import quadrature
from gradvis.arrays import Values
from gradvis.plots.eigen_axis import Axis
from gradvis.plots.view import check_name

KINDS = ("density", "cumulative")
KINDS_MANY = (*KINDS, "ridge")
_POINTS = 2000  # of a curve
_ROOM = 1.5  # below the peak of the lowest eigenvalue that is shown, on a logarithmic axis
_DEEP = 1e-14  # of the largest density: what is below is rounding


@runtime_checkable
class Quadrature(Protocol):
    """What tells a spectrum from other results."""

    @property
    def nodes(self) -> Values:
        """Ritz values of each probe, (r, m); NaN where there are none."""

    @property
    def weights(self) -> Values:
        """How much of each probe lies there, (r, m)."""


class SpectrumLike(Quadrature, Protocol):
    """What a picture needs of a Spectrum."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Where the numbers come from."""

    @property
    def done(self) -> NDArray[Any]:
        """Which probes are there, (r,)."""

    @property
    def dataset(self) -> Any:
        """`node`, `weight` and `residual` over the dims probe and step."""

    @property
    def center(self) -> Mapping[str, float]:
        """The loss, the norm of its gradient, and how many parameters have no curvature (`unused`)."""

    @property
    def pairs(self) -> Any:
        """The extreme eigenpairs: `values`, `residuals` and `converged`, (k,) each."""

    @property
    def d(self) -> int:
        """How many eigenvalues there are."""

    @property
    def trace(self) -> float:
        """Their sum."""

    @property
    def trace_stderr(self) -> float:
        """Its standard error."""

    @property
    def frobenius(self) -> float:
        """The root of the sum of their squares."""

    @property
    def frobenius_stderr(self) -> float:
        """Its standard error."""

    def density(self, x: Values) -> Values:
        """The smoothed density, (n,)."""

    def density_stderr(self, x: Values) -> Values:
        """Its standard error over the probes, (n,)."""

    def cumulative(self, x: Values) -> Values:
        """Which share of the eigenvalues is at most x, (n,)."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A spectrum as a curve over the eigenvalues.

    Attributes:
        x: Eigenvalues, ascending, (n,).
        y: Density, or the share of the eigenvalues up to there, (n,).
        stderr: Standard errors of a density over the probes, (n,); NaN for one probe. Nothing for shares.
        values: The extreme eigenvalues, descending, (k,).
        converged: Which of these have converged, (k,).
        residuals: How far each is from an eigenvalue at the most, (k,).
        least: The smallest density that is worth a look.
        named: Which of the extreme eigenvalues are the ends of the spectrum, and what they are called.
    """

    x: Values
    y: Values
    stderr: Values | None
    values: Values
    converged: NDArray[np.bool_]
    residuals: Values
    least: float
    named: dict[str, float]

    @property
    def most(self) -> float:
        """The largest height."""
        return float(self.y.max())


def known(seen: Curve) -> bool:
    """Whether there is a standard error to draw."""
    return seen.stderr is not None and bool((seen.stderr > 0).any())


def check(spectra: Sequence[Any], kind: str | None, metric: str | None) -> str:
    """The kind of picture, when these results can be drawn so.

    Raises:
        ValueError: If the kind is unknown, a metric was asked for, they are not all spectra, or one has no probe yet.
    """
    if not all(isinstance(each, Quadrature) for each in spectra):
        raise ValueError("spectra share a figure with spectra alone, but another result came; draw it by itself")
    if kind == "ridge" and len(spectra) == 1:
        raise ValueError("kind 'ridge' shows several spectra, but one came; give more of them, or take 'density'")
    check_name(
        "the kind of a spectrum", "density" if kind is None else kind, KINDS if len(spectra) == 1 else KINDS_MANY
    )
    if metric is not None:
        raise ValueError(f"a spectrum has no metrics, but {metric!r} came; leave it out")
    if not all(each.done.any() for each in spectra):
        raise ValueError("a picture needs at least one finished probe, but this spectrum has none yet")
    return kind or "density"


def parts(spectrum: SpectrumLike) -> tuple[Values, Values]:
    """Nodes and weights of the finished probes, (r, m) each."""
    return spectrum.nodes[spectrum.done], spectrum.weights[spectrum.done]


def curve(spectrum: SpectrumLike, kind: str, axis: Axis, also: Sequence[Axis] = ()) -> Curve:
    """A spectrum ready to be drawn on an axis, and fine enough for others."""
    found = _pairs(spectrum)
    values = found[0]
    ends = _ends(spectrum, values)
    if kind == "cumulative":
        x = np.unique(np.concatenate([parts(spectrum)[0].ravel(), axis.limits()]))
        x = x[np.isfinite(x)]
        return Curve(x, spectrum.cumulative(x), None, *found, 0.0, ends)
    grids = [quadrature.grid(*parts(spectrum), _POINTS, each.scale) for each in (axis, *also)]
    x = np.unique(np.concatenate([*grids, _peaks(spectrum, values)]))
    y = spectrum.density(x)
    return Curve(x, y, spectrum.density_stderr(x), *found, _least(spectrum, y, values), ends)


def _peaks(spectrum: SpectrumLike, values: Values) -> Values:
    """The tops and the feet of the kernels of extreme eigenvalues: no grid may step over them."""
    nodes, weights = parts(spectrum)
    kernels = quadrature.widths(nodes, weights)
    near = [np.nanargmin(np.abs(nodes - value), axis=1)[:, None] for value in values]
    found = [
        np.take_along_axis(nodes, at, 1) + np.array([-1, 0, 1]) * np.take_along_axis(kernels, at, 1) for at in near
    ]
    return np.concatenate([np.empty(0), *map(np.ravel, found), values])


def has_pairs(spectrum: SpectrumLike) -> bool:
    """Whether eigenpairs were computed with it."""
    return bool(spectrum.about.get("top")) and spectrum.about.get("reorthogonalise") != "none"


def _pairs(spectrum: SpectrumLike) -> tuple[Values, NDArray[np.bool_], Values]:
    """The extreme eigenvalues, which have converged, and their residuals; none of a spectrum without."""
    if not has_pairs(spectrum):
        return np.empty(0), np.empty(0, bool), np.empty(0)
    pairs = spectrum.pairs
    return np.asarray(pairs.values, np.float64), np.asarray(pairs.converged, bool), np.asarray(pairs.residuals)


def _ends(spectrum: SpectrumLike, values: Values) -> dict[str, float]:
    which = spectrum.about.get("which", "largest")
    ends = {"largest": values.max(), "smallest": values.min()} if len(values) else {}
    return {name: float(value) for name, value in ends.items() if which in (name, "both")}


def _least(spectrum: SpectrumLike, y: Values, values: Values) -> float:
    """Of the density at what is to be seen, the ends among it, the smallest."""
    nodes = parts(spectrum)[0]
    seen = spectrum.density(np.concatenate([values, [np.nanmin(nodes), np.nanmax(nodes)]]))
    return float(max(seen[seen > 0].min(initial=y.max()) / _ROOM, _DEEP * y.max()))


def within(spectrum: SpectrumLike, threshold: float) -> float:
    """Which share of the eigenvalues lies in the linear part of a symmetric-logarithmic axis."""
    return quadrature.mass(*parts(spectrum), -threshold, threshold)


def titles(spectra: Sequence[SpectrumLike], given: Sequence[str] | None = None) -> list[str]:
    """What tells spectra from each other: the names given, else their blocks, else their models.

    Raises:
        ValueError: If the names are more or fewer.
    """
    if given is not None and len(given) != len(spectra):
        raise ValueError(f"titles takes one for each of the {len(spectra)} results, but {len(given)} came")
    if given is not None:
        return list(given)
    models = [str(each.about.get("name")) for each in spectra]
    distinct = len(set(models)) == len(models)
    return blocks(spectra) or (models if distinct else [f"result {i}" for i in range(1, len(spectra) + 1)])


def blocks(spectra: Sequence[SpectrumLike]) -> list[str]:
    """Whose parameters each spectrum is of, where that tells them from each other; else nothing."""
    found = [str((each.about.get("objective") or {}).get("parameters") or "all parameters") for each in spectra]
    return found if len(set(found)) == len(found) else []
