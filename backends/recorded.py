"""Recorded steps, as far as no framework is needed: what is stored of a model, and how it comes back in parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gradvis.arrays import Vector
from gradvis.backends.given import listed
from gradvis.notes import note
from gradvis.recording import Recording

STORED = ("float16", "float32", "float64")  # the floating-point numbers that NumPy has


def storage(own: Iterable[str], asked: str | None) -> str:
    """In which dtype all parameters are stored: the widest of their own; what NumPy has not counts as float32.

    Args:
        own: Those of the parameters.
        asked: The one that the user wants, if any.

    Raises:
        ValueError: If NumPy does not have it.

    >>> storage(["float16", "bfloat16"], None), storage(["float16"], None), storage(["float64"], "float16")
    ('float32', 'float16', 'float16')
    """
    if asked is None:
        return np.result_type(*(name if name in STORED else "float32" for name in own)).name
    if asked not in STORED:
        raise ValueError(f"dtype must be one of {', '.join(STORED)}, but {asked} came; leave it out")
    return asked


def check_any(parameters: Collection[str], patterns: Sequence[str], names: Iterable[str], example: str) -> None:
    """See that some parameters are recorded.

    Args:
        parameters: The names that match.
        patterns: What they match.
        names: All that there are.
        example: A glob as this framework's names would have it.

    Raises:
        ValueError: If there are none.
    """
    if not parameters:
        raise ValueError(
            f"no parameter matches {', '.join(map(repr, patterns))}; there are {listed(names)}: give a glob such as "
            f"{example!r}, or leave it out"
        )


def check_unchanged(same: bool) -> None:
    """See that a model has what it had when its recording began.

    Raises:
        ValueError: If it has not.
    """
    if not same:
        raise ValueError("the model has other parameters or buffers than at the start; record it anew")


def tell_left_out(recording: Recording, names: Collection[str]) -> None:
    """Say what of a model a recording has not."""
    if names:
        note(
            f"{recording.path.name} has not {listed(sorted(names))} ({len(names)} in all): these stay as the model has "
            "them"
        )


@dataclass(frozen=True)
class Place:
    """Where the numbers of a parameter are.

    Attributes:
        start: Where it begins in the vector of the model.
        stop: Where it ends there.
        stored: Where it begins in the recorded vector; None if it was not recorded.
        own: Gives a slice of what the model has there.
    """

    start: int
    stop: int
    stored: int | None
    own: Callable[[slice], Vector]


def slices(places: Sequence[Place], stored: Callable[[int, int], Vector], dtype: str) -> Callable[[slice], Vector]:
    """How a recorded step is read in parts, in the order of a model's vector.

    Args:
        places: Of the parameters, one after the other.
        stored: Gives the recorded vector from one place to another; is asked once for what lies together.
        dtype: Of the result.

    >>> own = lambda part: np.full(part.stop - part.start, -1.0)
    >>> places = [Place(0, 2, 7, own), Place(2, 4, 9, own), Place(4, 6, None, own), Place(6, 8, 0, own)]
    >>> asked = []
    >>> stored = lambda start, stop: asked.append((start, stop)) or np.arange(start, stop)
    >>> slices(places, stored, "float32")(slice(1, 7)).tolist(), asked
    ([8.0, 9.0, 10.0, -1.0, -1.0, 0.0], [(8, 11), (0, 1)])
    """

    def read(part: slice) -> Vector:
        pieces: list[tuple[int, int] | Vector] = []
        for place in places:
            first, last = max(part.start, place.start) - place.start, min(part.stop, place.stop) - place.start
            if first >= last:
                continue
            if place.stored is None:
                pieces.append(place.own(slice(first, last)))
                continue
            start, stop = place.stored + first, place.stored + last
            before = pieces[-1] if pieces else None
            if isinstance(before, tuple) and before[1] == start:
                pieces[-1] = before[0], stop
            else:
                pieces.append((start, stop))
        found = [stored(*piece) if isinstance(piece, tuple) else piece for piece in pieces]
        return np.concatenate([np.empty(0, dtype), *(piece.astype(dtype, copy=False) for piece in found)])

    return read
