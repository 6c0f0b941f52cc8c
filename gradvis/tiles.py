"""How a grid is cut into tiles, and in which order they are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from gradvis.arrays import Values


@dataclass(frozen=True)
class Tiles:
    """A grid cut into tiles, numbered with the last axis fastest.

    Attributes:
        axes: The points of each axis by name, (n,) each.
        tile: Points of a tile along each axis.

    >>> tiles = Tiles({"alpha": np.arange(3.0), "beta": np.arange(2.0)}, (2, 2))
    >>> tiles.count, tiles.slices(1), tiles.points(1).tolist()
    (2, (slice(2, 3, None), slice(0, 2, None)), [[2.0, 0.0], [2.0, 1.0]])
    """

    axes: Mapping[str, Values]
    tile: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Points of the grid along each axis."""
        return tuple(len(points) for points in self.axes.values())

    @property
    def grid(self) -> tuple[int, ...]:
        """Tiles along each axis."""
        return tuple(-(-n // side) for n, side in zip(self.shape, self.tile, strict=True))

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return prod(self.grid)

    def order(self) -> list[int]:
        """The tile numbers in an order that shows the whole picture coarsely first; see `coarse_order`."""
        return coarse_order(self.grid)

    def slices(self, tile: int) -> tuple[slice, ...]:
        """Where a tile lies in the grid; the last ones along an axis may be smaller."""
        starts = [int(at) * side for at, side in zip(np.unravel_index(tile, self.grid), self.tile, strict=True)]
        return tuple(
            slice(start, min(start + side, n)) for start, side, n in zip(starts, self.tile, self.shape, strict=True)
        )

    def points(self, tile: int) -> Values:
        """The coordinates of a tile's points, (p, k)."""
        parts = [points[part] for points, part in zip(self.axes.values(), self.slices(tile), strict=True)]
        return np.stack(np.meshgrid(*parts, indexing="ij"), axis=-1).reshape(-1, len(parts))


def tile_shape(shape: tuple[int, ...], points_per_tile: int) -> tuple[int, ...]:
    """The most cubic tile of at most so many points, never larger than the grid.

    Args:
        shape: Points on each axis of the grid, any rank.
        points_per_tile: How many points a task should have; at least one is given.

    >>> tile_shape((51, 51), 16), tile_shape((5, 900), 100), tile_shape((21, 21, 21), 27), tile_shape((9,), 0)
    ((4, 4), (5, 20), (3, 3, 3), (1,))
    """
    tile = [1] * len(shape)
    left = points_per_tile
    for done, axis in enumerate(np.argsort(shape, kind="stable")):  # short axes first: what they lack, others get
        side = int(max(left, 1) ** (1 / (len(shape) - done)) + 1e-9)
        tile[axis] = min(shape[axis], side)
        left //= tile[axis]
    return tuple(tile)


def coarse_order(grid: tuple[int, ...]) -> list[int]:
    """Tile numbers in an order that shows the whole picture coarsely first, then ever finer.

    Each axis is halved again and again, and the tiles are taken in growing boxes of these
    halvings. So after n^k tiles every tile is within `ceil(m / n)` tiles, on an axis of m,
    of one that is done.

    Args:
        grid: How many tiles there are along each axis.

    >>> coarse_order((5,)), coarse_order((3, 3))
    ([0, 4, 2, 1, 3], [0, 2, 6, 8, 1, 7, 3, 5, 4])
    """
    rank = [np.argsort(_halvings(m)) for m in grid]  # tile along the axis -> when its halving comes
    ranks = np.stack(np.meshgrid(*rank, indexing="ij")).reshape(len(grid), -1)
    order: list[int] = np.lexsort((*ranks[::-1], ranks.max(axis=0))).tolist()
    return order


def _halvings(m: int) -> list[int]:
    """The ends of `range(m)`, its middle, the middles of the halves, and so on."""
    order = [0, m - 1][:m]
    gaps = [(0, m - 1)]
    for left, right in gaps:  # grows while it is walked: breadth first
        middle = (left + right) // 2
        if middle > left:
            order.append(middle)
            gaps += [(left, middle), (middle, right)]
    return order
