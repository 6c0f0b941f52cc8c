"""Data as arrays, Dataset, DataLoader or finite iterable: read in order, kept on the device when it fits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

DEFAULT_BATCH = 128
_WHOLE = (SequentialSampler, RandomSampler, WeightedRandomSampler, DistributedSampler)  # they draw from all samples


@dataclass(frozen=True)
class Batches:
    """Batches on the device, in one order, again and again.

    Attributes:
        source: Yields batches; each time the same ones.
        place: Brings a batch to the device, in the objective's dtype.
        kept: The placed batches, or None when they are too many to keep and are loaded each time.
        micro: How many samples go through the network at once; None leaves batches as they come.
        part: (index, count): every count-th micro-batch, from index on.
    """

    source: Iterable[Any]
    place: Callable[[Any], Any]
    kept: tuple[Any, ...] | None
    micro: int | None = None
    part: tuple[int, int] = (0, 1)

    def chunks(self) -> Iterator[list[tuple[int, Any]]]:
        """Numbered micro-batches, as many at a time as are on the device at once."""
        if self.kept is not None:
            yield list(self._part(self.kept))
            return
        for numbered in self._part(self.place(batch) for batch in self.source):
            yield [numbered]

    def _part(self, batches: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        whole = enumerate(piece for batch in batches for piece in cut(batch, self.micro))
        index, count = self.part
        return islice(whole, index, None, count)

    def shard(self, index: int, count: int) -> Batches:
        """Every count-th micro-batch of this part."""
        first, step = self.part
        return replace(self, part=(first + index * step, step * count))

    def laid_out(self, layout: Callable[[Any], Any]) -> Batches:
        """The same batches in another memory layout."""
        kept = None if self.kept is None else tuple(map(layout, self.kept))
        return replace(self, place=lambda batch: layout(self.place(batch)), kept=kept)

    def digest(self) -> str:
        """Of every number in it, in order, however it is batched."""
        leaves: dict[str, Any] = {}
        for batch in self.kept if self.kept is not None else map(self.place, self.source):
            for path, leaf in _leaves(batch):
                kind = f"{path} {leaf.dtype} {tuple(leaf.shape[1:])}" if isinstance(leaf, Tensor) else path
                _update(leaves.setdefault(kind, hashlib.blake2b(digest_size=16)), leaf)
        return hashlib.blake2b(
            repr([(kind, found.hexdigest()) for kind, found in leaves.items()]).encode(), digest_size=16
        ).hexdigest()

    def samples(self) -> int | None:
        """How many samples there are; None where only reading them all would tell."""
        if self.kept is not None:
            return sum(map(sample_count, self.kept))
        dataset: Any = getattr(self.source, "dataset", None)
        return len(dataset) if hasattr(dataset, "__len__") else None

    def nbytes(self) -> int:
        """Bytes that stay on the device."""
        return sum(_bytes(batch) for batch in self.kept or ())


def load(data: Any, place: Callable[[Any], Any], batch_size: int | None, budget: int, join: bool) -> Batches:
    """Open the data; keep it on the device if it takes at most `budget` bytes there.

    Args:
        data: See `gradvis.objective`.
        place: Brings a batch to the device.
        batch_size: For arrays and datasets that have none of their own.
        budget: Bytes of the device that data may take.
        join: Whether batches are pairs of samples that can be put together and cut elsewhere.

    Raises:
        ValueError: If there is no data, or an iterator that can be read only once does not fit.
    """
    source = _source(data, batch_size or DEFAULT_BATCH)
    once = iter(source) is source
    kept, size = [], 0
    for batch in source:
        kept.append(place(batch))
        size += _bytes(kept[-1])
        if size > budget:
            if once:
                raise ValueError(
                    f"an iterator can be read only once, and this one gave more than the {budget} bytes that may be "
                    "kept; pass a DataLoader, a Dataset or a list of batches, which can be read again"
                )
            return Batches(source, place, None)
    if not kept:
        raise ValueError("data with at least one batch was wanted, but the data given has none")
    return Batches(source, place, tuple(_joined(kept)) if join else tuple(kept))


def _batches_itself(loader: DataLoader[Any]) -> bool:
    """Whether its batches are what its sampler gives, one after the other, or single items of a stream."""
    return loader.batch_size is not None or loader.batch_sampler is None


def _again(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same samples with the same collate function and workers, in index order, the last batch included.

    Raises:
        ValueError: If its sampler does not say which samples those are.
    """
    dataset, sampler = loader.dataset, loader.sampler if _batches_itself(loader) else loader.batch_sampler
    if isinstance(sampler, SubsetRandomSampler):
        dataset = Subset(dataset, sorted(sampler.indices))
    elif not isinstance(dataset, IterableDataset) and not isinstance(sampler, _WHOLE):
        raise ValueError(
            f"a loader whose samples are known was wanted, but its sampler is a {type(sampler).__name__}; "
            "pass the dataset, or torch.utils.data.Subset(dataset, indices)"
        )
    return DataLoader(
        dataset, loader.batch_size, num_workers=loader.num_workers, collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn, timeout=loader.timeout,
    )  # fmt: skip


