"""Training over its steps, in matplotlib axes: true loss and plane loss, and the distance from the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox, TransformedBbox

from gradvis.arrays import Values
from gradvis.plots.curves import frame
from gradvis.plots.marks import legend
from gradvis.plots.palette import LINES
from gradvis.plots.paths import color, diverged, drops, on_plane, own, reached
from gradvis.plots.scale import Scale, uncut
from gradvis.plots.trails import Grow, step_colors
from gradvis.tracks import Track

_DOTS = 60  # more would hide the line
_LETTERS = 40  # of a legend, above a panel that has less than half a page


def losses(
    ax: Any, tracks: Sequence[Track], metric: str, label: str, log: bool | None, complete: bool = True
) -> list[Grow]:
    """A metric of the checkpoints themselves, and dashed that of their places on the plane; shaded between.

    Args:
        ax: The axes.
        tracks: The runs.
        metric: Which.
        label: What it is called.
        log: Logarithmic or linear; None for the rule of `gradvis.plots.scale.scale`.
        complete: Whether all is measured: what is not finite then diverged.
    """
    pairs = [(own(track, metric), on_plane(track, metric)) for track in tracks]
    frame(ax, steps_of(tracks), uncut(np.concatenate([each for pair in pairs for each in pair]), log))
    room(ax, tracks)
    ax.set_ylabel(label)
    if not any(np.isfinite(each).any() for pair in pairs for each in pair):
        ax.text(0.5, 0.5, f"no finite {metric}", transform=ax.transAxes, ha="center", va="center", color="0.4")
    found, faint = [], 0.18 if len(tracks) == 1 else 0.08
    for run, (track, (true, plane)) in enumerate(zip(tracks, pairs, strict=True)):
        tones = (color(run), color(run)) if len(tracks) > 1 else LINES[:2]
        found += [_line(ax, track, true, tones[0], "-"), _line(ax, track, plane, tones[1], "--")]
        between = ax.fill_between(track.steps, true, plane, color=tones[-1], alpha=faint, linewidth=0)
        found.append(_clipped(ax, between))
        if complete:
            found.append(_crosses(ax, track, metric, tones[0]))
        _falls(ax, track, tones[0] if len(tracks) > 1 else "0.5")
    legend(ax, _entries(tracks, metric, pairs, complete), letters=_LETTERS)
    return found


def _entries(
    tracks: Sequence[Track], metric: str, pairs: Sequence[tuple[Values, Values]], complete: bool
) -> list[Line2D]:
    tones = ("0.2", "0.2") if len(tracks) > 1 else LINES[:2]
    strokes: Any = ({"linestyle": "-"}, {"linestyle": "--"})
    said = [
        Line2D([], [], color=tone, label=label, **dashes)
        for tone, dashes, label, values in zip(
            tones, strokes, (f"true {metric}", "on the plane"), zip(*pairs, strict=True), strict=True
        )
        if np.isfinite(np.concatenate(values)).any()
    ]
    if complete and any(diverged(track, metric).any() for track in tracks):
        said.append(Line2D([], [], color=tones[0], marker="x", linestyle="none", label="diverged"))
    return said


def distances(ax: Any, tracks: Sequence[Track]) -> list[Grow]:
    """How far each checkpoint lies off the plane."""
    off = [np.where(np.isfinite(track.off_plane), track.off_plane, np.nan) for track in tracks]
    most = np.nanmax(np.concatenate([np.zeros(1), *off]))
    frame(ax, steps_of(tracks), Scale(False, 0.0, 0.0))
    room(ax, tracks)
    ax.set_ylim(0, 1.08 * most if most > 0 else 1.0)
    ax.set_ylabel("distance off\nthe plane")
    ax.locator_params(axis="y", nbins=3)
    found = []
    for run, (track, values) in enumerate(zip(tracks, off, strict=True)):
        tone = color(run) if len(tracks) > 1 else "0.25"
        found.append(_line(ax, track, values, tone, "-"))
        _falls(ax, track, tone if len(tracks) > 1 else "0.5")
    return found


def strip(ax: Any, tracks: Sequence[Track]) -> None:
    """The colours of steps along the axis of steps."""
    colors, norm = step_colors(tracks)
    edges = np.linspace(norm.vmin or 0.0, norm.vmax or 1.0, 257)
    ax.pcolormesh(edges, [0, 1], ((edges[:-1] + edges[1:]) / 2)[None], cmap=colors, norm=norm, rasterized=True)
    ax.set_yticks([])
    room(ax, tracks)


def steps_of(tracks: Sequence[Track]) -> Values:
    """All steps of all runs."""
    return np.concatenate([track.steps for track in tracks])


def room(ax: Any, tracks: Sequence[Track]) -> None:
    """Limits with a margin; a single checkpoint stands in the middle."""
    steps = steps_of(tracks)
    low, high = float(np.nanmin(steps)), float(np.nanmax(steps))
    margin = 0.03 * (high - low) or 0.5
    ax.set_xlim(low - margin, high + margin)
    ax.locator_params(axis="x", nbins=5)


def _line(ax: Any, track: Track, values: Values, tone: str, dashes: str) -> Grow:
    dot = {"marker": "o", "markersize": 0.3 * rcParams["font.size"]} if len(values) <= _DOTS else {}
    (line,) = ax.plot(track.steps, values, color=tone, linestyle=dashes, zorder=3, **dot)

    def grow(step: float) -> None:
        count = reached(track, step)
        line.set_data(track.steps[:count], values[:count])

    return grow


def _crosses(ax: Any, track: Track, metric: str, tone: str) -> Grow:
    """Crosses at the bottom where the metric of a checkpoint is not finite."""
    at = track.steps[diverged(track, metric)]
    (line,) = ax.plot(at, 0.04 + 0 * at, "x", color=tone, transform=ax.get_xaxis_transform(), zorder=4)

    def grow(step: float) -> None:
        line.set_data(at[at <= step], 0.04 + 0 * at[at <= step])

    return grow


def _clipped(ax: Any, shade: Any) -> Grow:
    """What is shaded grows with its axes cut at the step."""

    def grow(step: float) -> None:
        low, high = ax.get_xlim()
        shown = Bbox([[low, 0], [min(max(step, low), high), 1]])
        shade.set_clip_box(TransformedBbox(shown, ax.get_xaxis_transform()))

    return grow


def _falls(ax: Any, track: Track, tone: str) -> None:
    for step in track.steps[drops(track)]:
        ax.axvline(step, color=tone, linewidth=0.6, linestyle=":", zorder=1)
