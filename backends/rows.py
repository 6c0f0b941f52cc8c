"""Arrays read piece by piece; what a batch holds, in words and as a fingerprint."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradvis.backends.given import each, leaves


@dataclass(frozen=True)
class Rows:
    """Arrays of one length, however nested, that are read piece by piece.

    Attributes:
        arrays: (inputs, targets), or with sample weights as a third; None for what is not there.
        size: Samples a batch.
        chosen: Which samples, ascending; all where not given.
        mapped: Whether the arrays are a file mapped into memory, which all ranks of a machine share.
        take: Gives samples of an array: those of a slice, or of numbers.

    >>> rows = Rows((np.arange(5), np.arange(5) * 10), size=2, chosen=np.array([0, 3, 4]))
    >>> len(rows), [targets.tolist() for _, targets in rows], [inputs.tolist() for inputs, _ in rows.cut(3)]
    (2, [[0, 30], [40]], [[0, 3, 4]])
    """

    arrays: tuple[Any, ...]
    size: int
    chosen: np.ndarray[Any, np.dtype[np.int64]] | None = None
    mapped: bool = False
    take: Callable[[Any, Any], Any] = operator.getitem

    @property
    def length(self) -> int:
        """How many samples there are."""
        return next(_count(leaf) for _, leaf in leaves(self.arrays)) if self.chosen is None else len(self.chosen)

    @property
    def nbytes(self) -> int:
        """What all the samples take where they lie."""
        return self.length * sum(leaf[:1].nbytes for _, leaf in leaves(self.arrays) if leaf is not None)

    def cut(self, size: int | None) -> Rows:
        """The same samples in batches of another size."""
        return self if size is None else replace(self, size=size)

    def __len__(self) -> int:
        return -(-self.length // self.size)

    def __iter__(self) -> Iterator[Any]:
        return (self._batch(slice(start, start + self.size)) for start in range(0, self.length, self.size))

    def _batch(self, part: slice) -> Any:
        rows = part if self.chosen is None else self.chosen[part]
        return each(lambda array: None if array is None else self.take(array, rows), self.arrays)


def rows_of(
    arrays: tuple[Any, ...], size: int, mapped: bool, take: Callable[[Any, Any], Any] = operator.getitem
) -> Rows:
    """The arrays, batch by batch.

    Args:
        arrays: See `Rows`; tables of pandas too.
        size: Samples a batch.
        mapped: See `Rows`.
        take: See `Rows`.

    Raises:
        ValueError: If they are not of one length.
    """
    arrays = each(lambda leaf: leaf.to_numpy() if hasattr(leaf, "to_numpy") else leaf, arrays)
    counts = [[_count(leaf) for _, leaf in leaves(part) if leaf is not None] for part in arrays]
    if len({count for part in counts for count in part}) != 1 or 0 in counts[1]:
        came = [" or ".join(str(count) for count in sorted(set(part))) for part in counts if part]
        words = "inputs, targets and sample weights" if len(came) > 2 else "inputs and targets"
        raise ValueError(f"{words} of one length, at least 1, were wanted, but {' and '.join(came)} came")
    return Rows(arrays, size, mapped=mapped, take=take)


def _count(leaf: Any) -> int:
    return int(leaf.shape[0]) if len(leaf.shape) else 0


# ---------------------------------------------------------------------------------------------- told


def describe(value: Any) -> str:
    """Kind and shape of what a batch holds, in words for a message.

    >>> describe({"ids": np.ones((2, 3)), "names": "ab"})
    '{ids: float64 (2, 3), names: str}'
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {describe(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(describe, value))})"
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return type(value).__name__
    kind = str(getattr(value.dtype, "name", value.dtype)).removeprefix("torch.")
    return f"{kind} {tuple(value.shape)}"


class Digest:
    """Of every number in batches, in order, however they are batched.

    Args:
        content: Of a leaf its kind, in words, and its bytes; None for one that says nothing.
    """

    def __init__(self, content: Callable[[Any], tuple[str, Any] | None]) -> None:
        self._content = content
        self._running: dict[str, Any] = {}

    def add(self, batch: Any) -> Digest:
        """Count in one more batch."""
        for path, leaf in leaves(batch):
            if (found := self._content(leaf)) is not None:
                kind, content = found
                self._running.setdefault(f"{path}{kind}", hashlib.blake2b(digest_size=16)).update(content)
        return self

    def told(self) -> str:
        """In 32 hexadecimal digits."""
        found = [(kind, part.hexdigest()) for kind, part in self._running.items()]
        return hashlib.blake2b(repr(found).encode(), digest_size=16).hexdigest()


def words_of(leaf: Any) -> bytes:
    """What an object says of itself; where it lies in memory, which those without words say, is left out."""
    return f"{leaf!r}".replace(hex(id(leaf)), "").encode()