class _Slices:
    """A pair of arrays, batch by batch."""

    def __init__(self, inputs: Any, targets: Any, size: int) -> None:
        self.arrays, self.size = (inputs, targets), size

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(self.arrays[0]), self.size):
            inputs, targets = (array[start : start + self.size] for array in self.arrays)
            yield inputs, targets


def _source(data: Any, size: int) -> Iterable[Any]:
    """Something that yields the batches, in index order, from the first to the last.

    Raises:
        TypeError: If it is nothing of that kind.
        ValueError: If the arrays do not belong together.
    """
    if isinstance(data, DataLoader):
        ordered = isinstance(data.dataset, IterableDataset) or isinstance(data.sampler, SequentialSampler)
        return data if ordered and not data.drop_last and _batches_itself(data) else _again(data)
    if isinstance(data, Dataset):
        return DataLoader(data, size)
    if isinstance(data, tuple) and len(data) == 2 and all(map(_is_array, data)):
        inputs, targets = data
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise ValueError(
                f"inputs and targets of one length, at least 1, were wanted, but {len(inputs)} and {len(targets)} came"
            )
        return _Slices(inputs, targets, size)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        return data
    raise TypeError(
        f"data must be a pair of arrays, a Dataset, a DataLoader or batches, but {type(data).__name__} came"
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, Tensor)) or (hasattr(value, "__array__") and hasattr(value, "shape"))


def is_pair(batch: Any) -> bool:
    """Whether a batch is (inputs, targets), a tensor each."""
    return isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)


def _joined(batches: list[Any]) -> list[Any]:
    """Pairs of tensors that differ only in length become one pair, so that it can be cut anywhere."""
    if not all(map(is_pair, batches)):
        return batches
    if len({tuple((part.shape[1:], part.dtype, part.stride()[1:]) for part in batch) for batch in batches}) > 1:
        return batches
    return [tuple(_concatenate([batch[part] for batch in batches]) for part in (0, 1))]


def _concatenate(parts: list[Tensor]) -> Tensor:
    """End to end, keeping the layout within a sample."""
    first = parts[0]
    shape = (sum(len(part) for part in parts), *first.shape[1:])
    whole = torch.empty_strided(shape, first.stride(), dtype=first.dtype, device=first.device)
    return torch.cat(parts, out=whole) if len(parts) > 1 else first


def cut(batch: Any, micro: int | None) -> Iterator[Any]:
    """A pair in pieces of nearly the same length, at most `micro`; anything else whole."""
    if micro is None or not is_pair(batch) or len(batch[0]) <= micro:
        yield batch
        return
    inputs, targets = batch
    size = even(len(inputs), micro)
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size], targets[start : start + size]


def even(samples: int, micro: int) -> int:
    """The piece length, at most `micro`, that leaves the shortest rest.

    >>> even(1003, 128)
    126
    """
    return ceil(samples / ceil(samples / micro))


def transfer(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Tensors and arrays, however nested, to the device, as copies; floating ones in dtype, the rest as they are.

    The user may go on writing to what they gave, and loaders may use one buffer again and again.
    """
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(np.array(value, value.dtype.newbyteorder("=")))
    elif not isinstance(value, Tensor) and _is_array(value):
        value = torch.as_tensor(np.array(value))
    if isinstance(value, Tensor):
        return value.detach().to(device, dtype if value.is_floating_point() else None, copy=True)
    if isinstance(value, Mapping):
        return {key: transfer(item, device, dtype) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(transfer(item, device, dtype) for item in value)
    return value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, value


def versions(batch: Any) -> list[int]:
    """How often each tensor of a batch has been written to."""
    return [leaf._version for _, leaf in _leaves(batch) if isinstance(leaf, Tensor)]


def labels(targets: Any) -> Any:
    """Classes as torch wants them: int64."""
    small = isinstance(targets, Tensor) and not targets.is_floating_point() and not targets.is_complex()
    return targets.long() if small else targets


def sample_count(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor."""
    if isinstance(batch, Tensor):
        return len(batch)
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (tuple, list)):
        return next((sample_count(part) for part in batch if isinstance(part, (Tensor, Mapping, tuple, list))), 1)
    return 1


def _bytes(batch: Any) -> int:
    return sum(leaf.nbytes for _, leaf in _leaves(batch) if isinstance(leaf, Tensor))


def _update(running: Any, leaf: Any) -> None:
    if isinstance(leaf, Tensor):
        running.update(leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    else:
        running.update(repr(leaf).encode())
