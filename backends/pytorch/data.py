"""Data on the device: kept when it fits, mapped when it is a file, loaded again and again when it is too large."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise
from operator import getitem
from typing import Any

from torch import Tensor

from gradvis.backends.given import leaves
from gradvis.backends.pytorch import sources
from gradvis.backends.pytorch.batch import (
    alike,
    bytes_of,
    cut,
    cut_all,
    digest,
    divisible,
    is_pair,
    joined,
    labels,
    piece,
    sample_count,
    transfer,
    versions,
)
from gradvis.backends.reading import about, check_again, check_onward, check_same, check_some, drawn, length, once
from gradvis.backends.room import CHUNK_BYTES, DEFAULT_BATCH
from gradvis.backends.rows import Rows, describe

__all__ = ["Batches", "cut", "divisible", "is_pair", "labels", "load", "sample_count", "transfer", "versions"]

_LENGTH = "give it, or the stream in it, a __len__, or pass a list of batches"


@dataclass(frozen=True)
class Batches:
    """Batches on the device, in one order, again and again.

    Attributes:
        source: Yields batches; each time the same ones. Empty where all are kept.
        place: Brings a batch to the device, in the objective's dtype.
        kept: The placed batches, or None when they are too many to keep and are loaded each time.
        micro: How many samples go through the network at once; None leaves batches as they come.
        part: (index, count): every count-th micro-batch, from index on.
        were: How many samples each batch had before they were joined to one.
        subset: Of how many samples these were drawn, and with which seed.
        room: Bytes that may be on the device at once of what is not kept.
    """

    source: Iterable[Any]
    place: Callable[[Any], Any]
    kept: tuple[Any, ...] | None
    micro: int | None = None
    part: tuple[int, int] = (0, 1)
    were: tuple[int, ...] = ()
    subset: tuple[int, int] | None = None
    room: int = 0

    def chunks(self) -> Iterator[list[tuple[int, Any]]]:
        """Numbered micro-batches, as many at a time as are on the device at once."""
        if self.kept is not None:
            yield list(self._part(cut_all(self.kept, self.micro)))
            return
        chunk: list[tuple[int, Any]] = []
        size = 0
        for index, batch in self._pieces():
            chunk.append((index, batch))
            size += bytes_of(batch)
            if size >= self.room:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _pieces(self) -> Iterator[tuple[int, Any]]:
        """Micro-batches that are not kept; those of arrays are cut before they are placed, wherever batches end."""
        if isinstance(self.source, Rows):
            return ((index, self.place(raw)) for index, raw in self._part(cut(self.source, self.micro)))
        return self._part(cut_all(self._read(), self.micro))

    def _part(self, pieces: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        index, count = self.part
        return islice(enumerate(pieces), index, None, count)

    def _read(self) -> Iterator[Any]:
        return map(self.place, sources.read(self.source))

    def whole(self) -> Iterator[Any]:
        """All batches as they came, none of them cut, whatever the part."""
        if self.kept is None:
            yield from self._read()
        elif not self.were:
            yield from self.kept
        else:
            yield from (piece(self.kept[0], *ends) for ends in pairwise(accumulate(self.were, initial=0)))

    def lengths(self) -> list[int] | None:
        """How many samples each whole batch has; None where only reading them all would tell."""
        if self.kept is None:
            return sources.lengths_of(self.source)
        return list(self.were) or list(map(sample_count, self.kept))

    def shard(self, index: int, count: int) -> Batches:
        """Every count-th micro-batch of this part."""
        first, step = self.part
        return replace(self, part=(first + index * step, step * count))

    def laid_out(self, layout: Callable[[Any], Any]) -> Batches:
        """The same batches in another memory layout."""
        kept = None if self.kept is None else tuple(map(layout, self.kept))
        return replace(self, place=lambda batch: layout(self.place(batch)), kept=kept)

    def checked(self, see: Callable[[Any], None]) -> Batches:
        """The same batches, each shown to `see`, which raises what it finds: now if kept, else whenever loaded."""

        def place(batch: Any) -> Any:
            placed = self.place(batch)
            see(placed)
            return placed

        if self.kept is None:
            return replace(self, place=place)
        for batch in self.kept:
            see(batch)
        return self

    def digest(self) -> str:
        """Of every number in it, in order, however it is batched."""
        return digest(self._read() if self.kept is None else self.kept)

    def samples(self) -> int | None:
        """How many samples there are; None where only reading them all would tell."""
        return sources.samples_of(self.source) if self.kept is None else sum(map(sample_count, self.kept))

    def about(self) -> dict[str, Any]:
        """How many samples there are, and of which they are a subset; plain JSON values."""
        return about(self.samples(), self.subset)

    def nbytes(self) -> int:
        """Bytes that stay on the device; or that are there at once, where the data is loaded again and again."""
        return self.room if self.kept is None else sum(map(bytes_of, self.kept))


def load(
    data: Any,
    place: Callable[[Any], Any],
    batch_size: int | None,
    budget: int,
    join: bool,
    samples: int | None = None,
    seed: int = 0,
) -> Batches:
    """Open the data; keep it on the device if it takes at most `budget` bytes there.

    Args:
        data: See `gradvis.objective`.
        place: Brings a batch to the device.
        batch_size: For arrays and datasets that have none of their own.
        budget: Bytes of the device that data may take.
        join: Whether batches are pairs of samples that can be put together and cut elsewhere.
        samples: How many to take, drawn without replacement; all where not given.
        seed: Of that choice.

    Raises:
        ValueError: If there is no data, it does not come out the same again, or it neither fits nor ends.
        TypeError: If it is nothing of a known form.
    """
    found = sources.source(data, batch_size or DEFAULT_BATCH)
    chosen = None if samples is None else sources.subset(found, samples, seed)
    if chosen is not None:
        found, samples = chosen[0], None
    kept = _keep(found, place, budget, join)
    if kept is None and samples is not None:
        raise ValueError(
            "samples=N is for arrays, data files, and datasets whose samples are numbered, or batches that fit in "
            f"memory, but more than the {budget} bytes that may be kept came; pass a Dataset with __len__"
        )
    if kept is not None and samples is not None:
        chosen = found, sum(map(sample_count, kept))
        kept = drawn(kept, samples, seed, sample_count, divisible, getitem)
    subset = None if chosen is None else (chosen[1], seed)
    if kept is None:
        return Batches(found, place, None, subset=subset, room=min(budget, CHUNK_BYTES))
    whole = joined(kept) if join else kept
    were = tuple(map(sample_count, kept)) if len(whole) < len(kept) else ()
    return Batches((), place, tuple(whole), were=were, subset=subset)


def _keep(found: Iterable[Any], place: Callable[[Any], Any], budget: int, pairs: bool) -> list[Any] | None:
    """The placed batches; None if they take more than the budget."""
    again = not once(found) and not isinstance(found, (list, tuple))
    first = next((place(batch) for batch in found), None) if again else None
    if isinstance(found, Rows) and found.mapped and _on_cpu(first):
        budget = min(budget, CHUNK_BYTES)  # what is larger stays in the file, where the ranks of a machine share it
        if found.nbytes > budget:
            return None
    kept: list[Any] = []
    size = 0
    for batch in sources.read(found):
        kept.append(place(batch))
        size += bytes_of(kept[-1])
        if len(kept) == 1:
            _see_first(found, first, kept[0], pairs)
        else:
            check_onward(length(found) is None and alike(kept[0], kept[-1]))
        if size > budget:
            check_again(found, budget, "a DataLoader, a Dataset", _LENGTH)
            return None
    check_some(sum(map(sample_count, kept)))
    return kept


def _on_cpu(batch: Any) -> bool:
    return all(leaf.device.type == "cpu" for _, leaf in leaves(batch) if isinstance(leaf, Tensor))


def _see_first(found: Iterable[Any], before: Any, now: Any, pairs: bool) -> None:
    """See that the first batch is the same when it is read again, and holds numbers.

    Raises:
        ValueError: If it holds none.
    """
    if pairs and not all(any(isinstance(leaf, Tensor) for _, leaf in leaves(part)) for part in now):
        raise ValueError(f"tensors or arrays were wanted as inputs and targets, but {describe(now)} came")
    check_same(before is None or digest([before]) == digest([now]))
