"""Where each named array of a model lives in the flat parameter vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Literal

import numpy as np

from gradvis.arrays import Matrix, Vector

Kind = Literal["weight", "bias", "norm"]


@dataclass(frozen=True)
class Block:
    """One named array of the model and how its filters are counted.

    Attributes:
        name: The framework's own name for it.
        shape: Its shape in the framework.
        kind: `weight`, `bias`, or `norm` (scale and shift of a normalisation layer).
        view: The shape in which the filters are counted; `shape` where not given.
        filter_axes: The axes of `view` that count filters; the other axes lie within one.
        start: Where the array starts in the flat vector.
        guessed: Whether axis 0 was taken for want of anything that says which axes count filters.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind = "weight"
    view: tuple[int, ...] = ()
    filter_axes: tuple[int, ...] = (0,)
    start: int = 0
    guessed: bool = False

    def __post_init__(self) -> None:
        if not self.view:
            object.__setattr__(self, "view", self.shape or (1,))
        if prod(self.view) != prod(self.shape):
            raise ValueError(f"block {self.name!r}: view {self.view} does not hold the numbers of shape {self.shape}")

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def slice(self) -> slice:
        """Its place in the flat vector."""
        return slice(self.start, self.start + self.size)

    def filters(self, theta: Vector) -> Matrix:
        """The block's filters, a row each, (filters, numbers per filter).

        >>> block = Block("kernel", (2, 3), filter_axes=(1,))   # inputs first, as Keras has it
        >>> block.filters(np.arange(6.0)).tolist()
        [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
        """
        values = np.moveaxis(theta[self.slice].reshape(self.view), self.filter_axes, range(len(self.filter_axes)))
        return values.reshape(prod(self.view[axis] for axis in self.filter_axes), -1)

    def flatten(self, filters: Matrix) -> Vector:
        """Undo `filters`: rows back to the order of the flat vector, (size,)."""
        counted = [self.view[axis] for axis in self.filter_axes]
        within = [n for axis, n in enumerate(self.view) if axis not in self.filter_axes]
        values = filters.reshape(*counted, *within)
        return np.moveaxis(values, range(len(counted)), self.filter_axes).reshape(-1)


class ParameterSpace:
    """The blocks of a model in vector order.

    >>> space = ParameterSpace([Block("a", (2, 3)), Block("b", (2,), kind="bias")])
    >>> space.d, [block.slice for block in space]
    (8, [slice(0, 6, None), slice(6, 8, None)])
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        placed: list[Block] = []
        start = 0
        for block in blocks:
            placed.append(replace(block, start=start))
            start += block.size
        names = [block.name for block in placed]
        if len(set(names)) < len(names):
            raise ValueError(f"every block needs a name of its own, but the names were {names}")
        self.blocks = tuple(placed)
        self.d = start

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, name: str) -> Block:
        for block in self.blocks:
            if block.name == name:
                return block
        raise KeyError(f"no parameter is called {name!r}; there are {[block.name for block in self.blocks]}")

    @property
    def names(self) -> list[str]:
        """Its blocks in words, name and shape: another architecture has others, though it may be as large."""
        return [f"{block.name} {' x '.join(map(str, block.shape))}" for block in self]

    def split(self, theta: Vector) -> dict[str, np.ndarray]:
        """Each block's values by name, in its own shape: views, not copies.

        Args:
            theta: A point or direction, (d,).

        Raises:
            ValueError: If theta is not a vector of this space.
        """
        return {block.name: self.check(theta)[block.slice].reshape(block.shape) for block in self}

    def check(self, theta: Vector) -> Vector:
        """Pass theta through, (d,), if it belongs to this space.

        Raises:
            ValueError: If it does not.
        """
        if np.shape(theta) != (self.d,):
            raise ValueError(
                f"a vector of {self.d} parameters was wanted, but the one given has shape {np.shape(theta)}"
            )
        return theta

    def matching(self, pattern: str) -> tuple[Block, ...]:
        """The blocks whose names match a glob such as `layer3.*`.

        Raises:
            ValueError: If no block does.
        """
        found = tuple(block for block in self if fnmatchcase(block.name, pattern))
        if not found:
            raise ValueError(f"no parameter matches {pattern!r}; there are {[block.name for block in self]}")
        return found
