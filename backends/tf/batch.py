"""One batch: tensors, however nested, made of what the user gave, counted, cut, joined and compared."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from gradvis.backends import rows
from gradvis.backends.given import each, leaves
from gradvis.backends.room import even
from gradvis.backends.rows import describe, words_of

Tensor = Any  # TensorFlow has no types of its own
Batch = Any
"""(inputs, targets, weights), each of them maybe nested, the weights None where there are none; or what `batch_loss`
takes."""


def take(array: Any, rows: Any) -> Any:
    """Samples of an array or a tensor, those of a slice or of numbers; None of None."""
    if array is None or isinstance(rows, slice) or not isinstance(array, (tf.Tensor, tf.Variable)):
        return None if array is None else array[rows]
    return tf.gather(array, rows)


def is_array(value: Any) -> bool:
    """Whether it is a tensor, an array, or can become one."""
    if isinstance(value, (np.ndarray, tf.Tensor, tf.Variable, tf.SparseTensor, tf.RaggedTensor)):
        return True
    return hasattr(value, "__array__") and hasattr(value, "shape")


def size(batch: Any) -> int:
    """How many samples a batch has: the length of its first array; 1 where there is none."""
    return next((int(leaf.shape[0]) for _, leaf in leaves(batch) if is_array(leaf) and len(leaf.shape)), 1)


# ---------------------------------------------------------------------------------------------- made of what came


def placed(batch: Any, dtype: str, pairs: bool) -> Batch:
    """The batch in tensors of its own: the user may go on writing to what they gave.

    Args:
        batch: As it came.
        dtype: Of floating-point numbers.
        pairs: Whether it must be (inputs, targets), or with sample weights.

    Raises:
        ValueError: If it is another, or holds no real numbers.
    """
    if not pairs:
        return each(lambda leaf: tensor(leaf, dtype) if is_array(leaf) else leaf, batch)
    if not isinstance(batch, (tuple, list)) or len(batch) not in {2, 3}:
        raise ValueError(
            "each batch must be (inputs, targets), or (inputs, targets, sample_weights), but "
            f"{describe(batch)} came; pass batch_loss=f(model, batch) for others"
        )
    inputs, targets, weights = [*batch, None][:3]
    if not all(any(is_array(leaf) for _, leaf in leaves(part)) for part in (inputs, targets)):
        raise ValueError(f"tensors or arrays were wanted as inputs and targets, but {describe(batch)} came")
    made = [
        each(lambda leaf: tensor(leaf, dtype) if is_array(leaf) else leaf, part) for part in (inputs, targets, weights)
    ]
    if weights is not None:
        made[2] = each(lambda leaf: None if leaf is None else tf.cast(leaf, dtype), made[2])
    _see_samples(made[0], made[1])
    return tuple(made)


def _see_samples(inputs: Any, targets: Any) -> None:
    """See that there is a row for each sample.

    Raises:
        ValueError: If a dataset gives samples one by one.
    """
    single = [leaf for _, leaf in leaves(targets) if is_array(leaf) and not len(leaf.shape)]
    if single:
        raise ValueError(
            f"batches of samples were wanted, but a single one came, {describe((inputs, targets))}; "
            "add .batch(128) to the dataset"
        )


def tensor(leaf: Any, dtype: str) -> Tensor:
    """A tensor of its own, floating-point numbers in dtype, all others as they are.

    Raises:
        ValueError: If there are no such numbers.
    """
    if isinstance(leaf, tf.RaggedTensor):
        raise ValueError(
            f"dense tensors were wanted, but a RaggedTensor of shape {tuple(leaf.shape)} came; pad it with .to_tensor()"
        )
    if isinstance(leaf, tf.SparseTensor):
        leaf = tf.sparse.to_dense(leaf)
    made = tf.convert_to_tensor(leaf if isinstance(leaf, (tf.Tensor, tf.Variable)) else _numbers(np.asarray(leaf)))
    if made.dtype.is_complex:
        raise ValueError(
            f"dense real numbers were wanted, but {made.dtype.name} came; give real and imaginary parts as two channels"
        )
    return tf.cast(made, dtype) if made.dtype.is_floating else made


def _numbers(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Numbers in the machine's byte order, of which TensorFlow makes a copy; texts stay texts.

    Raises:
        ValueError: If they are neither.
    """
    if array.dtype.kind == "O" and array.size and all(isinstance(item, (str, bytes)) for item in array.flat):
        return np.array([item.encode() if isinstance(item, str) else item for item in array.flat]).reshape(array.shape)
    try:
        made = np.asarray(array, array.dtype.newbyteorder("=") if array.dtype.isbuiltin != 2 else None)
        tf.as_dtype(made.dtype)
    except TypeError as error:
        raise ValueError(
            f"numbers were wanted, but an array of dtype {array.dtype} came; make it floats or integers first"
        ) from error
    if made.dtype.kind == "O":
        raise ValueError(f"numbers were wanted, but an array of dtype {array.dtype} came; make it floats or integers")
    return made


