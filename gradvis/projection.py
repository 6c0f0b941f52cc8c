"""Many checkpoints at once, read in slices of parameters: their Gram matrix, and their places on a plane.

A checkpoint is never held whole, and all of them together never: a task reads one slice of every
checkpoint. Its sums are float64 and are added in the order of the slices, so that the number of
ranks changes no bit.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from operator import add
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from gradvis.arrays import Matrix, Values, Vector
from gradvis.machine import threads
from gradvis.objective import NotFiniteError
from gradvis.schedule import Scheduler

S = TypeVar("S")
T = TypeVar("T")
A = TypeVar("A", Values, "_Sums")
Read = Callable[[slice], Vector]

_TASK = 2**20  # parameters a task: some megabytes of directions come back from each
_PART = 2**17  # parameters a thread reads at once, the unit of the sums,
_ROOM = 2**24  # or fewer: so many numbers of all checkpoints
_CACHE = 2**20  # bytes of float64 that are worked on at once: what fits the second cache of common CPUs

_rooms = threading.local()


def finite(reads: Sequence[Read], d: int, scheduler: Scheduler) -> list[bool]:
    """Which checkpoints have finite parameters only, t truths."""

    def look(part: slice) -> list[bool]:
        return [bool(np.isfinite(read(part)).all()) for read in reads]

    found = _over_slices(look, list, len(reads), d, scheduler)
    return [all(column) for column in zip(*chain(*found), strict=True)]


def gram(reads: Sequence[Read], d: int, scheduler: Scheduler) -> Values:
    """Inner products of the checkpoints' differences from the last one, (t, t).

    Args:
        reads: Gives a slice of a checkpoint's vector, one for each of the t checkpoints.
        d: Parameters of each.
        scheduler: Who computes: each rank reads its slices alone.

    Raises:
        NotFiniteError: If a checkpoint is not finite.

    >>> from gradvis.schedule import Serial
    >>> points = np.array([[1.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    >>> gram([lambda part, x=x: x[part] for x in points], 2, Serial()).tolist()
    [[5.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """

    def products(part: slice) -> Values:
        total = np.zeros((len(reads), len(reads)))
        for points, last in _pieces(reads, reads[-1], part):
            points -= last
            total += points @ points.T
        return total

    total = _added(_over_slices(products, _added, len(reads), d, scheduler))
    if not np.isfinite(total).all():
        raise NotFiniteError("finite checkpoints were wanted, but one has NaN or inf in it; leave it out")
    return total


@dataclass(frozen=True)
class Places:
    """Checkpoints on a plane.

    Attributes:
        coords: Least-squares coordinates, (t, k), in units of the directions.
        off_plane: Distances from the plane, (t,), in parameter units (Euclidean).
    """

    coords: Values
    off_plane: Values


def places(reads: Sequence[Read], origin: Vector, directions: Matrix, scheduler: Scheduler) -> Places:
    """Drop checkpoints onto a plane: `gradvis.plane.project`, streamed.

    Two passes: the first finds the coordinates, the second adds up what is left of each step, for by
    subtraction of squares the distances would lose half their digits.

    Args:
        reads: See `gram`.
        origin: Where the plane is pinned, (d,).
        directions: What spans it, (k, d).
        scheduler: Who computes.

    Raises:
        ValueError: If the directions are parallel, or one of them is zero.
        NotFiniteError: If a checkpoint is not finite.
    """

    def make(points: Values, zero: Values, part: slice) -> Matrix:
        del points, zero
        return directions[:, part]

    start = np.zeros((len(reads), len(directions)))
    first, _ = _residuals(reads, origin.__getitem__, start, make, origin.size, scheduler)
    lengths = np.sqrt(np.diag(first.spanned))
    if np.any(lengths == 0) or np.linalg.cond(first.spanned / np.outer(lengths, lengths)) > 1e12:
        raise ValueError(
            f"the {len(directions)} directions must span a plane, but they are parallel or zero (lengths {lengths}); "
            "draw new ones, or pass a single direction for a line"
        )
    if not np.isfinite(first.squares).all():
        raise NotFiniteError("finite checkpoints were wanted, but one has NaN or inf in it; leave it out")
    coords = first.refined(start).coords
    second, _ = _residuals(reads, origin.__getitem__, coords, make, origin.size, scheduler)
    return second.refined(coords)


def combined(
    reads: Sequence[Read], weights: Values, coords: Values, d: int, dtype: Any, scheduler: Scheduler
) -> tuple[Matrix, Places]:
    """Directions that are weighted sums of the steps from the last checkpoint, and the places on their plane.

    Args:
        reads: See `gram`.
        weights: Of each step in each direction, (k, t).
        coords: The checkpoints' coordinates as far as they are known, (t, k); they are refined.
        d: Parameters of each checkpoint.
        dtype: Of the directions.
        scheduler: Who computes.

    Returns:
        The directions, (k, d), and the places on the plane that they span at the last checkpoint.
    """
    total = weights.sum(axis=1, keepdims=True)

    def make(points: Values, zero: Values, part: slice) -> Matrix:
        del part
        return (weights @ points - total * zero).astype(dtype)

    sums, parts = _residuals(reads, reads[-1], coords, make, d, scheduler, True)
    return np.concatenate(parts, axis=1), sums.refined(coords)


@dataclass(frozen=True)
class _Sums:
    """Of what is left of the steps when their part on the plane is taken away.

    Attributes:
        squares: Of it, (t,).
        along: Its inner products with the directions, (t, k): zero but for rounding where the coordinates are right.
        spanned: Inner products of the directions, (k, k).
    """

    squares: Values
    along: Values
    spanned: Values

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.squares + other.squares, self.along + other.along, self.spanned + other.spanned)

    def refined(self, coords: Values) -> Places:
        """Least-squares coordinates from those for which the sums were made."""
        change = np.linalg.solve(self.spanned, self.along.T).T
        rest = self.squares - np.sum(change * self.along, axis=1)
        return Places(coords + change, np.sqrt(np.maximum(rest, 0)))


def _residuals(
    reads: Sequence[Read],
    origin: Read,
    coords: Values,
    make: Callable[[Values, Values, slice], Matrix],
    d: int,
    scheduler: Scheduler,
    keep: bool = False,
) -> tuple[_Sums, list[Matrix]]:
    """The sums of `_Sums`, and the directions, part by part, if they are to be kept.

    Args:
        reads: See `gram`.
        origin: Reads where the coordinates are zero.
        coords: Of the checkpoints, (t, k).
        make: The directions, (k, p), from the checkpoints and the origin, (t, p) and (p,), of a slice.
        d: Parameters of each.
        scheduler: Who computes.
        keep: Whether the directions are wanted.
    """
    inside = np.hstack([coords, np.ones((len(reads), 1))])  # the origin is subtracted with what lies on the plane

    def measure(part: slice) -> tuple[_Sums, list[Matrix]]:
        made: list[Matrix] = []
        sums: list[_Sums] = []
        where = part.start
        for points, zero in _pieces(reads, origin, part):
            directions = make(points, zero, slice(where, where + zero.size))
            where += zero.size
            wide = directions.astype(np.float64)  # as they are kept
            points -= np.matmul(inside, np.vstack([wide, zero]), out=_room("inside", points.shape, np.float64))
            sums.append(_Sums(np.einsum("tp,tp->t", points, points), points @ wide.T, wide @ wide.T))
            made += [directions] if keep else []
        return _added(sums), made

    def gather(parts: Iterable[tuple[_Sums, list[Matrix]]]) -> tuple[_Sums, list[Matrix]]:
        sums, made = zip(*parts, strict=True)
        return _added(sums), list(chain(*made))

    return gather(_over_slices(measure, gather, len(reads), d, scheduler))


def _pieces(reads: Sequence[Read], origin: Read, part: slice) -> Iterator[tuple[Values, Values]]:
    """The checkpoints and the origin, (t, p) and (p,) in float64, piece by piece; each takes the place of the last."""
    found, zero = [read(part) for read in reads], origin(part).astype(np.float64)
    block = np.stack(found, out=_room("block", (len(found), zero.size), np.result_type(*found)))
    width = max(256, _CACHE // (8 * len(reads)))
    for start in range(0, zero.size, width):
        piece = block[:, start : start + width]
        points = _room("points", piece.shape, np.float64)
        points[...] = piece  # one call for all: threads wait for each other between calls
        yield points, zero[start : start + width]


def _room(name: str, shape: tuple[int, ...], dtype: Any) -> Values:
    """Memory of this thread that is used again and again: to be given more takes as long as what is done with it."""
    size = math.prod(shape)
    held = getattr(_rooms, name, None)
    if held is None or held.size < size or held.dtype != dtype:
        held = np.empty(size, dtype)
        setattr(_rooms, name, held)
    return held[:size].reshape(shape)


def _over_slices(
    work: Callable[[slice], T], gather: Callable[[Iterable[T]], S], count: int, d: int, scheduler: Scheduler
) -> list[S]:
    """What comes of each task, in order; the ranks share the tasks, their threads the parts of a task.

    Args:
        work: On a slice of the parameters.
        gather: Makes one of what comes of the parts of a task, in their order.
        count: How many checkpoints are read.
        d: Parameters of each.
        scheduler: Who computes.
    """
    width = max(1, min(_PART, _ROOM // count))

    def quietly(part: slice) -> T:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is seen in the sums
            return work(part)

    # Threads of BLAS under ours would wait for each other, and their number could change bits.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads(scheduler.cpu_sharers)) as pool:

        def task(index: int) -> S:
            stop = min((index + 1) * _TASK, d)
            parts = [slice(start, min(start + width, stop)) for start in range(index * _TASK, stop, width)]
            return gather(pool.map(quietly, parts))

        return scheduler.map(task, -(-d // _TASK))


def _added(parts: Iterable[A]) -> A:
    """Their sum, in their order, each dropped when it is added."""
    return reduce(add, parts)
