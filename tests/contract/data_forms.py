"""The same few samples in every form that a framework takes, and what comes of them when they are opened."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from gradvis.backends.given import each, leaves
from gradvis.backends.pytorch import data as torch_data
from gradvis.backends.rows import describe
from gradvis.backends.tf import data as keras_data

SAMPLES, LARGE = 21, 1 << 30
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(SAMPLES, 6)).astype("float32"), RNG.integers(0, 4, SAMPLES)
PAIR = X, Y
CUTS = (0, 1, 9, 10, SAMPLES)


class Again:
    """Batches made anew each time, without a length."""

    def __init__(self, make: Callable[[], Iterable[Any]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self.make())


class Long(Again):
    """The same, of three batches, as it says."""

    def __len__(self) -> int:
        return 3


def forget_room(monkeypatch: Any, room: int) -> None:
    """Let a mapped file be read again each time if it is larger than this many bytes."""
    for module in (torch_data, keras_data):
        monkeypatch.setattr(module, "CHUNK_BYTES", room)


def pieces_of(data: Any, size: int = 8, count: int = SAMPLES) -> list[Any]:
    """A nest of arrays in batches."""
    return [each(lambda leaf, at=at: leaf[at : at + size], data) for at in range(0, count, size)]


def forever() -> Iterator[Any]:
    while True:
        yield from pieces_of(PAIR)


def seeded() -> Iterator[Any]:
    """Batches without an end, the same in each reading."""
    draw = np.random.default_rng(0)
    while True:
        yield draw.normal(size=(4, 6)), np.zeros(4)


def arrays_of(nest: Any) -> Any:
    """A nest of tensors in NumPy."""
    return each(lambda leaf: leaf.numpy() if hasattr(leaf, "numpy") else leaf, nest)


def end_to_end(batches: list[Any]) -> list[np.ndarray]:
    """The arrays of batches of one form, without their nest, all samples in order."""
    columns = zip(
        *([leaf for _, leaf in leaves(arrays_of(batch)) if leaf is not None] for batch in batches), strict=True
    )
    return [np.concatenate(column) for column in columns]


COMMON: dict[str, Callable[[], Any]] = {
    "arrays": lambda: PAIR,
    "list": lambda: pieces_of(PAIR),
    "tuple": lambda: tuple(pieces_of(PAIR)),
    "generator": lambda: iter(pieces_of(PAIR)),
    "iterable": lambda: Again(lambda: pieces_of(PAIR)),
    "ragged": lambda: [tuple(part[i:j] for part in PAIR) for i, j in itertools.pairwise(CUTS)],
}


class Indexed(Dataset):
    """Samples by number."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        return torch.tensor(X[index]), int(Y[index])


class Stream(IterableDataset):
    """One sample after the other."""

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self) -> Iterator[Any]:
        return zip(torch.tensor(X), torch.tensor(Y), strict=True)


class Augmented(Indexed):
    def __getitem__(self, index: int) -> Any:
        return torch.tensor(X[index]) + torch.randn(6), int(Y[index])


class Shuffling(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.tensor(X[at]), int(Y[at])) for at in torch.randperm(SAMPLES)])


class Torch:
    """Opened by the backend for PyTorch; what is `sized` has no batches of its own."""

    load, describe = staticmethod(torch_data.load), staticmethod(describe)

    def __init__(self) -> None:
        self.sized = {"arrays", "tensors", "dataset"}
        self.forms = {
            **COMMON,
            "tensors": lambda: tuple(map(torch.tensor, PAIR)),
            "dataset": Indexed,
            "loader": lambda: DataLoader(
                range(SAMPLES), 8, collate_fn=lambda at: tuple(torch.tensor(part[at]) for part in PAIR)
            ),
            "shuffling loader": lambda: DataLoader(Indexed(), 8, shuffle=True, drop_last=True),
            "loader of a stream": lambda: DataLoader(Stream(), 8),
        }
        self.changing = {
            "augmented": Augmented,
            "augmented in workers": lambda: DataLoader(Augmented(), 8, num_workers=1),
            "shuffling stream": Shuffling,
        }

    def tensor(self, values: Any) -> Any:
        return torch.as_tensor(values)

    def shared(self, values: np.ndarray) -> Any:
        """What can be written to: here a tensor in the memory of the array."""
        return torch.from_numpy(values)

    def half(self, values: Any) -> Any:
        """In bfloat16, of which torch takes its own tensors alone."""
        return torch.as_tensor(values).bfloat16()

    def open(
        self, data: Any, budget: int = LARGE, batch_size: int | None = None, pairs: bool = True, **options: Any
    ) -> Any:
        def place(batch: Any) -> Any:
            return torch_data.transfer(batch, torch.device("cpu"), torch.float32)

        return self.load(data, place, batch_size, budget, pairs, **options)

    def numbered(self, batches: Any, micro: int | None = None, part: tuple[int, int] = (0, 1)) -> list[Any]:
        cut = replace(batches, micro=micro).shard(*part)
        return [piece for chunk in cut.chunks() for piece in chunk]

    def each(self, batches: Any) -> Iterator[Any]:
        """The same, as many at a time as are on the device at once."""
        return itertools.chain.from_iterable(batches.chunks())

    def as_came(self, batches: Any) -> list[Any]:
        return list(batches.whole())

    def told(self, batches: Any) -> tuple[Any, ...]:
        """The digest, how many samples each batch has, and the bytes on the device."""
        lengths = batches.lengths() or [len(leaf) for (_, leaf), *_ in map(list, map(leaves, batches.whole()))]
        return batches.digest(), lengths, batches.nbytes()

    def at_once(self, budget: int, largest: int) -> int:
        """Bytes on the device of data that is read again each time: micro-batches until these are full."""
        return budget


