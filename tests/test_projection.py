"""Gram matrices and places of checkpoints, against dense float64 arithmetic."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gradvis import projection
from gradvis.plane import project
from gradvis.projection import NotFiniteError, combined, finite, gram, places
from gradvis.schedule import Serial
from tests.launch import PYTHON, mpirun

SCRIPT = """
import numpy as np
from gradvis import projection
from gradvis.principal import principal
from gradvis.schedule import Serial, default_scheduler

projection._TASK, projection._PART = 3000, 1100
rows = np.random.default_rng(0).normal(size=(7, 20011)).astype(np.float32).cumsum(axis=0)
reads = [row.__getitem__ for row in rows]

def bits(scheduler):
    plane, found, products = principal(reads, rows.shape[1], [1, 2], False, scheduler)
    again = projection.places(reads, plane.origin, plane.directions * 2, scheduler)
    arrays = products, plane.directions, found.coords, found.off_plane, again.coords, again.off_plane
    return [each.tobytes() for each in arrays]

scheduler = default_scheduler()
print(f"rank {scheduler.rank} of {scheduler.size} has the same: {bits(scheduler) == bits(Serial())};", flush=True)
"""


class Backwards(Serial):
    """Does the tasks from the last to the first, as ranks that are slow to start may."""

    def map(self, task, count, progress=None):
        return [task(index) for index in reversed(range(count))][::-1]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tasks, parts and pieces of which none fits into the next larger, and of which tests need many."""
    monkeypatch.setattr(projection, "_TASK", 3000)
    monkeypatch.setattr(projection, "_PART", 1100)
    monkeypatch.setattr(projection, "_CACHE", 2**14)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def reads_of(rows):
    return [row.__getitem__ for row in rows]


def walk(rng, t, d, dtype=np.float64):
    return rng.normal(size=(t, d)).cumsum(axis=0).astype(dtype)


def dense(rows):
    steps = rows.astype(np.float64) - rows[-1].astype(np.float64)
    return steps @ steps.T


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("t", "d"), [(1, 5), (2, 1), (3, 2), (9, 4), (8, 1100), (8, 3000), (8, 10007)])
def test_gram_is_the_dense_product(rng, t, d, dtype):
    rows = walk(rng, t, d, dtype)

    found = gram(reads_of(rows), d, Serial())

    np.testing.assert_allclose(found, dense(rows), rtol=1e-12, atol=1e-12 * np.max(dense(rows), initial=0))
    np.testing.assert_array_equal(found, found.T)


def test_gram_of_small_steps_between_large_float32_weights_keeps_all_digits(rng):
    rows = (100 + 1e-4 * walk(rng, 6, 5000)).astype(np.float32)

    np.testing.assert_allclose(gram(reads_of(rows), 5000, Serial()), dense(rows), rtol=1e-12, atol=1e-15)


def test_differences_that_float32_cannot_hold_are_exact():
    rows = np.array([[1.0, 1.0], [-(2.0**-25), 1.0]], np.float32)

    assert gram(reads_of(rows), 2, Serial())[0, 0] == (1 + 2.0**-25) ** 2


def unlike(rng, d, lengths, cosine, dtype=np.float64):
    """Two directions of such lengths and such a cosine."""
    basis = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
    second = cosine * basis[0] + np.sqrt(1 - cosine**2) * basis[1]
    return (np.stack([basis[0], second]) * np.array(lengths)[:, None]).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("lengths", "cosine"), [((1, 1), 0), ((1e-3, 1e3), 0.99), ((1e3, 1e-3), -0.99), ((1, 1), 0.999999)]
)
def test_places_are_those_of_the_dense_projection(rng, lengths, cosine, dtype):
    rows = walk(rng, 5, 7001, dtype)
    origin, directions = rng.normal(size=7001).astype(dtype), unlike(rng, 7001, lengths, cosine, dtype)

    found = places(reads_of(rows), origin, directions, Serial())

    coords, off = project(origin, directions, rows)
    np.testing.assert_allclose(found.coords, coords, rtol=1e-9, atol=1e-9 * np.abs(coords).max(axis=0).min())
    np.testing.assert_allclose(found.off_plane, off, rtol=1e-11)


@pytest.mark.parametrize("k", [1, 3])
def test_places_on_lines_and_in_volumes(rng, k):
    rows, origin, directions = walk(rng, 4, 5003), rng.normal(size=5003), rng.normal(size=(k, 5003))

    found = places(reads_of(rows), origin, directions, Serial())

    coords, off = project(origin, directions, rows)
    np.testing.assert_allclose(found.coords, coords, rtol=1e-10)
    np.testing.assert_allclose(found.off_plane, off, rtol=1e-12)


@pytest.mark.parametrize("cosine", [0, 0.99])
def test_a_tiny_distance_beside_a_long_step_keeps_its_digits(rng, cosine):
    """1e-10 and 1e6 squared and subtracted would leave nothing of the distance."""
    d = 5003
    directions = unlike(rng, d, (1, 1), cosine)
    normal = rng.normal(size=d)
    normal -= directions.T @ np.linalg.lstsq(directions.T, normal, rcond=None)[0]
    normal /= np.linalg.norm(normal)
    rows = np.stack([1e3 * directions[0] + 1e-5 * normal, -700 * directions[1] + 2e-5 * normal])

    found = places(reads_of(rows), np.zeros(d), directions, Serial())

    np.testing.assert_allclose(found.off_plane, [1e-5, 2e-5], rtol=1e-5)
    np.testing.assert_allclose(found.coords, [[1e3, 0], [0, -700]], rtol=1e-11, atol=1e-9)


