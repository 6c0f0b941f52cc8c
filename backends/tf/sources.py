"""What a user gives as data, as something that yields its batches in index order, again and again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from gradvis.backends import reading
from gradvis.backends.given import leaves, refuse_endless
from gradvis.backends.room import DEFAULT_BATCH
from gradvis.backends.rows import rows_of
from gradvis.backends.tf.batch import is_array, take
from gradvis.backends.tf.files import read_data


def source(data: Any, batch_size: int | None) -> Iterable[Any]:
    """Something that yields the batches, from the first to the last.

    Args:
        data: See `gradvis.objective`.
        batch_size: Samples a batch, for data without batches of its own.

    Raises:
        TypeError: If it is nothing of that kind.
        ValueError: If it would never end, is no data file, has batches of its own and others are wanted, or holds
            arrays that do not belong together.
    """
    if isinstance(data, (str, os.PathLike)):
        arrays, mapped = read_data(data)
        return rows_of(arrays, batch_size or DEFAULT_BATCH, mapped, take)
    if _is_arrays(data):
        return rows_of(tuple(data), batch_size or DEFAULT_BATCH, mapped=False, take=take)
    if batch_size is not None:
        raise ValueError(
            "batch_size is for arrays and data files; a Dataset or iterable brings its own batches; "
            "leave it out, or give micro_batch"
        )
    if isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("a finite dataset was wanted, but this one never ends; leave out .repeat(), or add .take(n)")
    if isinstance(data, keras.utils.PyDataset) or not hasattr(data, "__iter__"):
        return _numbered(data)
    refuse_endless(data)
    if isinstance(data, Iterable) and not isinstance(data, (bytes, Mapping)) and not is_array(data):
        return data
    raise TypeError(_WANTED.format(type(data).__name__))


_WANTED = (
    "data must be a pair of arrays, a tf.data.Dataset, a PyDataset or batches, but {} came; the path of a data "
    "file does too"
)


def read(found: Iterable[Any]) -> Iterator[Any]:
    """Its batches, one after the other; see `reading.read`."""
    return reading.read(found, type(found).__name__)


class Numbered:
    """Batches by number: a PyDataset is read in order and in this thread, and never told that an epoch ends."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return (self.batches[number] for number in range(len(self.batches)))


def _numbered(data: Any) -> Numbered:
    """Those of a PyDataset or of another sequence.

    Raises:
        TypeError: If it is none.
        ValueError: If it does not say how many there are.
    """
    if not hasattr(data, "__getitem__") or isinstance(data, type):
        raise TypeError(_WANTED.format(type(data).__name__))
    if reading.length(data) is None:
        raise ValueError(
            f"data that says how long it is was wanted, but {type(data).__name__} has no __len__; give it one"
        )
    return Numbered(data)


def _is_arrays(data: Any) -> bool:
    """(inputs, targets), or with sample weights; a tuple of tuples is one of batches."""
    if not isinstance(data, tuple) or len(data) not in {2, 3} or any(part is None for part in data[:2]):
        return False
    if isinstance(data[0], tuple) and any(isinstance(part, tuple) for part in data[1:]):
        return False
    return all(part is None or _all_arrays(part) for part in data)


def _all_arrays(value: Any) -> bool:
    """Whether it is an array, or a nest of nothing else."""
    found = [leaf for _, leaf in leaves(value)]
    return bool(found) and all(is_array(leaf) for leaf in found)
