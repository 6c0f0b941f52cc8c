"""How many samples go through the network at once: what fits the caches, and the memory.

It is not chosen by the clock: results differ in their last bits with it, so a fixed rule of activation bytes makes
the choice, and the result records what was used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from gradvis.notes import note

W = TypeVar("W")

# Ours, tuned with benchmarks/surface_keras.py: what all operations on a micro-batch may give out together on a CPU, so
# that what each works on stays near the caches. An accelerator only has to be filled.
_CACHE_BYTES = 64 << 20
_ACCELERATOR_BYTES = 1 << 30
_FEWEST, _MOST = 16, 1 << 16
POINTS, _SMALL_WORK = 32, 1 << 20
_VIEWS = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims", "Placeholder", "StopGradient"})


def activation_bytes(operations: Sequence[Any], samples: int) -> int:
    """Bytes a sample of what the operations of a graph give out, one entry a sample."""
    found = [
        tensor
        for operation in operations
        if operation.type not in _VIEWS
        for tensor in operation.outputs
        if tensor.shape.rank and tensor.shape[0] == samples and tensor.shape.is_fully_defined()
    ]
    return sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in found) // samples


def micro_batch(sample_bytes: int, device: str) -> int:
    """How many samples go through the network at once: a power of two.

    Args:
        sample_bytes: See `activation_bytes`.
        device: Where.

    >>> micro_batch(170_000, "/CPU:0")
    256
    """
    room = _CACHE_BYTES if "CPU" in device.upper() else _ACCELERATOR_BYTES
    fit = max(room // max(sample_bytes, 1), 1)
    return min(max(1 << (fit.bit_length() - 1), _FEWEST), _MOST)


def pays_together(weights: int, samples: int) -> bool:
    """Whether several points of a plane should go through the graph in one call.

    They should where calls are most of the work: few weights on few samples. The bound is PyTorch's; up to it the
    time fell below a half.
    """
    return weights * samples <= _SMALL_WORK


def even(count: int, micro: int) -> int:
    """Of what size pieces are nearly equal, each at most `micro`.

    >>> even(1003, 512)
    502
    """
    return -(-count // -(-count // micro))


def with_room(compute: Callable[[], W], device: str, size: Callable[[], int | None], halve: Callable[[int], None]) -> W:
    """What it computes; when the device runs out of memory, again with half as many samples at once.

    Args:
        compute: May be called several times.
        device: That runs out.
        size: How many samples go through at once; None where batches cannot be cut.
        halve: Takes half of it, for good.

    Raises:
        RuntimeError: If not even one sample fits.
    """
    name = device.strip("/").lower()
    while True:
        try:
            return compute()
        except tf.errors.ResourceExhaustedError as error:
            samples = size()
            if samples is None or samples == 1:
                came = "batches that cannot be cut; pass smaller ones" if samples is None else "one sample at a time"
                raise RuntimeError(f"{name} has not the memory for {came}") from error
        halve(samples // 2)  # out of the handler, which holds the tensors of the failed call
        note(f"{name} ran out of memory: going on with {samples // 2} samples at once in place of {samples}")


def fastest(ways: Sequence[W], run: Callable[[W], Any], times: int = 3) -> W:
    """Of several ways of running, by the best of some times after a first one that warms up."""

    def seconds(way: W) -> float:
        run(way)
        found = []
        for _ in range(times):
            start = time.perf_counter()
            run(way)
            found.append(time.perf_counter() - start)
        return min(found)

    return min(ways, key=seconds)
