"""One batch: tensors and arrays, however nested, counted, cut, joined, compared and brought to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradvis.backends.given import each, leaves
from gradvis.backends.room import even
from gradvis.backends.rows import Digest, Rows, words_of


def is_array(value: Any) -> bool:
    """Whether it is a tensor, an array, or can become one."""
    return isinstance(value, (np.ndarray, Tensor)) or (hasattr(value, "__array__") and hasattr(value, "shape"))


def is_pair(batch: Any) -> bool:
    """Whether a batch is (inputs, targets), a tensor each."""
    return isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)


def divisible(batch: Any) -> bool:
    """Whether a batch is (inputs, targets) whose arrays, however nested, all have one length, so that it can be cut.

    >>> divisible(({"ids": torch.ones(3, 5), "mask": torch.ones(3, 5)}, torch.ones(3)))
    True
    >>> divisible((torch.ones(3, 5), torch.ones(15)))
    False
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        return False
    lengths = {len(leaf) if is_array(leaf) and len(leaf.shape) else None for _, leaf in leaves(batch)}
    return len(lengths) == 1 and None not in lengths


def sample_count(batch: Any) -> int:
    """How many samples a batch has: the length of its first array; 1 where there is none."""
    return next((len(leaf) for _, leaf in leaves(batch) if is_array(leaf) and len(leaf.shape)), 1)


def cut(batch: Any, micro: int | None) -> Iterator[Any]:
    """In pieces of nearly the same length, at most `micro`; whole where it is not `divisible`."""
    if isinstance(batch, Rows):
        yield from batch.cut(None if micro is None else even(batch.length, micro))
        return
    count = sample_count(batch)
    if micro is None or count <= micro or not divisible(batch):
        yield batch
        return
    size = even(count, micro)
    for start in range(0, count, size):
        yield piece(batch, start, start + size)


def cut_all(batches: Iterable[Any], micro: int | None) -> Iterator[Any]:
    """The pieces of all batches, one after the other."""
    return (part for batch in batches for part in cut(batch, micro))


def piece(batch: Any, start: int, stop: int) -> Any:
    """The samples of a divisible batch from one number to another."""
    return each(lambda leaf: leaf[start:stop], batch)


def joined(batches: list[Any]) -> list[Any]:
    """Divisible batches that differ only in length become one, so that it can be cut anywhere."""
    if len(batches) == 1 or not all(map(divisible, batches)) or len(set(map(_form, batches))) > 1:
        return batches
    columns = zip(*([leaf for _, leaf in leaves(batch)] for batch in batches), strict=True)
    wholes = map(_concatenate, columns)
    return [each(lambda _: next(wholes), batches[0])]


def _form(batch: Any) -> tuple[Any, ...]:
    return tuple((path, leaf.shape[1:], leaf.dtype, leaf.stride()[1:]) for path, leaf in leaves(batch))


def _concatenate(parts: tuple[Tensor, ...]) -> Tensor:
    """End to end, keeping the layout within a sample."""
    first = parts[0]
    shape = (sum(len(part) for part in parts), *first.shape[1:])
    whole = torch.empty_strided(shape, first.stride(), dtype=first.dtype, device=first.device)
    return torch.cat(parts, out=whole)


def transfer(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Tensors and arrays, however nested, to the device, as copies; floating ones in dtype, the rest as they are.

    The user may go on writing to what they gave, and loaders may use one buffer again and again.

    Raises:
        ValueError: If something in it holds no real numbers.
    """
    return each(lambda leaf: _moved(leaf, device, dtype) if is_array(leaf) else leaf, value)


def placed(batch: Any, device: torch.device, dtype: torch.dtype, pairs: bool) -> Any:
    """The batch on the device, in the dtype; classes as torch wants them.

    Args:
        batch: As it came.
        device: Where it goes.
        dtype: Of floating-point numbers.
        pairs: Whether it must be (inputs, targets).

    Raises:
        ValueError: If it is another, or holds no real numbers.
    """
    moved = transfer(batch, device, dtype)
    if not pairs:
        return moved
    if not isinstance(moved, (tuple, list)) or len(moved) != 2:
        raise ValueError(
            f"each batch must be (inputs, targets), but a {type(batch).__name__} came; "
            "for other batches pass batch_loss=f(model, batch)"
        )
    return moved[0], labels(moved[1])


def _moved(leaf: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    made = leaf.detach() if isinstance(leaf, Tensor) else _tensor(np.asarray(leaf))
    if made.layout is not torch.strided or made.is_complex():
        came = str(made.layout if made.layout is not torch.strided else made.dtype).removeprefix("torch.")
        raise ValueError(
            f"dense real numbers were wanted, but {came} came; use .to_dense(), or torch.view_as_real for complex ones"
        )
    return made.to(device, dtype if made.is_floating_point() else None, copy=isinstance(leaf, Tensor))


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """A copy of its own, in the machine's byte order.

    Raises:
        ValueError: If torch has no such numbers.
    """
    try:
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
    except TypeError as error:
        raise ValueError(
            f"numbers were wanted, but an array of dtype {array.dtype} came; make it floats or integers first"
        ) from error


def labels(targets: Any) -> Any:
    """Classes as torch wants them: int64."""
    small = isinstance(targets, Tensor) and not targets.is_floating_point() and not targets.is_complex()
    return targets.long() if small else targets


def versions(batch: Any) -> list[int]:
    """How often each tensor of a batch has been written to."""
    return [leaf._version for _, leaf in leaves(batch) if isinstance(leaf, Tensor)]


def bytes_of(batch: Any) -> int:
    """What its tensors take."""
    return sum(leaf.nbytes for _, leaf in leaves(batch) if isinstance(leaf, Tensor))


def digest(batches: Iterable[Any]) -> str:
    """Of every number in them, in order, however they are batched."""
    found = Digest(_content)
    for batch in batches:
        found.add(batch)
    return found.told()


def _content(leaf: Any) -> tuple[str, Any]:
    if not isinstance(leaf, Tensor):
        return "", words_of(leaf)
    numbers = leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f" {leaf.dtype} {tuple(leaf.shape[1:])}", numbers


def alike(one: Any, other: Any) -> bool:
    """Whether two batches hold tensors, and the same numbers."""
    mine, theirs = list(leaves(one)), list(leaves(other))
    if bytes_of(one) == 0 or [path for path, _ in mine] != [path for path, _ in theirs]:
        return False
    return all(_same(a, b) for (_, a), (_, b) in zip(mine, theirs, strict=True))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return _content(a) == _content(b) if not isinstance(a, Tensor) and not isinstance(b, Tensor) else False
