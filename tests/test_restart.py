"""Thick-restart Lanczos against dense eigenpairs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradvis.restart import _Space, eigenpairs
from tests.test_krylov import dense, spectra, times


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def ends(values, k, which):
    values = np.sort(values)[::-1]
    return {"largest": values[:k], "smallest": values[-k:], "both": np.r_[values[:k], values[-k:]]}[which]


class Counted:
    """A product that knows how many rows it was asked for."""

    def __init__(self, matrix):
        self.matrix, self.rows = matrix, 0

    def __call__(self, rows):
        self.rows += len(rows)
        return rows @ self.matrix if self.matrix.ndim == 2 else rows * self.matrix


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
@pytest.mark.parametrize("name", ["definite", "indefinite", "negative", "clustered", "repeated", "deficient"])
def test_pairs_are_those_of_the_dense_matrix(name, which, scale, rng):
    values = scale * spectra(60, rng)[name]
    matrix, norm = dense(values, rng), np.abs(values).max()

    found = eigenpairs(times(matrix), rng.normal(size=60), 4, which, tol=1e-10, basis=20, max_products=3000)

    np.testing.assert_allclose(found.values, ends(values, 4, which), rtol=0, atol=1e-10 * norm)
    true = np.linalg.norm(found.vectors @ matrix - found.values[:, None] * found.vectors, axis=1)
    np.testing.assert_allclose(found.residuals, true, rtol=1e-3, atol=1e-15 * norm)
    assert found.converged.all()
    assert np.all(true <= 1e-10 * norm)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(len(found.values)), atol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 20, 39, 40])
@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_as_many_pairs_as_there_are_dimensions_can_be_had(k, which, rng):
    matrix = dense(np.r_[np.zeros(20), rng.normal(size=20)], rng)
    found = eigenpairs(times(matrix), rng.normal(size=40), k, which)

    np.testing.assert_allclose(found.values, ends(np.linalg.eigvalsh(matrix), k, which), atol=1e-13)
    assert found.converged.all()
    assert eigenpairs(times(matrix), rng.normal(size=40), 20, "both").values.shape == (40,)


@pytest.mark.parametrize("scale", [0.0, 1.0, -2.5])
def test_a_multiple_of_the_identity_has_as_many_copies_as_are_wanted(scale, rng):
    found = eigenpairs(lambda rows: scale * rows, rng.normal(size=100), 6, "both")

    np.testing.assert_allclose(found.values, np.full(12, scale), atol=1e-14)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(12), atol=1e-14)
    assert found.converged.all()


def test_copies_of_an_eigenvalue_are_found_though_a_krylov_space_has_only_one(rng):
    values = np.r_[rng.uniform(-1, 1, 994), 3, 3, 3, 2, 2, 1.5]
    for seed in range(3):
        start = np.random.default_rng(seed).normal(size=1000)
        found = eigenpairs(Counted(values), start, 6, tol=1e-6)
        np.testing.assert_allclose(found.values, [3, 3, 3, 2, 2, 1.5], atol=1e-9)
        assert found.converged.all()


def test_the_recurrence_knows_the_residuals_of_its_ritz_pairs(rng):
    matrix = dense(rng.normal(size=50), rng)
    space = _Space(times(matrix), rng.normal(size=50), 40, np.float64, rng)
    for steps in (1, 2, 9):
        for _ in range(steps):
            space.step(1000)
        values, inside = np.linalg.eigh(space.projected[: space.n, : space.n])
        vectors = inside.T @ space.basis[: space.n]
        true = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)

        np.testing.assert_allclose(space.residuals(inside), true, atol=1e-13)


def test_an_eigenvector_that_the_start_does_not_contain_is_found(rng):
    values = np.r_[rng.uniform(-1, 1, 499), 5]
    start = np.r_[rng.normal(size=499), 0]

    assert eigenpairs(Counted(values), start, 1).values[0] == pytest.approx(5, abs=1e-8)
    assert eigenpairs(Counted(values), np.eye(500)[0], 1).values[0] == pytest.approx(5, abs=1e-8)


class Blind(np.random.Generator):
    """Its first vector does not contain the last direction either."""

    drawn = 0

    def normal(self, *arguments, **options):
        self.drawn += 1
        return super().normal(*arguments, **options) * np.r_[np.ones(499), self.drawn > 1]


def test_an_eigenvector_that_no_vector_of_the_first_block_contains_is_looked_for(rng):
    values = np.r_[rng.uniform(-1, 1, 497), 4, 3, 5]

    found = eigenpairs(Counted(values), np.r_[rng.normal(size=499), 0], 1, rng=Blind(np.random.PCG64(0)))

    assert found.values[0] == pytest.approx(5, abs=1e-8)


def test_a_restart_finds_more_pairs_than_fit_one_run(rng):
    """Without what restarts carry over, a basis of 16 vectors never gets there."""
    values = np.r_[rng.uniform(0, 1, 388), np.linspace(1.05, 2, 12)]
    product = Counted(values)
    found = eigenpairs(product, rng.normal(size=400), 12, tol=1e-9, basis=18, max_products=700)

    np.testing.assert_allclose(found.values, np.sort(values)[::-1][:12], atol=1e-12)
    assert found.converged.all()
    assert product.rows < 700


def test_a_restarted_run_takes_few_more_products_than_an_unbounded_basis(rng):
    values = np.sort(2 * np.cos(np.linspace(0, np.pi, 300)))
    small, large = Counted(values), Counted(values)
    start = rng.normal(size=300)
    eigenpairs(small, start, 2, tol=1e-6, basis=40, max_products=2000)
    eigenpairs(large, start, 2, tol=1e-6, basis=280, max_products=2000)

    assert large.rows < small.rows < 2.5 * large.rows


def test_products_are_never_more_than_allowed_and_what_has_not_converged_says_so(rng):
    values = 2 * np.cos(np.linspace(0, np.pi, 2000))
    for limit in (6, 20, 57, 100):
        product = Counted(values)
        found = eigenpairs(product, rng.normal(size=2000), 3, tol=1e-8, max_products=limit)
        assert product.rows == limit
        assert not found.converged.any()
        true = np.linalg.norm(found.vectors * values - found.values[:, None] * found.vectors, axis=1)
        np.testing.assert_allclose(found.residuals, true, rtol=1e-8)
    product = Counted(values)
    eigenpairs(product, rng.normal(size=2000), 3, tol=1e-12)
    assert product.rows == 50 * 3 + 500


def test_residuals_are_measured_not_taken_from_the_recurrence(rng):
    """An operator that is not symmetric by 1e-3: the recurrence converges to nothing of it."""
    values = np.r_[rng.uniform(0, 1, 95), 20, 40, 60, 80, 100]
    matrix = np.diag(values) + 1e-3 * rng.normal(size=(100, 100))
    found = eigenpairs(lambda rows: rows @ matrix.T, rng.normal(size=100), 3, tol=1e-6)

    true = np.linalg.norm(found.vectors @ matrix.T - found.values[:, None] * found.vectors, axis=1)
    np.testing.assert_allclose(found.residuals, true, rtol=1e-9)
    assert not found.converged.any()


def test_single_precision_products_and_storage_reach_single_precision(rng):
    values = np.r_[rng.uniform(0, 1, 995), 20, 40, 60, 80, 100].astype(np.float32)
    found = eigenpairs(lambda rows: rows.astype(np.float32) * values, rng.normal(size=1000), 5, dtype=np.float32)

    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(found.values, [100, 80, 60, 40, 20], rtol=1e-6)
    assert found.converged.all()


def test_the_same_start_gives_the_same_pairs(rng):
    values, start = rng.normal(size=300), rng.normal(size=300)
    first, second = (eigenpairs(Counted(values), start, 3, "both") for _ in range(2))

    assert first.values.tobytes() == second.values.tobytes()
    assert first.vectors.tobytes() == second.vectors.tobytes()
    assert np.all(np.diff(first.values) <= 0)


def test_the_start_is_not_changed(rng):
    start = rng.normal(size=50)
    kept = start.copy()
    eigenpairs(Counted(rng.normal(size=50)), start, 2)

    np.testing.assert_array_equal(start, kept)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 30), st.sampled_from(["largest", "smallest", "both"]), st.data())
def test_small_matrices_with_few_different_eigenvalues_come_out_right(d, which, data):
    k = data.draw(st.integers(1, d // 2 if which == "both" else d))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values = 10.0 ** rng.integers(-6, 7) * rng.integers(-3, 4, d)
    wanted = 2 * k if which == "both" else k
    matrix, norm = dense(values, rng), np.abs(values).max()
    basis = data.draw(st.integers(min(d, wanted + 8), d))

    found = eigenpairs(times(matrix), rng.normal(size=d), k, which, tol=1e-9, basis=basis, rng=rng)

    np.testing.assert_allclose(found.values, ends(values, k, which), rtol=0, atol=1e-9 * norm)
    assert found.converged.all()


def refused(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}")


def test_what_cannot_be_had_is_refused_in_a_sentence(rng):
    product, start = times(np.eye(6)), np.ones(6)
    for k, which in ((7, "largest"), (0, "largest"), (4, "both"), (1, "middle")):
        with refused(f'between 1 and d = 6 pairs, "largest", "smallest" or "both" (k of each end), were wanted, but '
                     f"k = {k} and {which!r} came"):  # fmt: skip
            eigenpairs(product, start, k, which)
    with refused("3 pairs need a basis of at least 5 and 6 products, but 4 and 650 came"):
        eigenpairs(product, start, 3, basis=4)
    with refused("3 pairs need a basis of at least 5 and 6 products, but 6 and 5 came"):
        eigenpairs(product, start, 3, max_products=5)
    with refused("a start that is finite and not zero was wanted, but its length is 0.0"):
        eigenpairs(product, np.zeros(6), 1)
    with refused("finite products were wanted, but number 1 is not"):
        eigenpairs(lambda rows: rows * np.inf, start, 1)