class Numbered(keras.utils.PyDataset):
    """Its epochs never end, for nobody trains on it."""

    def __init__(self, batches: Any, **options: Any) -> None:
        super().__init__(**options)
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]

    def on_epoch_end(self) -> None:
        raise AssertionError("an epoch ended")

    def on_epoch_begin(self) -> None:
        raise AssertionError("an epoch began")


class Noise(list):
    def __getitem__(self, index: Any) -> Any:
        return RNG.normal(size=(4, 2)), Y[:4]


def dataset(size: int = 8, data: Any = PAIR) -> Any:
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


def noisy(x: Any) -> Any:
    """Not by TensorFlow, which draws the same in each reading where somebody has set its global seed."""
    drawn = tf.numpy_function(lambda values: values + RNG.normal(size=values.shape).astype(values.dtype), [x], x.dtype)
    return tf.ensure_shape(drawn, x.shape)


class Keras:
    """Opened by the backend for Keras."""

    load, describe = staticmethod(keras_data.load), staticmethod(describe)

    def __init__(self) -> None:
        self.variable: Any = None
        self.sized = {"arrays", "tensors"}
        self.forms = {
            **COMMON,
            "tensors": lambda: tuple(map(tf.constant, PAIR)),
            "dataset": dataset,
            "PyDataset": lambda: Numbered(pieces_of(PAIR), workers=3, use_multiprocessing=False),
        }
        self.changing = {
            "shuffled": lambda: dataset().unbatch().shuffle(SAMPLES).batch(8),
            "augmented": lambda: dataset().map(lambda x, y: (noisy(x), y)),
            "PyDataset": lambda: Numbered(Noise("ab")),
        }

    def tensor(self, values: Any) -> Any:
        return tf.convert_to_tensor(values)

    def shared(self, values: np.ndarray) -> Any:
        """The one variable of this kind, which now holds the array; tensors cannot be written to."""
        if self.variable is None:
            self.variable = tf.Variable(values)
        return self.variable.assign(values)

    def half(self, values: Any) -> Any:
        """In bfloat16."""
        return values.astype(ml_dtypes.bfloat16)

    def open(
        self, data: Any, budget: int = LARGE, batch_size: int | None = None, pairs: bool = True, **options: Any
    ) -> Any:
        return self.load(data, "float32", batch_size, budget, pairs=pairs, **options)

    def numbered(self, batches: Any, micro: int | None = None, part: tuple[int, int] = (0, 1)) -> list[Any]:
        return list(batches.recut(micro).shard(*part))

    def each(self, batches: Any) -> Iterator[Any]:
        """The same, one at a time."""
        return iter(batches)

    def as_came(self, batches: Any) -> list[Any]:
        return [batch for _, batch in batches.recut(None)]

    def told(self, batches: Any) -> tuple[Any, ...]:
        """The digest, how many samples each batch has, and the bytes on the device."""
        return batches.digest, list(batches.were), batches.nbytes

    def at_once(self, budget: int, largest: int) -> int:
        """The same, of one batch: it is read whole, whatever it is cut into."""
        return largest


KINDS = {"torch": Torch(), "keras": Keras()}
ONCE = {"generator", "iterable"}  # read once, or without a length
FORMS = [(kind, form) for kind, made in KINDS.items() for form in made.forms]
CHANGING = [(kind, form) for kind, made in KINDS.items() for form in made.changing]
