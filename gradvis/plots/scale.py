"""How values become heights and colours: linear or logarithmic, the range that is shown, the level numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isclose, log10

import numpy as np

from gradvis.arrays import Values
from gradvis.plots.view import View
from gradvis.plots.words import tidy

_MARGIN = 0.04


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
        """Heights of values: cut to the range; their decimal logarithm on a log scale, else what labels count.

        So heights differ by more than float32 can tell apart, in which browsers draw.
        """
        cut = np.clip(np.asarray(values, np.float64), self.low, self.high)
        return np.log10(cut) if self.log else (cut - self.offset) / self.unit

    @property
    def extend(self) -> str:
        """Where values were cut, in the word that matplotlib has for it."""
        return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(
            (self.under, self.over), "both"
        )

    @property
    def offset(self) -> float:
        """What labels count from: 0, or `low` where the range is so small that they would look alike."""
        small = self.high - self.low < 1e-4 * max(abs(self.low), abs(self.high))
        return self.low if small and self.low < self.high and not self.log else 0.0

    @property
    def unit(self) -> float:
        """What labels count in: 1, or a power of ten where they count from an offset."""
        return 10.0 ** floor(log10(self.high - self.low)) if self.offset else 1.0

    def levels(self, most: int) -> list[float]:
        """Round numbers within the range, ascending, at most `most` or so; none if the surface is constant."""
        if self.low == self.high:
            return []
        if self.offset:
            return [self.offset + level for level in _linear_levels(0.0, self.high - self.low, most)]
        levels = _log_levels(self.low, self.high, most) if self.log else []
        return levels if len(levels) > 2 else _linear_levels(self.low, self.high, most)

    def texts(self, levels: list[float]) -> list[str]:
        """Labels of levels, counted from `offset` in `unit`; all different, and no longer than that takes."""
        if self.offset:
            return [tidy(f"{(level - self.offset) / self.unit:.2g}") for level in levels]
        digits = next(n for n in range(4, 18) if all(isclose(round_to(level, n), level) for level in levels))
        return [tidy(f"{level:.{digits}g}") for level in levels]

    def bands(self) -> Values:
        """Heights between which a contour has one colour: three bands from level to level, ascending."""
        low, high = float(self.draw(self.low)), float(self.draw(self.high))
        if low == high:
            room = 0.05 * max(abs(low), 1e-12)
            return np.array([low - room, low + room])
        at = self.draw(np.array(self.levels(10)))
        between = np.interp(np.arange(0, max(len(at) - 1, 0) + 0.1, 1 / 3), np.arange(len(at)), at)
        return np.unique([low, *between[(between > low) & (between < high)], high])

    @property
    def counted(self) -> str:
        """What to add to the name of the metric where labels count from an offset."""
        sign = "+" if self.offset < 0 else "−"
        return f"\n{sign} {tidy(f'{abs(self.offset):.9g}')}, in {tidy(f'{self.unit:g}')}" if self.offset else ""


def round_to(value: float, digits: int) -> float:
    """A value rounded to significant digits."""
    return float(f"{value:.{digits}g}")


def scale(values: Values, log: bool | None = None) -> Scale:
    """The scale that shows these values best.

    Logarithmic if all of them are above zero and the largest is over 100 times the smallest (ours).
    The range is that of the values unless they have outliers, see `_range`.

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


def uncut(values: Values, log: bool | None = None) -> Scale:
    """The scale of losses over training, with all of them in its range: a spike is what is looked for.

    Raises:
        ValueError: If a logarithmic scale is wanted and a value is zero or negative.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Scale(False, 0.0, 0.0)
    return Scale(scale(finite, log).log, float(finite.min()), float(finite.max()))


def scale_of_curves(views: Sequence[View], log: bool | None = None) -> Scale:
    """The scale of curves on one axes, with room for their standard errors.

    Raises:
        ValueError: If a logarithmic scale is wanted and a value is zero or negative.
    """
    values = np.concatenate([seen.values for seen in views])
    found = scale(values, log)
    errors = np.concatenate([np.zeros(seen.values.size) if seen.stderr is None else seen.stderr for seen in views])
    # An error as large as the value has its lower edge at no height of a logarithmic axis.
    below = np.maximum(values - errors, values / 2) if found.log else values - errors
    return scale(np.concatenate([below, values, values + errors]), found.log)


def limits(scale: Scale) -> tuple[float, float]:
    """The ends of an axis with this range, with a margin."""
    if scale.log:
        room = (scale.high / scale.low) ** _MARGIN
        return scale.low / room, scale.high * room
    more = _MARGIN * (scale.high - scale.low)
    return scale.low - more, scale.high + more


def _range(heights: Values) -> tuple[float, float]:
    """The range worth showing (ours, tuned by eye).

    Minima are what a surface is drawn for: they are cut only a hundred times the span of the middle 90 % below it.
    Peaks are cut if they lie over three times as far above the 95th percentile as that is above the lowest value.
    """
    few, many = np.percentile(heights, [5, 95])
    if few == many:
        return float(heights.min()), float(heights.max())
    low, high = max(heights.min(), few - 100 * (many - few)), heights.max()
    return float(low), float(high if high - many <= 3 * (many - low) else many + (many - low) / 2)


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
