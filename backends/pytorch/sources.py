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

from gradvis.backends.given import choose, each, leaves, refuse_endless
from gradvis.backends.pytorch.batch import Rows, is_array
from gradvis.backends.pytorch.files import read_data

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
        return _rows(arrays, size, mapped)
    if isinstance(data, DataLoader):
        return _in_order(data)
    if isinstance(data, Dataset):
        if not isinstance(data, IterableDataset) and not hasattr(data, "__len__"):
            raise TypeError(
                f"a dataset that says how long it is was wanted, but {type(data).__name__} has no __len__; give it one"
            )
        return DataLoader(data, size)
    if _is_arrays(data):
        return _rows(data, size)
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


def once(found: Iterable[Any]) -> bool:
    """Whether it can be read only once."""
    return isinstance(found, Iterator)


def length(found: Iterable[Any]) -> int | None:
    """How many batches it says it has; None where it does not say."""
    if isinstance(found, Rows):
        return -(-found.length // found.size)
    try:
        return len(found)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
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
    """Its batches, one after the other.

    Raises:
        ValueError: If there are more than it says.
    """
    most = length(found)
    for number, batch in enumerate(found):
        if most is not None and number >= most:
            raise ValueError(
                f"data that says how long it is was wanted, but {_name(found)} gives more than the {most} batches of "
                "its __len__; mend that, and let each worker of a stream give a part of its own"
            )
        yield batch


def _name(found: Any) -> str:
    return type(found.dataset if isinstance(found, DataLoader) else found).__name__


def _rows(arrays: tuple[Any, Any], size: int, mapped: bool = False) -> Rows:
    """The arrays of a pair, batch by batch.

    Raises:
        ValueError: If they are not of one length.
    """
    arrays = each(lambda leaf: leaf.to_numpy() if hasattr(leaf, "to_numpy") else leaf, arrays)  # tables of pandas
    inputs, targets = ([len(leaf) if len(leaf.shape) else 0 for _, leaf in leaves(part)] for part in arrays)
    if len({*inputs, *targets}) != 1 or 0 in targets:
        came = [" or ".join(str(count) for count in sorted(set(counts))) for counts in (inputs, targets)]
        raise ValueError(f"inputs and targets of one length, at least 1, were wanted, but {came[0]} and {came[1]} came")
    return Rows(arrays, size, mapped=mapped)


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
