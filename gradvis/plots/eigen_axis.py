"""The axis of eigenvalues: linear, or logarithmic to both sides of a small linear part around zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Literal

import numpy as np

from gradvis import quadrature
from gradvis.arrays import Values
from gradvis.plots.words import number

_DECADES = 2.0  # ours: an axis that spans more is logarithmic
_SMALL = 0.1  # the share of eigenvalues that may lie in the linear part
_ZERO = 1e-9  # of the largest: what is below is a zero
_MOST = 8  # decades to one side
_MARGIN = 0.03


@dataclass(frozen=True)
class Axis:
    """Where eigenvalues are drawn.

    Attributes:
        log: Symmetric-logarithmic, else linear.
        threshold: Within it to both sides of zero a symmetric-logarithmic axis is linear.
        low: Its left end.
        high: Its right end.
    """

    log: bool
    threshold: float
    low: float
    high: float

    @property
    def scale(self) -> Literal["linear", "symlog"]:
        """What `gradvis.quadrature.grid` calls it."""
        return "symlog" if self.log else "linear"

    @property
    def label(self) -> str:
        """What stands along it."""
        return f"eigenvalue (symmetric-log axis, linear within ±{number(self.threshold)})" if self.log else "eigenvalue"

    @property
    def label_short(self) -> str:
        """The same where there is little room."""
        return f"eigenvalue\n(symlog, linear to ±{number(self.threshold)})" if self.log else "eigenvalue"

    def draw(self, x: Values | float) -> Values:
        """Where eigenvalues are on paper: decades from the threshold, as matplotlib's symlog with linscale 0.9 has it.

        >>> Axis(True, 0.1, -1.0, 10.0).draw(np.array([-1.0, 0.05, 0.1, 10.0])).tolist()
        [-2.0, 0.5, 1.0, 3.0]
        """
        values = np.asarray(x, np.float64)
        if not self.log:
            return values
        size = np.abs(values) / self.threshold
        return np.sign(values) * np.where(size <= 1, size, 1 + np.log10(np.maximum(size, 1)))

    def undraw(self, places: Values) -> Values:
        """The eigenvalues that are drawn there."""
        if not self.log:
            return places
        size = np.abs(places)
        return np.sign(places) * self.threshold * np.where(size <= 1, size, 10.0 ** (np.maximum(size, 1) - 1))

    def limits(self) -> tuple[float, float]:
        """Its ends, with a margin, in eigenvalues."""
        ends = self.draw(np.array([self.low, self.high]))
        room = _MARGIN * float(ends[1] - ends[0])
        low, high = self.undraw(ends + np.array([-room, room])).tolist()
        return low, high

    def ticks(self, most: int = 9) -> list[float]:
        """Zero and powers of ten within its limits, ascending, evenly spaced; none on a linear axis.

        >>> Axis(True, 0.1, -1.0, 100.0).ticks(), Axis(True, 0.1, -1.0, 100.0).ticks(most=3)
        ([-1.0, -0.1, 0.0, 0.1, 1.0, 10.0, 100.0], [-1.0, 0.0, 1.0, 100.0])
        """
        if not self.log:
            return []
        low, high = self.limits()
        first = round(log10(self.threshold))
        counts = [floor(log10(max(end / self.threshold, 0.1)) + 1e-9) + 1 for end in (-low, high)]
        every = max(1, ceil(sum(counts) / most))
        below, above = ([10.0 ** (first + i) for i in range(every - 1, count, every)] for count in counts)
        return [*(-each for each in reversed(below)), *([0.0] if low <= 0 <= high else []), *above]


def axis(parts: Sequence[tuple[Values, Values]], log: bool | None = None) -> Axis:
    """The axis that shows the bulk and the outliers of some spectra.

    Symmetric-logarithmic if the largest eigenvalue is over 100 times the size of the median one that is not zero
    (ours). It is linear where the smallest tenth of these lies, or where kernels are so wide that nothing finer is
    known.

    Args:
        parts: Nodes and weights of each, (r, m).
        log: The axis wanted; None chooses it.
    """
    nodes, weights, kernels = (
        np.concatenate([each.ravel() for each in all_])
        for all_ in zip(*((nodes, weights, quadrature.widths(nodes, weights)) for nodes, weights in parts), strict=True)
    )
    there = np.isfinite(nodes) & (weights > 0)
    nodes, weights, kernels = nodes[there], weights[there], kernels[there]
    sizes = np.maximum(np.abs(nodes), kernels)
    low, high, top = float((nodes - kernels).min()), float((nodes + kernels).max()), float(np.abs(nodes).max())
    some = np.abs(nodes) > _ZERO * top
    if not some.any():
        return Axis(False, 1.0, low - 1, high + 1)  # all are zero
    small, median = _quantiles(sizes[some], weights[some], (_SMALL, 0.5))
    if log is None:
        log = bool(top > 10**_DECADES * median)
    threshold = 10.0 ** min(ceil(log10(max(small, top * 10.0**-_MOST))), floor(log10(top / 2)))
    room = 0.5 * abs(low) if low == high else 0.0
    return Axis(log, threshold, low - room, high + room)


def _quantiles(values: Values, weights: Values, shares: Sequence[float]) -> list[float]:
    """The least values with such shares of the weight at or below them."""
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    at = np.searchsorted(total, np.asarray(shares) * total[-1])
    return [float(each) for each in values[order][at]]
