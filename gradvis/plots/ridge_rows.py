"""Heights of densities that stand one below the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradvis.arrays import Values
from gradvis.plots.spectra import Curve

OVERLAP = 1.7  # a ridge is so many rows high


def span(curves: Sequence[Curve]) -> tuple[float, float]:
    """The densities that all ridges go from and to."""
    return min(each.least for each in curves), max(each.most for each in curves)


def rows_of(curves: Sequence[Curve]) -> list[Values]:
    """The heights of ridges in rows, 0 to `OVERLAP`: logarithms of the densities."""
    low, high = span(curves)
    return [OVERLAP * np.log10(each.y.clip(low) / low) / np.log10(high / low) for each in curves]


def crest(heights: Values) -> Values:
    """What is drawn as a line over a ridge: NaN where it lies flat on its base.

    >>> crest(np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])).tolist()
    [nan, 0.0, 1.0, 0.0, nan, nan]
    """
    up = np.pad(heights > 0, 1)
    return np.where(up[:-2] | up[1:-1] | up[2:], heights, np.nan)
