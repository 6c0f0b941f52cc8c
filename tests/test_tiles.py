"""Tiles: any grid is cut whole, and seen coarsely first."""

from math import ceil, prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gradvis.tiles import Tiles, coarse_order, tile_shape

shapes = st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple)


@settings(deadline=None, max_examples=60)
@given(shapes, st.integers(-1, 2000))
def test_a_tile_fits_the_grid_and_the_number_of_points(shape, points):
    tile = tile_shape(shape, points)

    assert all(1 <= side <= n for side, n in zip(tile, shape, strict=True))
    assert prod(tile) <= max(points, 1)
    free = [side for side, n in zip(tile, shape, strict=True) if side < n]
    if free:  # near-cubic: no axis could be one longer without some axis being too long
        assert (min(free) + 1) ** len(free) * prod(tile) // prod(free) > points
    else:
        assert prod(shape) <= max(points, 1)


@settings(deadline=None, max_examples=60)
@given(shapes, st.integers(1, 60))
def test_the_tiles_cover_the_grid_once(shape, points):
    tiles = Tiles({f"axis{i}": np.arange(float(n)) for i, n in enumerate(shape)}, tile_shape(shape, points))
    seen = np.zeros(shape, int)
    for tile in range(tiles.count):
        part = tiles.slices(tile)
        seen[part] += 1
        np.testing.assert_array_equal(tiles.points(tile), np.argwhere(np.ones(shape))[_inside(shape, part)])
    assert (seen == 1).all()


def _inside(shape, part):
    chosen = np.zeros(shape, bool)
    chosen[part] = True
    return chosen.reshape(-1)


@settings(deadline=None, max_examples=60)
@given(shapes)
def test_the_whole_is_seen_coarsely_first(grid):
    order = coarse_order(grid)

    assert sorted(order) == list(range(prod(grid)))
    places = np.stack(np.unravel_index(order, grid), axis=-1)  # (tiles, k)
    everywhere = np.stack(np.unravel_index(np.arange(prod(grid)), grid), axis=-1)
    for n in range(1, min(grid) + 1):
        done = places[: n ** len(grid)]
        far = np.array([ceil(m / n) for m in grid])
        within = (np.abs(everywhere[:, None] - done[None]) <= far).all(axis=2)
        assert within.any(axis=1).all()


def test_a_quarter_of_the_tiles_is_a_picture_of_the_whole():
    done = np.zeros((13, 13), bool)
    done.flat[coarse_order((13, 13))[: 13 * 13 // 4]] = True

    for row in range(12):
        for column in range(12):
            assert done[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].any()
