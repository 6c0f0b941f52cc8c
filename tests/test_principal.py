"""Principal planes against scikit-learn's PCA, dense SVDs, planted planes and random walks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from gradvis import projection
from gradvis.plane import project
from gradvis.principal import box, components_of, principal, random_walk
from gradvis.schedule import Serial


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def small(monkeypatch):
    """Many tasks, parts and pieces."""
    monkeypatch.setattr(projection, "_TASK", 3000)
    monkeypatch.setattr(projection, "_PART", 1100)
    monkeypatch.setattr(projection, "_CACHE", 2**14)


def plane_of(rows, numbers=(1, 2), anchored=False):
    return principal([row.__getitem__ for row in rows], rows.shape[1], numbers, anchored, Serial())


def walk(rng, t, d, dtype=np.float64):
    return rng.normal(size=(t, d)).cumsum(axis=0).astype(dtype)


def same_up_to_sign(found, wanted, atol):
    signs = np.sign(np.sum(found * wanted, axis=1))[:, None]
    np.testing.assert_allclose(found, signs * wanted, atol=atol)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("numbers", [[1], [1, 2], [2, 1, 3], [4]])
@pytest.mark.parametrize(("t", "d"), [(8, 7001), (20, 11), (6, 5)])
def test_it_is_the_pca_of_scikit_learn(rng, t, d, numbers):
    rows = walk(rng, t, d)
    pca = PCA(max(numbers)).fit(rows)
    chosen = [number - 1 for number in numbers]

    plane, found, _ = plane_of(rows, numbers)

    np.testing.assert_allclose(plane.about["explained_variance"], pca.explained_variance_ratio_[chosen], rtol=1e-9)
    same_up_to_sign(plane.directions, pca.components_[chosen], 1e-9)
    same_up_to_sign(found.coords.T, (pca.transform(rows) - pca.transform(rows[-1:]))[:, chosen].T, 1e-8)
    np.testing.assert_array_equal(plane.origin, rows[-1])


@pytest.mark.usefixtures("small")
def test_anchored_it_is_the_svd_about_the_last_checkpoint(rng):
    rows = walk(rng, 8, 7001)
    _, sizes, axes = np.linalg.svd(rows - rows[-1], full_matrices=False)

    plane, found, _ = plane_of(rows, anchored=True)

    np.testing.assert_allclose(plane.about["explained_variance"], sizes[:2] ** 2 / np.sum(sizes**2), rtol=1e-10)
    same_up_to_sign(plane.directions, axes[:2], 1e-10)
    same_up_to_sign(found.coords.T, axes[:2] @ (rows - rows[-1]).T, 1e-9)
    assert plane.about["anchored"] is True


@pytest.mark.parametrize("anchored", [False, True])
def test_coordinates_and_distances_are_those_of_the_plane_that_is_kept(rng, anchored):
    """Float32 directions are not quite the principal axes, nor of unit length."""
    rows = walk(rng, 9, 30_011, np.float32)

    plane, found, _ = plane_of(rows, anchored=anchored)

    coords, off = project(plane.origin, plane.directions, rows)
    assert plane.directions.dtype == np.float32
    np.testing.assert_allclose(found.coords, coords, rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(found.off_plane, off, rtol=1e-11, atol=1e-9)


@pytest.fixture(scope="module")
def planted():
    """Coordinates, and float32 checkpoints exactly in a plane: weights of about 1, steps of about 1e-3."""
    rng = np.random.default_rng(0)
    t, d = 20, 300_007
    coords = rng.integers(-12, 13, (t, 2))
    directions = rng.integers(-10, 11, (2, d)) * 2.0**-17
    exact = rng.integers(2**16, 2**17, d) * 2.0**-16 + coords @ directions
    return coords, directions, exact, exact.astype(np.float32)


def test_a_path_in_a_plane_is_recovered(planted, monkeypatch):
    """To what float32 directions allow: their own rounding is 3e-8 of each step."""
    monkeypatch.setattr(projection, "_TASK", 2**17)
    monkeypatch.setattr(projection, "_PART", 2**15 + 1)
    coords, directions, exact, rows = planted
    np.testing.assert_array_equal(rows, exact)

    plane, found, _ = plane_of(rows)

    lengths = np.linalg.norm((coords - coords[-1]) @ directions, axis=1)
    np.testing.assert_allclose(np.linalg.norm(found.coords, axis=1), lengths, rtol=1e-7)
    turned = np.linalg.lstsq(coords - coords[-1], found.coords, rcond=None)[0]
    np.testing.assert_allclose((coords - coords[-1]) @ turned, found.coords, rtol=0, atol=1e-7 * lengths.max())
    assert found.off_plane.max() < 1e-7 * lengths.max()
    assert sum(plane.about["explained_variance"]) == pytest.approx(1, abs=1e-12)
    step = (found.coords @ plane.directions.astype(np.float64))[0]
    np.testing.assert_allclose(step, (coords[0] - coords[-1]) @ directions, rtol=0, atol=1e-7 * np.abs(step).max())


def test_what_rounding_the_checkpoints_moves_is_off_the_plane_and_no_more(rng):
    """Weights near 1 are rounded by 3e-8, which beside steps of 1e-3 lies off the plane; coordinates stay right."""
    coords, directions = rng.normal(size=(20, 2)), 1e-3 * rng.normal(size=(2, 300_007))
    exact = rng.normal(size=300_007) + coords @ directions
    rows = exact.astype(np.float32)

    found = plane_of(rows)[1]

    lengths = np.linalg.norm(exact - exact[-1], axis=1)
    moved = np.linalg.norm(rows - exact, axis=1).max()
    np.testing.assert_allclose(np.linalg.norm(found.coords, axis=1), lengths, rtol=1e-6)
    assert 0.1 * moved < found.off_plane[:-1].min() < found.off_plane.max() < 2 * moved < 1e-4 * lengths.max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_nearly_straight_path_has_a_second_axis(rng, dtype):
    """The second standard deviation is 1e-4 of the first."""
    t, d = 15, 20_011
    axes = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
    coords = np.stack([np.linspace(-3, 0, t), 3e-4 * np.cos(np.arange(t))], axis=1)
    rows = (coords @ axes).astype(dtype)

    plane, found, _ = plane_of(rows)

    wide = rows.astype(np.float64)
    _, sizes, wanted = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    shares = plane.about["explained_variance"]
    np.testing.assert_allclose(shares, sizes[:2] ** 2 / np.sum(sizes**2), rtol=1e-6)
    assert 1e-9 < shares[1] < 1e-7
    same_up_to_sign(plane.directions, wanted[:2], 1e-7)
    off = project(wide[-1], plane.directions, wide)[1]
    np.testing.assert_allclose(found.off_plane, off, rtol=1e-6, atol=1e-11)


def test_a_long_random_walk_has_the_shares_of_a_random_walk(rng):
    rows = walk(rng, 400, 20_000, np.float32)

    for anchored, wanted in ((False, [0.608, 0.152]), (True, [0.811, 0.090])):
        about = plane_of(rows, anchored=anchored)[0].about
        np.testing.assert_allclose(about["explained_variance"], wanted, rtol=0.03)
        np.testing.assert_allclose(about["random_walk"], wanted, rtol=0.01)


@pytest.mark.parametrize("count", [2, 3, 7, 50])
@pytest.mark.parametrize("anchored", [False, True])
def test_random_walk_shares_are_the_eigenvalues_of_the_expected_gram_matrix(count, anchored):
    left = np.arange(count)[::-1]
    expected = np.minimum.outer(left, left).astype(np.float64)  # E of (x_i - x_last) (x_j - x_last), a unit a step
    if not anchored:
        centring = np.eye(count) - 1 / count
        expected = centring @ expected @ centring
    values = np.linalg.eigvalsh(expected)[::-1]
    numbers = [*range(1, min(count, 4))]

    np.testing.assert_allclose(
        random_walk(count, numbers, anchored), values[: len(numbers)] / np.trace(expected), rtol=1e-12
    )


def test_a_path_comes_from_the_left(rng):
    """Signs of axes are free; runs look alike if what is farthest from the end has negative coordinates."""
    for seed in range(4):
        _, found, _ = plane_of(walk(np.random.default_rng(seed), 7, 50))
        assert np.all(found.coords[np.argmax(np.abs(found.coords), axis=0), [0, 1]] < 0)
        np.testing.assert_allclose(found.coords[-1], 0, atol=1e-12)


@pytest.mark.parametrize("anchored", [False, True])
def test_two_checkpoints_span_a_line(rng, anchored):
    rows = walk(rng, 2, 3001, np.float32)

    plane, found, _ = plane_of(rows, [1], anchored)

    length = np.linalg.norm(rows[0].astype(np.float64) - rows[1])
    np.testing.assert_allclose(found.coords, [[-length], [0]], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found.off_plane / length, 0, atol=1e-7)
    assert plane.about["explained_variance"] == pytest.approx([1])
    assert plane.about["random_walk"] == pytest.approx([1])


def test_three_checkpoints_span_a_plane(rng):
    rows = walk(rng, 3, 3001)

    plane, found, _ = plane_of(rows)

    np.testing.assert_allclose(found.coords @ plane.directions, rows - rows[-1], atol=1e-10)
    np.testing.assert_allclose(found.off_plane, 0, atol=1e-10)


@pytest.mark.parametrize(
    ("rows", "numbers", "match"),
    [
        (np.ones((1, 5)), [1], "1 checkpoint spans 0 dimensions"),
        (np.ones((4, 5)), [1, 2], "components 1, 2 were wanted, but the path of 4 checkpoints spans 0 dimensions"),
        (np.arange(4.0)[:, None] * np.ones(5), [1, 2], "spans 1 dimension;"),
        (np.random.default_rng(0).normal(size=(9, 2)), [1, 3], "spans 2 dimensions"),
        (np.random.default_rng(0).normal(size=(9, 5)), [1, 1], "one to three different components"),
        (np.random.default_rng(0).normal(size=(9, 5)), [0, 1], "numbered from 1, but 0, 1 came"),
        (np.random.default_rng(0).normal(size=(9, 5)), [1, 2, 3, 4], "one to three"),
        (np.random.default_rng(0).normal(size=(9, 5)), [], "but none came"),
    ],
)
def test_components_that_are_not_there_are_refused(rows, numbers, match):
    with pytest.raises(ValueError, match=match):
        plane_of(rows, numbers)


def test_unit_weights_give_unit_directions(rng):
    rows = walk(rng, 6, 40)
    steps = rows - rows[-1]

    weights, coords, shares = components_of(steps @ steps.T, [1, 2, 3], False)

    np.testing.assert_allclose((weights @ steps) @ (weights @ steps).T, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(coords, steps @ (weights @ steps).T, atol=1e-9)
    assert np.all(np.diff(shares) < 0)


def test_half_precision_checkpoints_get_float32_directions(rng):
    rows = walk(rng, 6, 3001, np.float16)

    plane, found, _ = plane_of(rows)

    assert plane.directions.dtype == np.float32
    np.testing.assert_allclose(plane.directions @ plane.directions.T, np.eye(2), atol=2e-6)  # half would give 1e-4
    coords, off = project(rows[-1], plane.directions, rows.astype(np.float64))
    np.testing.assert_allclose(found.coords, coords, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.off_plane, off, rtol=1e-9, atol=1e-9)


def test_the_box_holds_the_path_and_the_origin():
    assert box(np.array([[1.0, -2.0], [3.0, -1.0]])) == [[0.0, 3.0], [-2.0, 0.0]]
