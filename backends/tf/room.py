"""What a sample costs in a graph, and a device that runs out of memory; the rules are in `backends.room`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from gradvis.backends import room

W = TypeVar("W")

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
    """How many samples go through the network at once on a device: see `backends.room`."""
    return room.micro_batch(sample_bytes, "CPU" in device.upper())


def with_room(compute: Callable[[], W], device: str, size: Callable[[], int | None], halve: Callable[[int], None]) -> W:
    """What it computes, with fewer samples at once when the device runs out of memory: see `backends.room`."""
    return room.with_room(compute, device.strip("/").lower(), size, halve, tf.errors.ResourceExhaustedError)
