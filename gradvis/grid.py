"""The points of a surface: how many on each axis, and from where to where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from gradvis.arrays import Values
from gradvis.plane import Plane

AXES = ("alpha", "beta", "gamma")
RESOLUTIONS = {1: 201, 2: 51, 3: 21}
_MOST = 10**6  # points an axis; ours: more are a slip of the finger
# Between checkpoints, half a step beyond each of them is seen too.
_MARGIN = 0.2  # contract: a principal plane shows its path's box and 20 % more
SPANS: Mapping[str, tuple[float, float]] = {"between": (-0.5, 1.5)}

Span = float | tuple[float, float]


def grid(k: int, span: Span | Sequence[Span] = 1.0, resolution: int | Sequence[int] | None = None) -> dict[str, Values]:
    """The points of each axis, by name.

    Args:
        k: Dimensions of the plane.
        span: From -span to span, or (from, to); one for all axes or one each.
        resolution: Points on an axis, likewise; 201, 51, 21 for 1, 2, 3 dimensions.

    Raises:
        ValueError: If there is another number of them, or an axis would have no extent.

    >>> {name: points.tolist() for name, points in grid(2, [1.0, (0.0, 2.0)], 3).items()}
    {'alpha': [-1.0, 0.0, 1.0], 'beta': [0.0, 1.0, 2.0]}
    """
    sizes = _each(RESOLUTIONS[k] if resolution is None else resolution, k, "resolution")
    spans = _each([span] * k if _is_pair(span) else span, k, "span")
    return {name: _axis(*pair) for name, *pair in zip(AXES[:k], spans, sizes, strict=True)}


def grid_on(
    plane: Plane, span: Span | Sequence[Span] | None = None, resolution: int | Sequence[int] | None = None
) -> dict[str, Values]:
    """`grid` for a plane, whose kind gives the span where none is named.

    Raises:
        ValueError: If it has no dimension, or more than three.
    """
    if plane.k not in RESOLUTIONS:
        raise ValueError(f"a surface lies on a plane of 1, 2 or 3 dimensions, but this one has {plane.k}")
    if span is None and "box" in plane.about:
        span = around(plane.about["box"])
    if span is None:
        span = plane.about.get("span")
    return grid(plane.k, SPANS.get(str(plane.about.get("kind")), 1.0) if span is None else span, resolution)


def around(box: Sequence[Sequence[float]], margin: float = _MARGIN) -> list[tuple[float, float]]:
    """A span for each axis of a path's box, with a share of its extent more on each side.

    An axis along which the path does not move is as long as the longest one.

    Raises:
        ValueError: If the margin is negative or no number.

    >>> around([[0.0, 10.0], [-1.0, 0.0]])
    [(-2.0, 12.0), (-1.2, 0.2)]
    """
    if not (np.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin is a share of the path's extent, 0 or more, but {margin:g} came; give one as 0.2")
    longest = max((high - low for low, high in box), default=0) or 1.0
    wide = [(low, high) if high > low else (low - longest / 2, high + longest / 2) for low, high in box]
    return [(low - margin * (high - low), high + margin * (high - low)) for low, high in wide]


def _is_pair(span: Any) -> bool:
    return isinstance(span, tuple) and len(span) == 2 and all(isinstance(end, Real) for end in span)


def _each(given: Any, k: int, what: str) -> list[Any]:
    values = list(given) if isinstance(given, (Sequence, np.ndarray)) else [given] * k
    if len(values) != k:
        raise ValueError(f"{what} takes one value, or one for each of the {k} dimensions, but {len(values)} came")
    return values


def _axis(span: Span, size: int) -> Values:
    low, high = map(float, span) if isinstance(span, tuple) else (0.0 - float(span), float(span))
    if not (np.isfinite(high - low) and low < high):
        raise ValueError(f"span must run from a number up to a larger one, but it runs from {low:g} to {high:g}")
    if not isinstance(size, Real) or not 2 <= size <= _MOST or size != int(size):
        wanted = "at least 2" if not isinstance(size, Real) or not size > _MOST else f"at most {_MOST}"
        raise ValueError(f"resolution must be a whole number, {wanted}, but {size!r} came; give the points an axis has")
    points = np.linspace(low, high, int(size))
    if np.any(np.diff(points) <= 0):
        raise ValueError(f"span from {low!r} to {high!r} has no room for {size} numbers; make it wider")
    points[np.abs(points) < 1e-12 * (high - low)] = 0.0  # the centre, where rounding missed it
    return points
