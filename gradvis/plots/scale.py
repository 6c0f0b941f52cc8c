"""How values become heights and colours: linear or logarithmic, the range that is shown, the level numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, isclose, log10

import numpy as np

from gradvis.arrays import Values
from gradvis.plots.view import tidy


@dataclass(frozen=True)
class Scale:
    """The range of a picture, in units of the metric.

    Attributes:
        log: Whether heights and colours are decimal logarithms.
        low: Values below are drawn as this one.
        high: Values above are drawn as this one.
        under: Whether there are values below `low`.
        over: Whether there are values above `high`.
    """

    log: bool
    low: float
    high: float
    under: bool = False
    over: bool = False

    def draw(self, values: Values | float) -> Values:
        """Heights of values: cut to the range, and their decimal logarithm on a log scale."""
        cut = np.clip(np.asarray(values, np.float64), self.low, self.high)
        return np.log10(cut) if self.log else cut

    @property
    def extend(self) -> str:
        """Where values were cut, in the word that matplotlib has for it."""
        return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(
            (self.under, self.over), "both"
        )

    def levels(self, most: int) -> list[float]:
        """Round numbers within the range, ascending, at most `most` of them; none if the surface is constant."""
        if self.low == self.high:
            return []
        logarithmic = _log_levels(self.low, self.high, most) if self.log else []
        return logarithmic if len(logarithmic) > 2 else _linear_levels(self.low, self.high, most)

    @property
    def offset(self) -> float:
        """What levels are counted from: 0, or the low end where the range is so small that labels would look alike."""
        return self.low if not self.log and 0 < self.high - self.low < 1e-5 * max(abs(self.low), abs(self.high)) else 0.0

    def texts(self, levels: list[float]) -> list[str]:
        """Labels of levels, distinguishable and no longer than that takes."""
        if self.offset:
            return [tidy(f"{level - self.offset:+.2g}") for level in levels]
        digits = next(n for n in range(4, 18) if all(isclose(round_to(level, n), level) for level in levels))
        return [tidy(f"{level:.{digits}g}") for level in levels]


def round_to(value: float, digits: int) -> float:
    """A value rounded to significant digits."""
    return float(f"{value:.{digits}g}")


def scale(values: Values, log: bool | None = None) -> Scale:
    """The scale that shows these values best.

    Logarithmic if all of them are above zero and the largest is over 100 times the smallest (ours).
    The range is that of the values, but for outliers: it reaches no further above the 95th
    percentile than that is above the smallest value, and no further below the 5th than ten times
    the distance of the two (ours). Minima are what a surface is drawn for, so they are cut last.

    Args:
        values: Of any shape; NaN is left out.
        log: The scale wanted; None chooses it.

    Raises:
        ValueError: If a logarithmic scale is wanted and a value is zero or negative.

    >>> scale(np.array([0.05, 1.0, 30.0])).log, scale(np.array([0.0, 1.0, 3000.0])).log
    (True, False)
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Scale(False, 0.0, 0.0)
    least, most = float(finite.min()), float(finite.max())
    if log and least <= 0:
        raise ValueError(f"a logarithmic scale needs values above zero, but the smallest is {least:.4g}; use log=False")
    if log is None:
        log = 0 < least < most / 100
    if most - least <= 8 * np.finfo(np.float64).eps * max(abs(least), abs(most)):
        return Scale(log, least, least)  # constant but for rounding
    low, high = _range(np.log10(finite) if log else finite)
    if log:
        low, high = 10**low, 10**high
    # The ends of an uncut range are exact, not what the logarithm made of them.
    under, over = low > least * (1 + 1e-9 * np.sign(least)), high < most * (1 - 1e-9 * np.sign(most))
    return Scale(log, low if under else least, high if over else most, bool(under), bool(over))


def _range(heights: Values) -> tuple[float, float]:
    few, many = np.percentile(heights, [5, 95])
    if few == many:
        return float(heights.min()), float(heights.max())
    low = max(heights.min(), few - 10 * (many - few))
    return float(low), float(min(heights.max(), many + (many - low)))


def _linear_levels(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    unit = 10.0 ** floor(log10(rough))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * (1 - 1e-12))
    return [round_to(i * step, 15) for i in range(ceil(low / step), floor(high / step) + 1)]


def _log_levels(low: float, high: float, most: int) -> list[float]:
    """1 2 5 10, or 1 3 10, or every so many decades: the densest that is not too many."""
    first, last = floor(log10(low)), ceil(log10(high))
    for digits in ((1, 2, 5), (1, 3), (1,)):
        levels = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in digits]
        inside = [level for level in levels if low <= level <= high]
        if len(inside) <= most:
            return inside
    return inside[:: ceil(len(inside) / most)]
