"""Data on the device: kept when it fits, mapped when it is a file, read again and again when it is too large."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import tensorflow as tf

from gradvis.backends.given import choose
from gradvis.backends.reading import about, check_again, check_onward, check_same, check_some, drawn, length, once
from gradvis.backends.room import CHUNK_BYTES
from gradvis.backends.rows import Rows
from gradvis.backends.tf.batch import (
    Batch,
    Digest,
    bytes_of,
    cut_evenly,
    digest,
    divisible,
    joined,
    placed,
    size,
    split,
    steps,
    take,
)
from gradvis.backends.tf.sources import read, source

__all__ = ["Batch", "Batches", "divisible", "load", "size"]

_SEED = 0


@dataclass(frozen=True)
class Batches:
    """Batches on the device, in one order, again and again: (number, batch) of each.

    A batch is (inputs, targets, weights), the weights None where there are none, or what `batch_loss` takes.

    Attributes:
        source: Yields the batches as the user gave them; each time the same. Empty where all are kept.
        place: Brings one to the device, in the objective's dtype.
        whole: What is kept, joined where it can be; None where it is too much, and is read each time.
        kept: The same, cut.
        were: How many samples each batch had as it came.
        digest: Of every number in the data, in order, however it is batched.
        nbytes: What stays on the device; or is there at once, where the data is read each time.
        pairs: Whether batches are samples that can be put together and cut elsewhere.
        micro: Into how many samples the data is cut; None leaves the batches as they came.
        part: (index, count): every count-th batch, from index on.
        subset: Of how many samples these were drawn, and with which seed.
        seen: Digests of the batches that are read each time.
    """

    source: Iterable[Any]
    place: Callable[[Any], Batch]
    whole: tuple[Batch, ...] | None
    kept: tuple[Batch, ...] | None
    were: tuple[int, ...]
    digest: str
    nbytes: int
    pairs: bool = True
    micro: int | None = None
    part: tuple[int, int] = (0, 1)
    subset: tuple[int, int] | None = None
    seen: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """How many there are in all."""
        return sum(self.were)

    def about(self) -> dict[str, Any]:
        """How many samples there are, and of which they are a subset; plain JSON values."""
        return about(self.samples, self.subset)

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        index, count = self.part
        if self.kept is not None:
            yield from islice(enumerate(self.kept), index, None, count)
        elif isinstance(self.source, Rows):  # cut before they are placed, so that a part reads its own alone
            rows = islice(enumerate(self.source.cut(self.micro)), index, None, count)
            yield from ((number, self.place(raw)) for number, raw in rows)
        else:
            yield from islice(enumerate(self._stream()), index, None, count)

    def _stream(self) -> Iterator[Batch]:
        """What is read again, cut.

        Raises:
            ValueError: If it is not what it was.
        """
        number = -1
        for number, batch in enumerate(map(self.place, read(self.source))):
            check_same(number < len(self.seen) and digest([batch]) == self.seen[number], f"batch {number}")
            yield from cut_evenly(batch, self.micro)
        if number + 1 < len(self.seen):
            raise ValueError(
                f"data that is the same each time was wanted, but {len(self.seen)} batches became {number + 1} when "
                "it was read again; pass a list of batches"
            )

    def recut(self, micro: int | None) -> Batches:
        """The same samples in batches of another size, or, with None, as they came; what cannot be cut stays whole."""
        if not self.pairs or micro == self.micro:
            return self
        if self.whole is None:
            return replace(self, micro=micro)
        return replace(self, micro=micro, kept=_cut(self.whole, self.were, micro))

    def shard(self, index: int, count: int) -> Batches:
        """Every count-th batch of this part."""
        first, step = self.part
        return replace(self, part=(first + index * step, step * count))

    def checked(self, see: Callable[[Batch], None]) -> Batches:
        """The same batches, each shown to `see`, which raises what it finds: now if kept, else whenever read."""

        def place(raw: Any) -> Batch:
            batch = self.place(raw)
            see(batch)
            return batch

        if self.whole is None:
            return replace(self, place=place)
        for batch in self.whole:
            see(batch)
        return self


def load(
    data: Any, dtype: str, batch_size: int | None, budget: int, samples: int | None = None, pairs: bool = True
) -> Batches:
    """Open the data; keep it on the device if it takes at most `budget` bytes there.

    It is read once to its end, so that its samples are known and anything that changes is seen.

    Args:
        data: See `gradvis.objective`.
        dtype: That of floating-point data on the device.
        batch_size: For arrays and data files, 128 where not given; all others bring their own batches.
        budget: Bytes of the device that data may take.
        samples: How many to take, drawn without replacement; all where not given.
        pairs: Whether batches are (inputs, targets), with sample weights or without.

    Raises:
        ValueError: If there is no data, it does not come out the same again, or it neither fits nor ends.
        TypeError: If it is nothing of a known form.
    """
    found, place = source(data, batch_size), partial(placed, dtype=dtype, pairs=pairs)
    subset = None
    if samples is not None and isinstance(found, Rows):
        subset = found.length, _SEED
        found, samples = replace(found, chosen=choose(found.length, samples, _SEED)), None
    opened = _opened(found, place, budget)
    if opened.kept is None and samples is not None:
        raise ValueError(
            "samples=N is for arrays, data files, and batches that fit in memory, but more than the "
            f"{budget} bytes that may be kept came; choose them in the data: dataset.take(n)"
        )
    if opened.kept is None:
        return Batches(
            found, place, None, None, opened.were, opened.digest, opened.most, pairs, subset=subset, seen=opened.seen
        )
    batches, told = opened.kept, opened.digest
    if samples is not None:
        subset = sum(opened.were), _SEED
        batches = drawn(batches, samples, _SEED, size, divisible, take)
        told = digest(batches)
    were = tuple(map(size, batches))
    whole = tuple(joined(batches) if pairs else batches)
    nbytes = sum(map(bytes_of, whole))
    return Batches((), place, whole, _cut(whole, were, None), were, told, nbytes, pairs, subset=subset)


def _cut(whole: tuple[Batch, ...], were: tuple[int, ...], micro: int | None) -> tuple[Batch, ...]:
    """In pieces of `micro` samples, or as they came."""
    if len(whole) == 1 and divisible(whole[0]):
        return tuple(split(whole[0], list(were) if micro is None else steps(size(whole[0]), micro)))
    return tuple(piece for batch in whole for piece in cut_evenly(batch, micro))


@dataclass(frozen=True)
class _Opened:
    """What one reading of the data has shown: the batches if they fit, or else a digest of each."""

    kept: list[Batch] | None
    were: tuple[int, ...]
    digest: str
    most: int
    seen: tuple[str, ...]


def _opened(found: Iterable[Any], place: Callable[[Any], Batch], budget: int) -> _Opened:
    """Read the data once, to its end."""
    first = _first(found, place)
    if isinstance(found, Rows) and found.mapped and "CPU" in tf.zeros(()).device:
        budget = min(budget, CHUNK_BYTES)  # what is larger stays in the file, where the ranks of a machine share it
    whole, kept, seen = Digest(), [], []
    were: list[int] = []
    sizes: list[int] = []
    fits = True
    for batch in map(place, read(found)):
        first = _see(found, batch, first, len(were))
        whole.add(batch)
        were.append(size(batch))
        sizes.append(bytes_of(batch))
        kept.append(batch)
        if fits and sum(sizes) > budget:
            check_again(found, budget, "a tf.data.Dataset, a PyDataset", _cure(found))
            fits = False
        if not fits:
            seen += [] if isinstance(found, Rows) else [digest([batch]) for batch in kept]
            kept.clear()
    check_some(sum(were))
    return _Opened(kept if fits else None, tuple(were), whole.told(), max(sizes), tuple(seen))


def _first(found: Iterable[Any], place: Callable[[Any], Batch]) -> str | None:
    """A digest of the first batch of what makes its batches anew each time; None for the rest."""
    if once(found) or isinstance(found, (list, tuple, Rows)):
        return None
    return next((digest([place(raw)]) for raw in found), None)


def _see(found: Iterable[Any], batch: Batch, first: str | None, number: int) -> str | None:
    """See that the first batch is the same when it is read again, and does not come once more where no end is known."""
    if number == 0:
        told = digest([batch])
        check_same(first is None or told == first)
        return told
    check_onward(length(found) is None and bytes_of(batch) > 0 and digest([batch]) == first)
    return first


def _cure(found: Iterable[Any]) -> str:
    """How to say how long data is."""
    if isinstance(found, tf.data.Dataset):
        return "add .apply(tf.data.experimental.assert_cardinality(n))"
    return "give it a __len__, or pass a list of batches"
