"""A spectrum from the Gauss quadratures of a few probes: its distribution, moments and density.

Stochastic Lanczos quadrature: Golub and Meurant 2010, Matrices, Moments and Quadrature, chapters 6 and 11; Ubaru, Chen
and Saad 2017, SIAM J. Matrix Anal. Appl. 38(4). Each probe's Ritz values are the nodes, its squared first components
the weights, (r, m); after an early end the nodes are NaN and the weights 0. A row's weights sum to 1 and its sums are
exact for polynomials to degree 2 m - 1; the mean over probes estimates the share of the eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from gradvis.arrays import Values

_ROUNDING = 1e-12  # of the largest node: nodes so near to a bound lie on it
_SAME = 1e-7  # of the span of the nodes: nearer ones are copies of one eigenvalue
_THIN = 1e-2  # of the gap to the next node: how wide an eigenvalue is drawn that is known exactly
_OUTER = 0.25  # of the gap: how far beyond its last node a spectrum is drawn
_FINE = 0.05  # of the weight may have smaller gaps than the one that says how thin the thinnest are drawn
_ROOM = 2**20  # numbers that are worked on at once


@dataclass(frozen=True)
class Estimates:
    """Sums over all eigenvalues, with their standard errors over the probes (NaN for a single one).

    Attributes:
        trace: Sum of the eigenvalues.
        trace_stderr: Its standard error.
        frobenius: Root of the sum of their squares.
        frobenius_stderr: Its standard error, by the delta method.
    """

    trace: float
    trace_stderr: float
    frobenius: float
    frobenius_stderr: float


def cumulative(nodes: Values, weights: Values, x: Values) -> Values:
    """Share of the eigenvalues up to each x, (n,): the quadratures' own steps, nothing smoothed.

    Args:
        nodes: (r, m).
        weights: (r, m).
        x: Where, (n,); a node within rounding (1e-12 of the largest) counts as there.

    >>> cumulative(np.array([[1.0, 2.0]]), np.array([[0.25, 0.75]]), np.array([0.0, 1.0, 5.0])).tolist()
    [0.0, 0.25, 1.0]
    """
    order = np.argsort(nodes, axis=None)  # NaN last, and weighs nothing
    sums = np.concatenate([[0.0], np.cumsum(weights.ravel()[order])]) / len(nodes)
    return sums[np.searchsorted(nodes.ravel()[order], np.asarray(x) + _touch(nodes), side="right")]


def mass(nodes: Values, weights: Values, lo: float, hi: float) -> float:
    """Share of the eigenvalues in [lo, hi]; a node within rounding (1e-12 of the largest) of an end is inside.

    Args:
        nodes: (r, m).
        weights: (r, m).
        lo: The lower end.
        hi: The upper end.
    """
    inside = (nodes >= lo - _touch(nodes)) & (nodes <= hi + _touch(nodes))
    return float(np.sum(weights, where=inside) / len(nodes))


def moment(nodes: Values, weights: Values, p: int) -> Values:
    """Mean of the eigenvalues' p-th powers as each probe sees it, (r,): v' A^p v, exact to p = 2 m - 1.

    Args:
        nodes: (r, m).
        weights: (r, m).
        p: The power.
    """
    return np.sum(weights * np.nan_to_num(nodes) ** p, axis=1)


def estimates(nodes: Values, weights: Values, d: int, *, exact: bool = False) -> Estimates:
    """Trace and Frobenius norm of the operator.

    Args:
        nodes: (r, m).
        weights: (r, m).
        d: Its dimension.
        exact: Whether the probes are an orthonormal basis of the whole space (r = d): then nothing is left to chance.

    Raises:
        ValueError: If `exact` is claimed of another number of probes than d.
    """
    if exact and len(nodes) != d:
        raise ValueError(f"exact sums need as many probes as dimensions, {d}, but {len(nodes)} came; leave exact out")
    first, second = moment(nodes, weights, 1), moment(nodes, weights, 2)
    frobenius = float(np.sqrt(d * second.mean()))
    errors = (0.0, 0.0) if exact else (d * _stderr(first), d * _stderr(second))
    slope = 1 / (2 * frobenius) if frobenius else 0.0
    return Estimates(d * float(first.mean()), float(errors[0]), frobenius, float(errors[1]) * slope)


def widths(nodes: Values, weights: Values) -> Values:
    """How far around each node its weight is spread in a drawn density, (r, m), NaN where there is no node.

    A node stands for all eigenvalues up to its neighbours where Lanczos has not resolved them, and for one eigenvalue
    where it has. The residual of its Ritz pair tells which, and follows from nodes and weights alone: the last
    component of the i-th eigenvector of the Jacobi matrix is s_i = prod(betas) / (sqrt(w_i) |p'(node_i)|), p being the
    polynomial with these zeros (Parlett, The Symmetric Eigenvalue Problem, section 7.9), and the residual is beta_m
    s_i, where the geometric mean of the other betas stands for beta_m, which nodes and weights do not know. In a bulk
    that is not resolved the residual is about twice the gap between nodes.

    So the width is the residual; at most the smaller gap to a neighbour, or a quarter of it at both ends (the zeros of
    orthogonal polynomials lie 0.13 to 0.33 of it inside a hard edge); at least 1 % of the gap, so that an isolated
    eigenvalue, or many at zero, are thin spikes, and 1 % of a gap that is small among all (by weight, 5 % are smaller),
    so that copies of one are not infinitely thin. This rule is ours. Its kernels follow the local spacing; one of a
    fixed width loses the bulk as soon as an eigenvalue lies far outside.

    Args:
        nodes: (r, m).
        weights: (r, m).
    """
    found = np.full(nodes.shape, np.nan)
    for i in range(len(nodes)):
        own = np.isfinite(nodes[i])
        found[i, own] = _widths(nodes[i, own], weights[i, own])
    return found


def density(nodes: Values, weights: Values, x: Values, kernels: Values | None = None) -> tuple[Values, Values]:
    """Smoothed spectral density: a triangle over each node, of its weight.

    Nonnegative, its integral is 1, and it moves and scales with the operator.

    Args:
        nodes: (r, m).
        weights: (r, m).
        x: Where, (n,).
        kernels: Half of each triangle's base, (r, m), not 0; `widths` unless given.

    Returns:
        The mean over the probes, (n,), per unit of x, and its standard error, (n,), NaN for a single probe.
    """
    x = np.asarray(x, np.float64)
    half = widths(nodes, weights) if kernels is None else kernels
    rows = np.empty((len(nodes), x.size))
    room = max(1, _ROOM // nodes.shape[1])
    for start in range(0, x.size, room):
        part = slice(start, start + room)
        for i in range(len(nodes)):
            own = np.isfinite(nodes[i])
            away = np.abs(x[part, None] - nodes[i, own]) / half[i, own]
            rows[i, part] = np.maximum(0.0, 1 - away) @ (weights[i, own] / half[i, own])
    return rows.mean(axis=0), _stderr(rows)


def _linthresh(nodes: Values, weights: Values) -> float:
    """Where a symmetric-log axis turns linear: 10 % of the eigenvalues that are not zero are smaller in magnitude.

    Args:
        nodes: (r, m).
        weights: (r, m).

    Returns:
        At least 1e-6 of the largest magnitude; 1 if all are zero.
    """
    sizes = np.abs(np.nan_to_num(nodes)).ravel()
    order = np.argsort(sizes)
    sizes, share = sizes[order], np.where(sizes > _SAME * sizes.max(), weights.ravel(), 0.0)[order].cumsum()
    return float(max(sizes[np.searchsorted(share, 0.1 * share[-1])], 1e-6 * sizes[-1])) or 1.0


def grid(nodes: Values, weights: Values, n: int, scale: Literal["linear", "symlog"] = "linear") -> Values:
    """Where to draw a density: points spread over the axis, and more of them where the nodes are.

    Args:
        nodes: (r, m).
        weights: (r, m).
        n: How many points.
        scale: Of the axis; "symlog" is linear where 10 % of the nonzero eigenvalues lie.

    Returns:
        Ascending, (n,). Thin spikes have a point on the top and on either foot, as long as these are half of all.

    Raises:
        ValueError: If the scale is another one.
    """
    if scale not in {"linear", "symlog"}:
        raise ValueError(f'the scale "linear" or "symlog" was wanted, but {scale!r} came; choose one of them')
    bend = _linthresh(nodes, weights) if scale == "symlog" else np.inf
    triangles = _triangles(nodes, widths(nodes, weights))  # (3, p), the loneliest first
    corners = np.sort(triangles, axis=None)
    near = [triangles[:, : n // 12].ravel(), corners[np.linspace(0, corners.size - 1, n // 4).round().astype(int)]]
    lo, hi = _bent(corners[[0, -1]], bend)
    margin = 0.02 * (hi - lo)
    even = np.linspace(lo - margin, hi + margin, n - sum(map(len, near)))
    return np.sort(np.concatenate([*near, _straight(even, bend)]))


def _triangles(nodes: Values, half: Values) -> Values:
    """Left, middle and right of each distinct kernel, (3, p), the loneliest first: an even grid steps over them."""
    order = np.argsort(nodes, axis=None)[: np.isfinite(nodes).sum()]
    middle, half = nodes.ravel()[order], half.ravel()[order]
    new = np.diff(middle, prepend=-np.inf) > 1e-9 * np.ptp(middle)
    middle, half = middle[new], half[new]
    gaps = np.diff(middle, prepend=-np.inf, append=np.inf)
    order = np.argsort(half / np.minimum(gaps[:-1], gaps[1:]), kind="stable")
    return np.stack([middle - half, middle, middle + half])[:, order]


def _widths(nodes: Values, weights: Values) -> Values:
    """Those of one probe, (m,)."""
    span = np.ptp(nodes)
    if not span:
        return np.full(nodes.size, _THIN * (abs(nodes[0]) or 1.0))
    away = np.abs(nodes - nodes[:, None])
    away[away <= _SAME * span] = np.nan  # itself, and copies
    gaps = np.nanmin(away, axis=1)
    outer = np.minimum(nodes - nodes.min(), nodes.max() - nodes) <= _SAME * span
    order = np.argsort(gaps)
    typical = gaps[order][np.searchsorted(np.cumsum(weights[order]), _FINE)]
    widest = gaps * np.where(outer, _OUTER, 1.0)
    return np.maximum(np.clip(_residuals(away, weights), _THIN * gaps, widest), _THIN * typical)


def _residuals(away: Values, weights: Values) -> Values:
    """Of the Ritz pairs, (m,), from the distances of the nodes, (m, m), and the weights, (m,); see `widths`."""
    logs = -np.log(np.maximum(weights, np.finfo(np.float64).tiny)) - 2 * np.nansum(np.log(away), axis=1)
    total = logsumexp(logs)  # -2 log prod(betas)
    return np.exp((logs - total) / 2 - total / (2 * (weights.size - 1)))


def _bent(x: Values, bend: float) -> Values:
    """Places on a symmetric-log axis that is linear up to `bend`, and continuous there with its slope."""
    if np.isinf(bend):
        return x
    return np.sign(x) * np.where(np.abs(x) < bend, np.abs(x) / bend, 1 + np.log(np.maximum(np.abs(x), bend) / bend))


def _straight(places: Values, bend: float) -> Values:
    """What `_bent` sent to these places."""
    if np.isinf(bend):
        return places
    size = np.abs(places)
    return bend * np.sign(places) * np.where(size < 1, size, np.exp(np.maximum(size, 1) - 1))


def _touch(nodes: Values) -> float:
    return _ROUNDING * float(np.nanmax(np.abs(nodes)))


def _stderr(rows: NDArray[Any]) -> Any:
    """Standard error of the mean over the first axis, NaN for one row."""
    if len(rows) == 1:
        return np.full(rows.shape[1:], np.nan)
    return rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
