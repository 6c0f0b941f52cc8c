"""Where each named array of a model lives in the flat parameter vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import prod
from typing import Literal

import numpy as np

from gradvis.arrays import Matrix, Vector

Kind = Literal["weight", "bias", "norm"]
Shape = tuple[int, ...]
Axes = int | tuple[int, ...]


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
        guessed: Whether the framework's usual axis was taken for want of anything that says which axes count filters.
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


def is_scale(shape: Shape) -> bool:
    """Whether an array of this shape is one number, or one for each channel.

    >>> is_scale(()), is_scale((4,)), is_scale((4, 1, 1)), is_scale((1, 1, 4))    # the last one is a token
    (True, True, True, False)
    """
    if len(shape) < 2 or prod(shape) == 1:
        return True
    may_be = len(shape) > 3 or (len(shape) == 3 and shape[-1] == 1)
    return may_be and prod(shape) == max(shape)


def told(blocks: list[Block], filters: Mapping[str, Axes]) -> list[Block]:
    """The blocks, with the axes of filters that the user names.

    Args:
        blocks: As the backend made them.
        filters: Globs of names of weights, and the axes of their shape that count filters; `()` for an
            array that is one filter. The first glob that fits counts.

    Raises:
        ValueError: If a glob fits no weight, or names an axis that is not there.
    """
    found: dict[str, Block] = {}
    weights = [block for block in blocks if block.kind == "weight"]
    for glob, axes in filters.items():
        fitting = [block for block in weights if fnmatchcase(block.name, glob)]
        if not fitting:
            near = ", ".join(get_close_matches(glob, [block.name for block in weights], cutoff=0))
            raise ValueError(f"filters must name weights of the model, but {glob!r} fits none; near: {near}")
        for block in fitting:
            found.setdefault(block.name, _told(block, glob, axes))
    return [found.get(block.name, block) for block in blocks]


def _told(block: Block, glob: str, axes: Axes) -> Block:
    named, dims = axes if isinstance(axes, (tuple, list)) else (axes,), len(block.shape)
    if not all(isinstance(axis, int) and -dims <= axis < dims for axis in named):
        raise ValueError(
            f"filters[{glob!r}] must be axes of {block.name}, whose shape is {block.shape}, but {axes!r} came"
        )
    counted = tuple(sorted({axis % dims for axis in named}))
    return replace(block, view=block.shape, filter_axes=counted, guessed=False)
