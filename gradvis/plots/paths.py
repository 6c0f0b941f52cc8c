"""What a picture shows of paths: their values, drops of the learning rate, direction of travel, moments of a film."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from gradvis.arrays import Values
from gradvis.plots.palette import LINES
from gradvis.plots.scale import Scale, scale_of_curves, uncut
from gradvis.plots.view import View
from gradvis.plots.words import number
from gradvis.tracks import Track

_DROP = 2.0  # ours: a step of a schedule is worth a mark, a slow decay is not
_ARROWS = 5
LIFT = 0.012  # of the heights: above the sheet, yet on it to the eye
_FINE = 400  # points of a path laid on a sheet


def own(track: Track, metric: str) -> Values:
    """A metric of the checkpoints themselves, (t,); NaN where it was not measured or is not finite."""
    return _finite(track, track.own.get(metric))


def on_plane(track: Track, metric: str) -> Values:
    """A metric of the checkpoints' places on the plane, (t,); NaN where it was not measured or is not finite."""
    return _finite(track, track.plane.get(metric))


def _finite(track: Track, values: Values | None) -> Values:
    if values is None:
        return np.full(len(track.labels), np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def diverged(track: Track, metric: str) -> NDArray[np.bool_]:
    """Which checkpoints have a metric that is not finite, (t,); none where it was not measured at all."""
    values = track.own.get(metric)
    if values is None or np.isnan(values).all():
        return np.zeros(len(track.labels), bool)
    return ~np.isfinite(values)


def scale_over_line(seen: View, metric: str, log: bool | None) -> Scale:
    """The heights of a curve and of the checkpoints that are drawn over it, by their own values.

    Raises:
        ValueError: If a logarithmic scale is wanted and a value is zero or negative.
    """
    if not seen.tracks:
        return scale_of_curves([seen], log)
    return uncut(np.concatenate([seen.values, *(own(track, metric) for track in seen.tracks)]), log)


def color(run: int) -> str:
    """The colour of one of several runs."""
    return LINES[run % len(LINES)]


def drops(track: Track) -> NDArray[np.intp]:
    """The checkpoints that are the first after the learning rate fell, to a half or less of the one before.

    >>> ones = np.ones(4)
    >>> track = Track("a", ones, ("", ) * 4, ones[:, None], ones, {}, {}, np.array([0.1, 0.1, 0.05, 0.04]))
    >>> drops(track).tolist()
    [2]
    """
    rates = track.learning_rate
    if rates is None:
        return np.zeros(0, np.intp)
    before, after = rates[:-1], rates[1:]
    return np.flatnonzero((after > 0) & (_DROP * after <= before * (1 + 1e-9))) + 1


def drops_told(tracks: Sequence[Track]) -> str:
    """What the legend says of drops: the rates, where one run has few; nothing if there are none."""
    found = [drops(track) for track in tracks]
    if not any(each.size for each in found):
        return ""
    rates = tracks[0].learning_rate
    if len(tracks) > 1 or rates is None:
        return "learning rate falls"
    at = found[0]
    told = [number(float(rates[at[0] - 1])), *(number(float(rates[i])) for i in at)]
    short = told if len(told) <= 4 else [told[0], "…", f"{told[-1]} ({len(at)} drops)"]
    return "learning rate " + " → ".join(short)


def arrows(points: Values, count: int = _ARROWS) -> list[tuple[Values, Values]]:
    """Short strokes that show the direction of travel, evenly along a path: where each begins and ends.

    Args:
        points: The path, (t, k), in units in which the picture has equal lengths.
        count: How many.

    >>> [(tail, head)] = arrows(np.array([[0.0, 0.0], [4.0, 0.0]]), 1)
    >>> head.round(2).tolist()
    [2.0, 0.0]
    """
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    if not length[-1] > 0:
        return []
    ahead = (np.arange(count) + 0.5) * length[-1] / count
    near = 0.02 * np.linalg.norm(np.ptp(points, axis=0))  # the noise of small steps is no direction

    def at(place: float) -> Values:
        return np.array([np.interp(place, length, axis) for axis in points.T])

    strokes = [(at(place - near), at(place)) for place in ahead]
    return [(tail, head) for tail, head in strokes if np.linalg.norm(head - tail) > 0.25 * near]


def moments(tracks: Sequence[Track], most: int) -> Values:
    """Steps of training at which a film or a slider stops, ascending, at most so many; the last one is the end."""
    steps = np.unique(np.concatenate([track.steps for track in tracks]))
    steps = steps[np.isfinite(steps)]
    if len(steps) <= most:
        return steps
    return steps[np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))]


