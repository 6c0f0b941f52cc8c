"""How much goes at once: through the network, through a product, over the points of a plane, and into memory.

None of it is chosen by the clock, but where `tune` is asked for: results differ in their last bits with these choices,
so a fixed rule of activation bytes and memory makes them, and the result records what was used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gradvis.notes import note

W = TypeVar("W")

# Ours, tuned with benchmarks/surface.py and surface_keras.py. On a CPU the activations of all layers together may take
# this much: each layer's then stays near the caches, and calls stay few. An accelerator only has to be filled.
_CACHE_BYTES = 64 << 20
_ACCELERATOR_BYTES = 1 << 30
_FEWEST, _MOST = 16, 1 << 16
# Up to this work a call of several points took less than 0.7 of the time of the plain loop in PyTorch, and less than
# half of it in TensorFlow.
POINTS, _SMALL_WORK = 32, 1 << 20
TOGETHER = 10  # vectors that share a pass: the contract's number of probes
DEFAULT_BATCH = 128  # samples, of data without batches of its own
DATA_SHARE = 4  # a quarter of the free memory may hold data
CHUNK_BYTES = 64 << 20  # ours: the work on so much data at one point outweighs the forming of the point


def micro_batch(sample_bytes: int, on_cpu: bool) -> int:
    """How many samples go through the network at once: a power of two.

    Args:
        sample_bytes: Activations of one sample, summed over the layers.
        on_cpu: Whether a CPU computes.

    >>> micro_batch(85_000, on_cpu=True), micro_batch(85_000, on_cpu=False)
    (512, 8192)
    """
    room = _CACHE_BYTES if on_cpu else _ACCELERATOR_BYTES
    return min(max(_power_of_two(room // max(sample_bytes, 1)), _FEWEST), _MOST)


def samples_at_once(sample_bytes: int, vectors: int, room: int) -> int:
    """How many samples of a product fit in memory: a power of two.

    Each vector moves all activations, so that with it as many again have to be kept.

    Args:
        sample_bytes: See `micro_batch`.
        vectors: How many go along; no more than `TOGETHER` do so at the same time.
        room: Bytes that may be taken in all.

    >>> samples_at_once(85_000, 10, 1 << 30)
    256
    """
    work = sample_bytes * (min(vectors, TOGETHER) + 1)
    return _power_of_two(room // max(4 * work, 1))  # values and gradients, and the derivatives of both


def _power_of_two(most: int) -> int:
    """The largest that is no more; 1 at least."""
    return int(1 << (max(most, 1).bit_length() - 1))


def pays_together(weights: int, samples: int | None) -> bool:
    """Whether several points of a plane should go through the network in one call, if they can.

    They should where single operations are so small that starting them is most of the work: few weights on few
    samples, whose number must be known.
    """
    return samples is not None and weights * samples <= _SMALL_WORK


def even(count: int, micro: int) -> int:
    """Of what size pieces are nearly equal, each at most `micro`.

    >>> even(1003, 512)
    502
    """
    return -(-count // -(-count // micro))


def with_room(
    compute: Callable[[], W],
    device: str,
    size: Callable[[], int | None],
    halve: Callable[[int], None],
    full: type[Exception],
    empty: Callable[[], None] | None = None,
) -> W:
    """What it computes; when the device runs out of memory, again with half as many samples at once.

    Args:
        compute: May be called several times.
        device: That runs out, in words.
        size: How many samples go through at once; None where batches cannot be cut.
        halve: Takes half of it, for good.
        full: What the framework raises then.
        empty: Gives back what the framework holds of the device's memory, before the next try.

    Raises:
        RuntimeError: If not even one sample fits.
    """
    while True:
        try:
            return compute()
        except full as error:
            samples = size()
            if samples is None or samples == 1:
                came = "batches that cannot be cut; pass smaller ones" if samples is None else "one sample at a time"
                raise RuntimeError(f"{device} has not the memory for {came}") from error
        halve(samples // 2)  # out of the handler, which holds the tensors of the failed call
        note(f"{device} ran out of memory: going on with {samples // 2} samples at once in place of {samples}")
        if empty is not None:
            empty()


def sizes_near(micro: int, most: int | None = None) -> list[int]:
    """Sizes of micro-batches to be timed, from a quarter of one to four times as much.

    >>> sizes_near(8), sizes_near(8, most=20)
    ([2, 4, 8, 16, 32], [2, 4, 8, 16, 20])
    """
    sizes = {max(1, micro * factor // 4) for factor in (1, 2, 4, 8, 16)}
    return sorted(sizes if most is None else {min(size, most) for size in sizes})


def fastest(ways: Sequence[W], run: Callable[[W], Any], times: int = 3) -> W:
    """Of several ways of running, by the best of some times after a first one that warms up."""

    def seconds(way: W) -> float:
        run(way)
        found = []
        for _ in range(times):
            start = time.perf_counter()
            run(way)  # what it returns is on the CPU: nothing is left to wait for
            found.append(time.perf_counter() - start)
        return min(found)

    return min(ways, key=seconds)