# ---------------------------------------------------------------------------------------------- cut and joined


def divisible(batch: Batch) -> bool:
    """Whether all arrays of a batch have one length, so that it can be cut.

    >>> divisible((tf.ones((3, 5)), tf.ones(3), None)), divisible((tf.ones((3, 5)), tf.ones(15), None))
    (True, False)
    """
    arrays = [leaf for _, leaf in leaves(batch) if leaf is not None]
    lengths = {int(leaf.shape[0]) if isinstance(leaf, tf.Tensor) and leaf.shape.rank else None for leaf in arrays}
    return len(lengths) == 1 and None not in lengths


def split(batch: Batch, lengths: list[int]) -> list[Batch]:
    """A divisible batch in pieces of these lengths, which add up to its own."""
    if len(lengths) == 1:
        return [batch]
    columns = [None if leaf is None else tf.split(leaf, lengths) for _, leaf in leaves(batch)]
    return [
        _filled(batch, [None if column is None else column[number] for column in columns])
        for number in range(len(lengths))
    ]


def _filled(batch: Batch, values: Iterable[Any]) -> Batch:
    """The same nest with other leaves."""
    left = iter(values)
    return each(lambda _: next(left), batch)


def cut_evenly(batch: Batch, micro: int | None) -> list[Batch]:
    """Pieces of nearly one length, at most `micro`; whole where it cannot be cut."""
    count = size(batch)
    if micro is None or count <= micro or not divisible(batch):
        return [batch]
    return split(batch, steps(count, even(count, micro)))


def steps(count: int, step: int) -> list[int]:
    """The lengths of pieces of so many samples each, the last of what is left.

    >>> steps(10, 4)
    [4, 4, 2]
    """
    return [high - low for low, high in pairwise([*range(0, count, step), count])]


def joined(batches: list[Batch]) -> list[Batch]:
    """Divisible batches that differ only in length become one, so that it can be cut anywhere."""
    if len(batches) == 1 or not all(map(divisible, batches)) or len({repr(_form(batch)) for batch in batches}) > 1:
        return batches
    columns = zip(*([leaf for _, leaf in leaves(batch)] for batch in batches), strict=True)
    return [_filled(batches[0], [None if column[0] is None else tf.concat(column, 0) for column in columns])]


def _form(batch: Batch) -> list[Any]:
    return [(path, leaf if leaf is None else (leaf.shape[1:], leaf.dtype)) for path, leaf in leaves(batch)]


# ---------------------------------------------------------------------------------------------- compared


def bytes_of(batch: Batch) -> int:
    """What its tensors take; a text counts as what it holds."""
    return sum(_nbytes(leaf) for _, leaf in leaves(batch) if isinstance(leaf, tf.Tensor))


def _nbytes(leaf: Tensor) -> int:
    return len(_bytes(leaf)) if leaf.dtype == tf.string else leaf.dtype.size * leaf.shape.num_elements()


def digest(batches: Iterable[Batch]) -> str:
    """Of every number in them, in order, however they are batched."""
    found = Digest()
    for batch in batches:
        found.add(batch)
    return found.told()


def _content(leaf: Any) -> tuple[str, Any] | None:
    """Weights that are not there say nothing."""
    if leaf is None:
        return None
    if not isinstance(leaf, tf.Tensor):
        return "", words_of(leaf)
    return f" {leaf.dtype.name} {tuple(leaf.shape[1:])}", _bytes(leaf)


def _bytes(leaf: Tensor) -> Any:
    if leaf.dtype == tf.string:
        return b"".join(b"%d:%s" % (len(item), item) for item in leaf.numpy().reshape(-1))
    return np.ascontiguousarray(leaf.numpy()).reshape(-1).view(np.uint8)


Digest = partial(rows.Digest, _content)
