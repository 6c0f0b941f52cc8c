"""What a user gives as data, as something that yields its batches in index order, again and again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from gradvis.backends.given import each, leaves, refuse_endless
from gradvis.backends.tf.batch import Rows, is_array
from gradvis.backends.tf.files import read_data

DEFAULT_BATCH = 128


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
        return _rows(arrays, batch_size or DEFAULT_BATCH, mapped)
    if _is_arrays(data):
        return _rows(tuple(data), batch_size or DEFAULT_BATCH)
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


def once(found: Iterable[Any]) -> bool:
    """Whether it can be read only once."""
    return isinstance(found, Iterator)


def length(found: Iterable[Any]) -> int | None:
    """How many batches it says it has; None where it does not say."""
    try:
        return len(found)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def read(found: Iterable[Any]) -> Iterator[Any]:
    """Its batches, one after the other.

    Raises:
        ValueError: If there are more than it says.
    """
    most = length(found)
    for number, batch in enumerate(found):
        if most is not None and number >= most:
            raise ValueError(
                f"data that says how long it is was wanted, but {type(found).__name__} gives more than the {most} "
                "batches of its __len__; mend that"
            )
        yield batch


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
    if length(data) is None:
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


def _rows(arrays: tuple[Any, ...], size: int, mapped: bool = False) -> Rows:
    """The arrays, batch by batch.

    Raises:
        ValueError: If they are not of one length.
    """
    arrays = each(lambda leaf: leaf.to_numpy() if hasattr(leaf, "to_numpy") else leaf, arrays)  # tables of pandas
    counts = [[_count(leaf) for _, leaf in leaves(part) if leaf is not None] for part in arrays]
    if len({count for part in counts for count in part}) != 1 or 0 in counts[1]:
        came = [" or ".join(str(count) for count in sorted(set(part))) for part in counts if part]
        words = "inputs, targets and sample weights" if len(came) > 2 else "inputs and targets"
        raise ValueError(f"{words} of one length, at least 1, were wanted, but {' and '.join(came)} came")
    return Rows(arrays, size, mapped=mapped)


def _count(leaf: Any) -> int:
    return int(leaf.shape[0]) if len(leaf.shape) else 0
