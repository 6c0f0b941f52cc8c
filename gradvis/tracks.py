"""Training runs on a plane: where each checkpoint fell, how far off it lies, its own metrics and the plane's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradvis.arrays import Values


@dataclass(frozen=True, eq=False)
class Track:
    """One training run on a plane; t checkpoints in the order of their steps.

    Attributes:
        name: What pictures call the run.
        steps: Where in training each checkpoint was taken, (t,): training steps, epochs, or 0, 1, 2, ...
        labels: What each checkpoint is called, t names.
        coords: Their places on the plane, (t, k), in units of the directions.
        off_plane: Their distances from it, (t,), in parameter units (Euclidean).
        own: Their metrics with their own parameters and buffers, (t,) each; NaN where not measured.
        plane: The metrics of their places on the plane, (t,) each.
        learning_rate: Of the steps, (t,), where it is known.
    """

    name: str
    steps: Values
    labels: tuple[str, ...]
    coords: Values
    off_plane: Values
    own: Mapping[str, Values]
    plane: Mapping[str, Values]
    learning_rate: Values | None = None


def as_records(tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """In JSON values; what is not finite as text, for which JSON has no number.

    >>> ones = np.ones(1)
    >>> track = Track("a", ones, ("a.pt",), np.ones((1, 2)), ones, {"loss": ones * np.nan}, {"loss": ones})
    >>> [again] = from_records(as_records([track]))
    >>> again.coords.tolist(), again.own["loss"].tolist(), again.labels
    ([[1.0, 1.0]], [nan], ('a.pt',))
    """
    return [
        {
            "name": track.name,
            "steps": _plain(track.steps),
            "labels": list(track.labels),
            "coords": _plain(track.coords),
            "off_plane": _plain(track.off_plane),
            "own": {name: _plain(values) for name, values in track.own.items()},
            "plane": {name: _plain(values) for name, values in track.plane.items()},
            "learning_rate": None if track.learning_rate is None else _plain(track.learning_rate),
        }
        for track in tracks
    ]


def _plain(values: Values) -> list[Any]:
    flat = [number if np.isfinite(number) else repr(number) for number in values.ravel().tolist()]
    width = values.shape[-1] if values.ndim > 1 else 0
    return [flat[start : start + width] for start in range(0, len(flat), width)] if width else flat


def from_records(records: Sequence[Mapping[str, Any]]) -> tuple[Track, ...]:
    """Undo `as_records`."""
    return tuple(
        Track(
            name=each["name"],
            steps=_numbers(each["steps"]),
            labels=tuple(each["labels"]),
            coords=_numbers(each["coords"]),
            off_plane=_numbers(each["off_plane"]),
            own={name: _numbers(values) for name, values in each["own"].items()},
            plane={name: _numbers(values) for name, values in each["plane"].items()},
            learning_rate=None if each["learning_rate"] is None else _numbers(each["learning_rate"]),
        )
        for each in records
    )


def _numbers(values: Sequence[Any]) -> Values:
    return np.array(values, dtype=np.float64)
