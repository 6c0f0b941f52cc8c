"""How the points of a plane go through the data: one after the other, on every batch that is on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gradvis.arrays import Values
from gradvis.backends.policies import whole_batches
from gradvis.backends.room import CHUNK_BYTES
from gradvis.backends.tf.batch import bytes_of
from gradvis.backends.tf.compute import Graphs
from gradvis.backends.tf.data import Batches, size
from gradvis.backends.tf.norms import in_company, weighted

Tensor = Any
Point = Callable[[], Tensor]  # forms it, (d,)


def one_by_one(graphs: Graphs, data: Batches, points: Sequence[Point], rests: Sequence[list[Tensor]]) -> Values:
    """Moments of every term at each point, (n, q, 6); all points of a chunk before the next chunk is loaded.

    Args:
        graphs: Of the model.
        data: In micro-batches.
        points: The points, n of them.
        rests: The buffers at each.
    """
    sums = [tf.zeros((len(graphs.names), 6), tf.float64)] * len(points)
    for chunk in _chunks(data, data.kept is not None):
        for index, (point, rest) in enumerate(zip(points, rests, strict=True)):
            theta = point()
            for number, batch in chunk:
                sums[index] = graphs.measure(sums[index], theta, rest, number, batch)
    return np.stack([each.numpy() for each in sums]) if sums else np.zeros((0, len(graphs.names), 6))


def together(graphs: Graphs, data: Batches, plane: tuple[Tensor, Tensor], at: Values, rest: Sequence[Tensor]) -> Values:
    """The same, all points in one call for each batch: for nets so small that calls are most of the work.

    Args:
        graphs: Of the model.
        data: In micro-batches.
        plane: Origin, (d,), and directions, (k, d).
        at: Coordinates, (n, k).
        rest: The buffers.
    """
    where = tf.constant(at)
    sums = np.zeros((len(at), len(graphs.names), 6))
    for number, batch in data:
        sums += graphs.several(*plane, where, rest, *numbered(number, batch)).numpy()
    return sums


def recalibrated(
    graphs: Graphs, data: Batches, points: Sequence[Point], buffers: Sequence[Any], values: Sequence[Tensor]
) -> list[list[Tensor]]:
    """The buffers at each point, with the statistics of batch norm from one pass over the whole batches.

    One sample has no variance: a batch of one goes with the batch before it, where that is possible.

    Args:
        graphs: Of the model.
        data: In batches as they came; each counts by its samples.
        points: The points.
        buffers: The variables that are buffers.
        values: What they hold.
    """
    whole = enumerate(in_company(batch for _, batch in data))
    seen: list[list[tuple[int, Any]]] = [[] for _ in points]
    for chunk in _chunks(whole, data.kept is not None):
        for point, found in zip(points, seen, strict=True):
            theta = point()
            device = theta.device.rpartition("device:")[2].lower()
            with whole_batches(device, tf.errors.ResourceExhaustedError):
                found += [(size(batch), graphs.statistics(theta, values, number, batch)) for number, batch in chunk]
    return [weighted(graphs.norms, buffers, values, found) for found in seen]


def _chunks(batches: Iterable[tuple[int, Any]], kept: bool) -> Iterator[list[tuple[Tensor, Any]]]:
    """Numbered batches, as many at a time as are on the device at once."""
    chunk: list[tuple[Tensor, Any]] = []
    held = 0
    for number, batch in batches:
        chunk.append(numbered(number, batch))
        held += bytes_of(batch)
        if held >= CHUNK_BYTES and not kept:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def numbered(number: int, batch: Any) -> tuple[Tensor, Any]:
    """As graphs take it."""
    return tf.constant(number), batch
