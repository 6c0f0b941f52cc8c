"""What a user gives as data, as something that yields its batches in index order, again and again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch.utils.data import (
    BatchSampler,
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

from gradvis.backends import reading
from gradvis.backends.given import choose, leaves, refuse_endless
from gradvis.backends.pytorch.batch import is_array
from gradvis.backends.pytorch.files import read_data
from gradvis.backends.rows import Rows, rows_of

_WHOLE = (SequentialSampler, RandomSampler, WeightedRandomSampler, DistributedSampler)  # they draw from all samples


def source(data: Any, size: int) -> Iterable[Any]:
    """Something that yields the batches, in index order, from the first to the last.

    Args:
        data: See `gradvis.objective`.
        size: Samples a batch, for data without batches of its own.

    Raises:
        TypeError: If it is nothing of that kind.
        ValueError: If it would never end, is no data file, or holds arrays that do not belong together.
    """
    if isinstance(data, (str, os.PathLike)):
        arrays, mapped = read_data(data)
        return rows_of(arrays, size, mapped)
    if isinstance(data, DataLoader):
        return _in_order(data)
    if isinstance(data, Dataset):
        if not isinstance(data, IterableDataset) and not hasattr(data, "__len__"):
            raise TypeError(
                f"a dataset that says how long it is was wanted, but {type(data).__name__} has no __len__; give it one"
            )
        return DataLoader(data, size)
    if _is_arrays(data):
        return rows_of(data, size, mapped=False)
    refuse_endless(data)
    if isinstance(data, Iterable) and not isinstance(data, (bytes, Mapping)) and not is_array(data):
        return data
    raise TypeError(
        f"data must be a pair of arrays, a Dataset, a DataLoader or batches, but {type(data).__name__} came; "
        "the path of a data file does too"
    )


def subset(found: Iterable[Any], samples: int, seed: int) -> tuple[Iterable[Any], int] | None:
    """Some samples of it, the same for the same seed, and how many there were; None where they have no numbers.

    Args:
        found: As `source` gives it.
        samples: How many to take, without replacement.
        seed: Of the choice.

    Raises:
        ValueError: If there are not so many.
    """
    if isinstance(found, Rows):
        return replace(found, chosen=choose(found.length, samples, seed)), found.length
    if isinstance(found, DataLoader) and not isinstance(found.dataset, IterableDataset) and found.batch_size:
        chosen = choose(total := len(found.dataset), samples, seed)  # type: ignore[arg-type]
        return _like(found, Subset(found.dataset, chosen.tolist())), total
    return None


def samples_of(found: Iterable[Any]) -> int | None:
    """How many samples it says it has; None where only reading them all would tell."""
    if isinstance(found, Rows):
        return found.length
    if isinstance(found, DataLoader) and found.batch_size and hasattr(found.dataset, "__len__"):
        return len(found.dataset)
    return None


def lengths_of(found: Iterable[Any]) -> list[int] | None:
    """How many samples each batch has, if the number of samples is known."""
    total = samples_of(found)
    if total is None:
        return None
    size: int = getattr(found, "size" if isinstance(found, Rows) else "batch_size")
    return [min(size, total - start) for start in range(0, total, size)]


def read(found: Iterable[Any]) -> Iterator[Any]:
    """Its batches, one after the other; see `reading.read`."""
    called = type(found.dataset if isinstance(found, DataLoader) else found).__name__
    return reading.read(found, called, "mend that, and let each worker of a stream give a part of its own")


def _is_arrays(data: Any) -> bool:
    """(inputs, targets): an array, or several by name or in order, and an array, or several by name."""
    if not isinstance(data, tuple) or len(data) != 2:
        return False
    named = is_array(data[1]) or isinstance(data[1], Mapping)
    return named and all(is_array(leaf) for _, leaf in leaves(data))


def _in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same samples with the same collate function and workers, in index order, the last batch included.

    Raises:
        ValueError: If its sampler does not say which samples those are.
    """
    dataset, size = loader.dataset, loader.batch_size
    sampler: Any = loader.sampler
    if size is None and loader.batch_sampler is not None:
        sampler = loader.batch_sampler
        if type(sampler) is BatchSampler:
            sampler, size = sampler.sampler, sampler.batch_size
    if isinstance(sampler, SubsetRandomSampler):
        dataset = Subset(dataset, sorted(sampler.indices))
    elif not isinstance(dataset, IterableDataset) and not isinstance(sampler, _WHOLE):
        raise ValueError(
            f"a loader whose samples are known was wanted, but its sampler is a {type(sampler).__name__}; "
            "pass the dataset, or torch.utils.data.Subset(dataset, indices)"
        )
    return _like(loader, dataset, size)


def _like(loader: DataLoader[Any], dataset: Dataset[Any], size: int | None = None) -> DataLoader[Any]:
    """A loader of one's own: reading the user's would draw from its generator and end a reading under way."""
    return DataLoader(
        dataset, size or loader.batch_size, num_workers=loader.num_workers, collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn, timeout=loader.timeout, prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers, multiprocessing_context=loader.multiprocessing_context,
    )  # fmt: skip
