import numpy as np
import pytest

from gradvis import Plane
from gradvis.plane import project


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_project_undoes_point(rng):
    origin, directions = rng.normal(size=9), rng.normal(size=(2, 9))
    coords = rng.normal(size=(5, 2))

    back, off = project(origin, directions, origin + coords @ directions)

    np.testing.assert_allclose(back, coords)
    np.testing.assert_allclose(off, 0, atol=1e-12)


def test_off_is_the_distance_from_the_plane(rng):
    plane = Plane(rng.normal(size=9), rng.normal(size=(2, 9)))
    normal = rng.normal(size=9)
    basis, _ = np.linalg.qr(plane.directions.T)
    normal -= basis @ (basis.T @ normal)

    coords, off = plane.project(plane.point([[1.0, -2.0]]) + 3 * normal / np.linalg.norm(normal))

    np.testing.assert_allclose(coords, [[1, -2]])
    np.testing.assert_allclose(off, 3)


def test_parallel_directions_are_refused(rng):
    direction = rng.normal(size=9)
    with pytest.raises(ValueError, match="parallel or zero"):
        project(np.zeros(9), np.stack([direction, -2 * direction]), np.zeros((1, 9)))


def test_points_are_formed_in_float32_at_least():
    half = Plane(np.zeros(2, np.float16), np.ones((1, 2), np.float16))
    assert half.point([1e-4]).dtype == np.float32


def test_a_plane_cannot_be_changed(rng):
    origin = rng.normal(size=3)
    plane = Plane(origin, np.eye(3)[:2])
    with pytest.raises(ValueError, match="read-only"):
        plane.origin[0] = 1
    origin[0] = 1  # the user's own array is still theirs to write


@pytest.mark.parametrize(
    ("origin", "directions", "match"),
    [
        (np.zeros(3), np.zeros((2, 4)), "origin .d,. and directions"),
        (np.array([np.nan, 0]), np.zeros((1, 2)), "finite"),
        (np.zeros(2), np.array([[np.inf, 0]]), "finite"),
    ],
)
def test_what_is_no_plane_is_refused(origin, directions, match):
    with pytest.raises(ValueError, match=match):
        Plane(origin, directions)


def test_a_point_has_k_coordinates():
    with pytest.raises(ValueError, match="has 2 coordinates"):
        Plane(np.zeros(3), np.eye(3)[:2]).point([1.0])