def reached(track: Track, step: float) -> int:
    """How many checkpoints a run has at a step."""
    return int(np.searchsorted(track.steps, step, side="right"))


def laid(track: Track, metric: str, seen: View, scale: Scale) -> tuple[Values, NDArray[np.intp]]:
    """A path as it lies on a sheet: through the plane's values at checkpoints, along the sheet between them.

    It is lifted a little, and nowhere below the sheet, whose grid may be too coarse for its valley.

    Args:
        track: The run, k = 2.
        metric: The heights.
        seen: The sheet.
        scale: Its heights.

    Returns:
        Points x, y and height, (n, 3), in the units of the picture; and which of them are checkpoints, (t,).
    """
    heights = scale.draw(on_plane(track, metric))
    fine = ceil(_FINE / max(len(heights) - 1, 1))
    share = np.arange((len(heights) - 1) * fine + 1) / fine
    whole = np.arange(len(heights))
    points = np.array([np.interp(share, whole, axis) for axis in track.coords.T]).T
    sheet = _sheet(seen, scale)
    ground = sheet(track.coords)
    offsets = np.where(np.isfinite(heights - ground), heights - ground, 0.0)
    along = sheet(points)
    between = np.interp(share, whole, heights)  # beside the sheet
    over = np.where(np.isfinite(along), along + np.maximum(np.interp(share, whole, offsets), 0.0), between)
    low, high = scale.bands()[[0, -1]]
    return np.column_stack([points, over + LIFT * (high - low)]), whole * fine


def hidden(points: Values, seen: View, scale: Scale, towards: Values) -> NDArray[np.bool_]:
    """Which points lie behind a sheet for an eye far away.

    Args:
        points: Places over the sheet, (n, 3), in the units of the picture.
        seen: The sheet.
        scale: Its heights.
        towards: A step towards the eye, (3,), as long as the box of the picture is wide.
    """
    rays = points[:, None] + np.linspace(0.02, 1.5, 75)[:, None] * towards  # (n, 75, 3)
    found: NDArray[np.bool_] = (_sheet(seen, scale)(rays[..., :2]) > rays[..., 2]).any(axis=1)
    return found


def best_eye(seen: View, metric: str, scale: Scale, eyes: Sequence[Sequence[float]], tall: float) -> int:
    """Which eye sees the most checkpoints of the paths on a sheet; the first of several that see as many.

    Args:
        seen: The sheet and its paths.
        metric: The heights.
        scale: How they are drawn.
        eyes: Directions from the box to an eye, x, y and z.
        tall: The height of the box, which is 1 wide and deep.
    """
    low, high = scale.bands()[[0, -1]]
    unit = np.array([np.ptp(seen.axes[0]), np.ptp(seen.axes[1]), (high - low) / tall])
    paths = [points[at] for points, at in (laid(track, metric, seen, scale) for track in seen.tracks)]
    places = np.concatenate([np.empty((0, 3)), *paths])
    behind = [hidden(places, seen, scale, unit * np.array(eye) / np.linalg.norm(eye)).sum() for eye in eyes]
    return int(np.argmin(behind))


def _sheet(seen: View, scale: Scale) -> RegularGridInterpolator:
    return RegularGridInterpolator(seen.axes, scale.draw(seen.values), bounds_error=False, fill_value=np.nan)
