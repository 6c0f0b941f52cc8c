"""Data as arrays, tf.data.Dataset or finite iterable: read in order, kept on the device when it fits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

DEFAULT_BATCH = 128
Batch = tuple[int, Any, Any]
"""Its number, its inputs and its targets; both may be nested."""


@dataclass(frozen=True)
class Batches:
    """Batches in one order, again and again.

    Attributes:
        source: Yields (inputs, targets); each time the same.
        dtype: That of floating-point data on the device.
        samples: How many there are in all.
        digest: Of every number in it, in order, however it is batched.
        nbytes: What stays on the device.
        kept: The batches on the device, or None where they are too many.
        part: (index, count): every count-th batch, from index on.
    """

    source: Iterable[Any]
    dtype: str
    samples: int
    digest: str
    nbytes: int
    kept: tuple[Batch, ...] | None
    part: tuple[int, int] = (0, 1)

    def __iter__(self) -> Iterator[Batch]:
        index, count = self.part
        batches = _placed(self.source, self.dtype) if self.kept is None else self.kept
        seen = 0
        for batch in batches:
            seen += size(batch[1])
            if batch[0] % count == index:
                yield batch
        if seen != self.samples:
            raise ValueError(f"data that is the same each time was wanted, but {self.samples} samples became {seen}")

    @property
    def micro(self) -> int | None:
        """Into how many samples arrays are cut; None where the data brought its own batches."""
        return self.source.size if isinstance(self.source, _Slices) else None

    def recut(self, micro: int | None) -> Batches:
        """The same arrays in batches of another size; batches that were brought stay as they are."""
        if not isinstance(self.source, _Slices) or micro in {None, self.micro}:
            return self
        budget = self.nbytes if self.kept is not None else 0
        return replace(load(self.source.arrays, self.dtype, micro, budget), part=self.part)

    def shard(self, index: int, count: int) -> Batches:
        """Every count-th batch of this part."""
        first, step = self.part
        return replace(self, part=(first + index * step, step * count))


def load(data: Any, dtype: str, batch_size: int | None, budget: int) -> Batches:
    """Open the data; keep it on the device if it takes at most `budget` bytes there.

    Args:
        data: See `gradvis.objective`.
        dtype: That of floating-point data on the device.
        batch_size: For arrays; a Dataset or iterable brings its own batches.
        budget: Bytes of the device that data may take.

    Raises:
        ValueError: If there is no data, if it never ends, or if it can be read only once and does not fit.
    """
    source = _source(data, batch_size)
    kept: list[Batch] = []
    samples = held = 0
    hashes: dict[int, Any] = {}
    for batch in _placed(source, dtype):
        samples += size(batch[1])
        leaves = tf.nest.flatten(batch[1:])
        for place, leaf in enumerate(leaves):
            found = hashes.setdefault(place, hashlib.blake2b(f"{leaf.dtype} {leaf.shape[1:]}".encode(), digest_size=16))
            found.update(leaf.numpy().tobytes())
        held += sum(leaf.dtype.size * int(np.prod(leaf.shape)) for leaf in leaves)
        if held <= budget:
            kept.append(batch)
        elif iter(source) is source:
            raise ValueError(
                f"an iterator can be read only once, and this one gave more than the {budget} bytes that may be kept; "
                "pass a tf.data.Dataset or a list of batches, which can be read again"
            )
    if not samples:
        raise ValueError("data with at least one batch was wanted, but the data given has none")
    digest = hashlib.blake2b(repr([found.hexdigest() for found in hashes.values()]).encode(), digest_size=16)
    fits = held <= budget
    return Batches(source, dtype, samples, digest.hexdigest(), held if fits else 0, tuple(kept) if fits else None)


def size(inputs: Any) -> int:
    """How many samples a batch has: the length of its first array."""
    return int(tf.nest.flatten(inputs)[0].shape[0])


def _placed(source: Iterable[Any], dtype: str) -> Iterator[Batch]:
    for number, batch in enumerate(source):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                f"each batch must be (inputs, targets), but a {type(batch).__name__} of {_length(batch)} came"
            )
        inputs, targets = (tf.nest.map_structure(lambda leaf: _tensor(leaf, dtype), part) for part in batch)
        yield number, inputs, targets


def _length(batch: Any) -> str:
    return f"{len(batch)}" if hasattr(batch, "__len__") else "no length"


def _tensor(value: Any, dtype: str) -> Any:
    tensor = tf.convert_to_tensor(value)
    return tf.cast(tensor, dtype) if tensor.dtype.is_floating else tf.identity(tensor)


def _source(data: Any, batch_size: int | None) -> Iterable[Any]:
    """Something that yields the batches, from the first to the last.

    Raises:
        ValueError: If it would never end, or has its own batches and another size is wanted.
        TypeError: If it is no data.
    """
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(_is_arrays(part) for part in data):
        return _Slices(data[0], data[1], batch_size or DEFAULT_BATCH)
    if batch_size is not None:
        raise ValueError("batch_size is for a pair of arrays; a Dataset or iterable brings its own batches")
    if isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("a finite dataset was wanted, but this one never ends; leave out .repeat(), or add .take(n)")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # a list of batches, or a keras.utils.PyDataset
        return _Numbered(data)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        return data
    raise TypeError(f"data must be a pair of arrays, a tf.data.Dataset or batches, but {type(data).__name__} came")


def _is_arrays(value: Any) -> bool:
    """An array, or a dict of them."""
    parts = value.values() if isinstance(value, dict) else [value]
    return all(hasattr(part, "shape") and hasattr(part, "__array__") for part in parts)


class _Numbered:
    """Batches by number."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return (self.batches[number] for number in range(len(self.batches)))


class _Slices:
    """A pair of arrays, batch by batch."""

    def __init__(self, inputs: Any, targets: Any, size: int) -> None:
        lengths = {len(part) for part in tf.nest.flatten((inputs, targets))}
        if len(lengths) != 1 or not min(lengths):
            raise ValueError(f"inputs and targets of one length, at least 1, were wanted, but {sorted(lengths)} came")
        self.arrays, self.length, self.size = (inputs, targets), lengths.pop(), size

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self.length, self.size):
            yield tf.nest.map_structure(lambda part, at=start: part[at : at + self.size], self.arrays)
