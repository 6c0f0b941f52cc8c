"""How the points of a plane go through the data: one after the other in place, or several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradvis.backends.policies import whole_batches
from gradvis.backends.pytorch.batch import joined
from gradvis.backends.pytorch.data import Batches, sample_count
from gradvis.backends.pytorch.norms import Seen, collecting, put, statistics

Numbered = tuple[int, Any]
Measure = Callable[[int, Any], Tensor]  # a batch with its number, to its sums, (q, 3, 3)


@dataclass(frozen=True)
class Walk:
    """Points of a plane, formed one after the other in one buffer.

    Attributes:
        flat: The parameters of the model, (d,): written to.
        origin: Of the plane, (d,).
        steps: Its directions, k of (d,).
        where: Coordinates, n of k.
        reset: Puts back the buffers of the model if they were written to.
    """

    flat: Tensor
    origin: Tensor
    steps: Sequence[Tensor]
    where: Sequence[Sequence[float]]
    reset: Callable[[], None]

    def go(self, point: int) -> None:
        """To the point of that number."""
        form(self.flat, self.origin, self.steps, self.where[point])
        self.reset()

    def rows(self, first: int, count: int) -> Tensor:
        """The parameters of so many points, (count, d); beyond the last one the last again."""
        rows = torch.empty(count, len(self.flat), dtype=self.flat.dtype, device=self.flat.device)
        for row in range(count):
            form(rows[row], self.origin, self.steps, self.where[min(first + row, len(self.where) - 1)])
        return rows


def form(flat: Tensor, origin: Tensor, steps: Sequence[Tensor], at: Sequence[float]) -> None:
    """Set flat to origin + sum of at_i steps_i, in place."""
    flat.copy_(origin)
    for step, length in zip(steps, at, strict=True):
        flat.add_(step, alpha=length)


def one_by_one(
    walk: Walk, chunks: Iterable[list[Numbered]], measure: Measure, sums: Tensor, before: Callable[[int], None]
) -> None:
    """Add up each point's sums, (n, q, 3, 3); all points of a chunk before the next chunk is loaded.

    Args:
        walk: The points.
        chunks: The data, as much at a time as is on the device.
        measure: Of a batch.
        sums: Added to.
        before: Called with the number of each point when its parameters are in.
    """
    for chunk in chunks:
        for point in range(len(walk.where)):
            walk.go(point)
            before(point)
            for index, batch in chunk:
                sums[point] += measure(index, batch)


def together(
    walk: Walk, chunks: Iterable[list[Numbered]], measure: Callable[[Tensor, Any], Tensor], sums: Tensor, count: int
) -> None:
    """The same, `count` points at once by vmap: always so many, as their number moves the last bits.

    Args:
        walk: The points.
        chunks: The data.
        measure: Of parameters, (d,), and a batch.
        sums: Added to, (n, q, 3, 3).
        count: How many points go together.
    """
    walk.reset()
    several = torch.func.vmap(measure, in_dims=(0, None), randomness="same")
    for chunk in chunks:
        for first in range(0, len(walk.where), count):
            rows = walk.rows(first, count)
            for _, batch in chunk:
                sums[first : first + count] += several(rows, batch)[: len(sums) - first]


def recalibrated(walk: Walk, data: Batches, measure: Measure, layers: Sequence[nn.Module]) -> list[list[Tensor]]:
    """The statistics that batch norms have at each point, from one pass over the whole batches.

    One sample has no variance: a batch of one goes with the batch before it, where that is possible.

    Args:
        walk: The points, n of them.
        data: Its batches go through as they came, each weighted by its samples.
        measure: Runs the model on a batch; what it returns is not looked at.
        layers: The batch norms.

    Returns:
        For each point what `put` takes.
    """
    whole = enumerate(_in_company(data.whole()))
    chunks: Iterable[list[Numbered]] = [list(whole)] if data.kept is not None else ([batch] for batch in whole)
    fresh = [torch.zeros_like(value) for value in statistics(layers)]
    found: list[list[Tensor]] = [[] for _ in walk.where]
    seen: list[Seen] = [{} for _ in walk.where]
    with collecting(layers) as weigh:
        for chunk in chunks:
            for point, saved in enumerate(found):
                walk.go(point)
                put(layers, saved or fresh)
                for index, batch in chunk:
                    weigh(sample_count(batch), seen[point])
                    with whole_batches(str(walk.flat.device), torch.OutOfMemoryError):
                        measure(index, batch)
                found[point] = statistics(layers)
    return found


def _in_company(batches: Iterable[Any]) -> Iterator[Any]:
    """The same, a batch of one sample as part of the batch before it."""
    before: list[Any] = []
    for batch in batches:
        if before and sample_count(batch) == 1:
            before = joined([*before, batch])
        else:
            before.append(batch)
        while len(before) > 1:
            yield before.pop(0)
    yield from before