def test_a_float32_distance_beside_a_long_step_keeps_its_digits():
    rows, directions = np.zeros((1, 4000), np.float32), np.zeros((1, 4000), np.float32)
    rows[0, 17], rows[0, 3999], directions[0, 17] = 1e3, 1e-5, 3

    found = places(reads_of(rows), np.zeros(4000, np.float32), directions, Serial())

    np.testing.assert_allclose(found.off_plane, [1e-5], rtol=1e-6)
    np.testing.assert_allclose(found.coords, [[1e3 / 3]], rtol=1e-15)


def test_points_of_the_plane_are_not_off_it(rng):
    origin, directions = rng.normal(size=7001), rng.normal(size=(2, 7001))
    wanted = rng.normal(size=(6, 2))

    found = places(reads_of(origin + wanted @ directions), origin, directions, Serial())

    np.testing.assert_allclose(found.coords, wanted, rtol=1e-12)
    np.testing.assert_allclose(found.off_plane, 0, atol=1e-12 * np.linalg.norm(directions))


def test_combined_directions_are_the_weighted_steps_and_places_are_theirs(rng):
    rows, weights = walk(rng, 6, 7001, np.float32), rng.normal(size=(2, 6))
    wrong = rng.normal(size=(6, 2))  # coordinates are refined, whatever came

    directions, found = combined(reads_of(rows), weights, wrong, 7001, np.float32, Serial())

    steps = rows.astype(np.float64) - rows[-1]
    assert directions.dtype == np.float32
    np.testing.assert_allclose(directions, weights @ steps, rtol=1e-6, atol=1e-5)
    coords, off = project(rows[-1], directions, rows)
    np.testing.assert_allclose(found.coords, coords, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.off_plane, off, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("second", [0.0, -2.0, 1.0 + 1e-9])
def test_parallel_and_zero_directions_are_refused(rng, second):
    first = rng.normal(size=4000)
    with pytest.raises(ValueError, match="span a plane, but they are parallel or zero"):
        places(reads_of(walk(rng, 3, 4000)), np.zeros(4000), np.stack([first, second * first]), Serial())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("which", [0, 2])
def test_checkpoints_that_are_not_finite_are_refused_without_warnings(rng, bad, which):
    rows, plane = walk(rng, 3, 4000), rng.normal(size=(2, 4000))
    rows[which, 3500] = bad
    with pytest.raises(NotFiniteError, match="NaN or inf"):
        gram(reads_of(rows), 4000, Serial())
    with pytest.raises(NotFiniteError, match="NaN or inf"):
        places(reads_of(rows), np.zeros(4000), plane, Serial())


def test_finite_tells_which_checkpoints_are(rng):
    rows = walk(rng, 4, 4000, np.float32)
    rows[1, 0], rows[3, 3999] = np.nan, np.inf

    assert finite(reads_of(rows), 4000, Serial()) == [True, False, True, False]


def bits(rows, scheduler):
    weights = np.linspace(-1, 1, 2 * len(rows)).reshape(2, -1)
    reads, d = reads_of(rows), rows.shape[1]
    directions, found = combined(reads, weights, np.zeros((len(rows), 2)), d, np.float32, scheduler)
    again = places(reads, rows[0], directions, scheduler)
    arrays = (gram(reads, d, scheduler), directions, found.coords, found.off_plane, again.coords, again.off_plane)
    return [each.tobytes() for each in arrays]


def test_the_order_of_tasks_changes_no_bit(rng):
    rows = walk(rng, 7, 20011, np.float32)
    assert bits(rows, Serial()) == bits(rows, Backwards())


def test_the_number_of_threads_changes_no_bit(rng, monkeypatch):
    rows, found = walk(rng, 7, 20011, np.float32), []
    for workers in (1, 2, 5):
        monkeypatch.setattr(projection, "threads", lambda sharers, workers=workers: workers)
        found.append(bits(rows, Serial()))
    assert found[0] == found[1] == found[2]


def test_three_ranks_get_the_bits_of_one():
    done = mpirun(3, PYTHON, "-c", SCRIPT)

    assert done.returncode == 0, done.stderr
    said = sorted(re.findall(r"rank \d of 3 has the same: \w+", done.stdout))
    assert said == [f"rank {rank} of 3 has the same: True" for rank in range(3)]


def test_no_more_is_read_at_once_than_fits(monkeypatch):
    """Whatever the number of checkpoints."""
    monkeypatch.setattr(projection, "_ROOM", 5000)
    widths = []

    def read(part):
        widths.append(part.stop - part.start)
        return np.zeros(part.stop - part.start, np.float32)

    gram([read] * 49, 4001, Serial())

    assert max(widths) == 5000 // 49
    assert sum(widths) == 4001 * 50
