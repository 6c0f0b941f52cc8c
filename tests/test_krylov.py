"""Lanczos against dense eigenvalues and closed forms."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradvis import krylov
from gradvis.krylov import basis_bytes, lanczos, orthogonalise, ritz, ritz_vectors


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def dense(values, rng):
    """A symmetric matrix with these eigenvalues."""
    turn, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
    matrix = (turn * values) @ turn.T
    return (matrix + matrix.T) / 2


def times(matrix):
    return lambda rows: rows @ matrix


def spectra(d, rng):
    return {
        "definite": rng.uniform(0.5, 3, d),
        "indefinite": rng.normal(size=d),
        "negative": -rng.uniform(0.5, 3, d),
        "clustered": np.r_[1 + 1e-9 * rng.normal(size=d // 2), rng.normal(size=d - d // 2)],
        "repeated": np.r_[np.full(d // 3, 2.0), np.full(d // 3, -1.0), rng.uniform(-1, 1, d - 2 * (d // 3))],
        "deficient": np.r_[rng.normal(size=4), np.zeros(d - 4)],
    }


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", ["definite", "indefinite", "negative", "clustered", "repeated", "deficient"])
def test_extreme_ritz_values_are_the_extreme_eigenvalues_of_a_dense_matrix(name, scale, rng):
    values = scale * spectra(60, rng)[name]
    matrix = dense(values, rng)
    exact = np.linalg.eigvalsh(matrix)
    norm = np.abs(exact).max()

    run = lanczos(times(matrix), rng.normal(size=(2, 60)), 60)

    for probe in range(2):
        found, weights, _, _ = ritz(run, probe)
        np.testing.assert_allclose(found[[0, -1]], exact[[0, -1]], rtol=0, atol=1e-12 * norm)
        assert weights.sum() == pytest.approx(1, abs=1e-13)


def test_the_basis_is_orthonormal_and_projects_the_operator_to_a_tridiagonal_matrix(rng):
    matrix = dense(np.r_[np.geomspace(1e-8, 1, 197), 1e3, 2e3, 3e3], rng)
    run = lanczos(times(matrix), rng.normal(size=(1, 200)), 60)
    basis = run.basis[:, 0]

    np.testing.assert_allclose(basis @ basis.T, np.eye(60), atol=1e-14)
    tridiagonal = np.diag(run.alphas[0]) + np.diag(run.betas[0, :-1], 1) + np.diag(run.betas[0, :-1], -1)
    np.testing.assert_allclose(basis @ matrix @ basis.T, tridiagonal, atol=1e-11)
    left = matrix @ basis[-1] - run.alphas[0, -1] * basis[-1] - run.betas[0, -2] * basis[-2]
    assert np.linalg.norm(left) == pytest.approx(run.betas[0, -1], rel=1e-9)


def test_the_first_moments_are_those_of_each_probe(rng):
    matrix = dense(rng.normal(size=40), rng)
    starts = rng.normal(size=(3, 40)) * np.array([[1e-8], [1.0], [1e8]])
    units = starts / np.linalg.norm(starts, axis=1, keepdims=True)

    run = lanczos(times(matrix), starts, 10)

    for probe, unit in enumerate(units):
        nodes, weights, _, _ = ritz(run, probe)
        assert weights @ nodes == pytest.approx(unit @ matrix @ unit, abs=1e-12)
        assert weights @ nodes**2 == pytest.approx(np.sum((matrix @ unit) ** 2), abs=1e-12)


@pytest.mark.parametrize("m", [1, 2, 6])
def test_the_quadrature_is_exact_to_degree_2m_minus_1_and_not_beyond(m, rng):
    matrix = dense(rng.uniform(-1, 1, 30), rng)
    start = rng.normal(size=30)
    start /= np.linalg.norm(start)
    nodes, weights, _, _ = ritz(lanczos(times(matrix), start[None], m), 0)
    moments = [start @ np.linalg.matrix_power(matrix, p) @ start for p in range(2 * m + 1)]
    found = [weights @ nodes**p for p in range(2 * m + 1)]

    np.testing.assert_allclose(found[:-1], moments[:-1], rtol=0, atol=1e-12)
    assert abs(found[-1] - moments[-1]) > 1e-5


def test_residuals_of_the_recurrence_are_true(rng):
    matrix = dense(rng.normal(size=80), rng)
    run = lanczos(times(matrix), rng.normal(size=(2, 80)), 20)

    for probe in range(2):
        values, _, residuals, _ = ritz(run, probe)
        vectors = ritz_vectors(run, probe, range(20))
        true = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
        np.testing.assert_allclose(residuals, true, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(20), atol=1e-13)
        np.testing.assert_array_equal(ritz_vectors(run, probe, [19, 0]), vectors[[19, 0]])


def test_probes_end_where_their_space_is_invariant_and_the_others_go_on(rng):
    values = np.array([0.0, 1.0, 2.0, 5.0, 5.0, 7.0])
    starts = np.array([[1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 1], [0, 0, 0, 3, 4, 0]], float)
    calls = []

    def product(rows):
        calls.append(len(rows))
        return rows * values

    run = lanczos(product, starts, 6)

    assert run.steps.tolist() == [1, 5, 2, 1]
    assert calls == [4, 2, 1, 1, 1]
    assert [run.betas[i, m - 1] for i, m in enumerate(run.steps)] == [0, 0, 0, 0]
    assert np.isnan(run.alphas[2, 2:]).all()
    assert np.isnan(run.betas[2, 2:]).all()
    np.testing.assert_allclose(ritz(run, 0)[0], [0])
    np.testing.assert_allclose(ritz(run, 1)[0], [0, 1, 2, 5, 7], atol=1e-14)
    np.testing.assert_allclose(ritz(run, 1)[1], np.array([1, 1, 1, 2, 1]) / 6)
    np.testing.assert_allclose(ritz(run, 2)[0], [1, 7])
    np.testing.assert_allclose(ritz(run, 3)[0], [5])


@pytest.mark.parametrize("mode", ["full", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-6, -3.0])
def test_a_multiple_of_the_identity_takes_one_step(scale, dtype, mode, rng):
    run = lanczos(lambda rows: scale * rows, rng.normal(size=(3, 50)), 10, reorthogonalise=mode, dtype=dtype)

    assert run.steps.tolist() == [1, 1, 1]
    np.testing.assert_allclose(run.alphas[:, 0], scale, rtol=1e-6)
    assert run.betas[:, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("returned", [np.float32, np.float64])
@pytest.mark.parametrize("kept", [np.float32, np.float64])
def test_a_projector_takes_two_steps(kept, returned, rng):
    keep = np.arange(40) < 13
    run = lanczos(lambda rows: (rows * keep).astype(returned), rng.normal(size=(3, 40)), 10, dtype=kept)

    assert run.steps.tolist() == [2, 2, 2]
    for probe in range(3):
        np.testing.assert_allclose(ritz(run, probe)[0], [0, 1], atol=1e-6)


def test_an_end_is_judged_by_the_largest_product_so_far_not_by_the_latest():
    """The third product has length 2, and the rounding of the first, of length 1e8, is left over."""
    values = np.r_[1e8, np.ones(10), np.full(10, 2.0)]
    run = lanczos(lambda rows: rows * values, np.r_[1, np.linspace(1e-4, 2e-4, 20)][None], 15)

    assert run.steps.tolist() == [3]
    np.testing.assert_allclose(ritz(run, 0)[0], [1, 2, 1e8], rtol=1e-7)


def test_more_steps_than_dimensions_end_at_all_eigenvalues(rng):
    matrix = dense(rng.normal(size=7), rng)
    run = lanczos(times(matrix), rng.normal(size=(2, 7)), 100)

    assert run.steps.tolist() == [7, 7]
    assert run.alphas.shape == run.betas.shape == (2, 7)
    np.testing.assert_allclose(ritz(run, 1)[0], np.linalg.eigvalsh(matrix), atol=1e-13)


def test_storage_in_float32_is_near_float64_and_keeps_the_basis_orthogonal(rng):
    matrix = dense(np.r_[rng.uniform(0, 1, 295), 20, 40, 60, 80, 100], rng)
    start = rng.normal(size=(1, 300))
    double, single = (lanczos(times(matrix), start, 60, dtype=dtype) for dtype in (np.float64, np.float32))

    assert single.basis.dtype == np.float32
    assert single.basis.nbytes * 2 == double.basis.nbytes == basis_bytes(60, 1, 300, np.float64)
    wide = single.basis[:, 0].astype(float)
    assert np.abs(wide @ wide.T - np.eye(60)).max() < 1e-6
    (found, weights, _, _), (exact, heavy, _, _) = ritz(single, 0), ritz(double, 0)
    np.testing.assert_allclose(found[-5:], exact[-5:], rtol=1e-7)
    assert weights @ found == pytest.approx(heavy @ exact, rel=1e-6)
    assert weights @ found**2 == pytest.approx(heavy @ exact**2, rel=1e-6)


def test_inner_products_are_float64_whatever_is_stored(rng):
    """In float32 arithmetic these sums of 300,000 numbers would have five digits."""
    d = 300_001
    values = rng.uniform(1, 2, d)
    run = lanczos(lambda rows: rows * values, np.ones((1, d)), 1, dtype=np.float32)

    assert run.alphas[0, 0] == pytest.approx(values.mean(), rel=1e-12)


def outliers(rng):
    return np.r_[rng.uniform(0, 1, 997), 50, 75, 100]


def test_full_reorthogonalisation_has_no_ghosts_and_none_has_many(rng):
    values, start = outliers(rng), rng.normal(size=(1, 1000))
    full, none = (
        ritz(lanczos(lambda rows: rows * values, start, 80, reorthogonalise=mode), 0) for mode in ("full", "none")
    )

    assert np.sum(full[0] > 2) == 3
    assert np.sum(none[0] > 2) > 12
    for outlier in (50, 75, 100):  # the ghosts share the weight (Greenbaum 1989)
        near = np.abs(none[0] - outlier) < 1e-3
        assert none[1][near].sum() == pytest.approx(full[1][np.abs(full[0] - outlier) < 1e-9].sum(), rel=1e-6)
    np.testing.assert_allclose(none[0].max(), 100, rtol=1e-12)


def test_without_reorthogonalisation_no_basis_is_kept(rng):
    run = lanczos(lambda rows: 2 * rows, rng.normal(size=(2, 9)), 4, reorthogonalise="none")

    assert run.basis is None
    with pytest.raises(ValueError, match='no basis was kept; run with reorthogonalise="full"'):
        ritz_vectors(run, 0, [0])


def test_a_probe_has_the_same_run_alone_and_among_others(rng):
    matrix, starts = dense(rng.normal(size=50), rng), rng.normal(size=(4, 50))

    def product(rows):  # one at a time: several may be added up in another order
        return np.stack([matrix @ row for row in rows])

    for mode in ("full", "none"):
        together = lanczos(product, starts, 20, reorthogonalise=mode)
        alone = lanczos(product, starts[2:3], 20, reorthogonalise=mode)
        np.testing.assert_array_equal(together.alphas[2], alone.alphas[0])
        np.testing.assert_array_equal(together.betas[2], alone.betas[0])


def test_neither_the_starts_nor_the_products_are_changed(rng):
    starts, product = rng.normal(size=(2, 6)), rng.normal(size=(2, 6))
    kept = starts.copy(), product.copy()
    lanczos(lambda rows: product, starts, 1)

    np.testing.assert_array_equal(starts, kept[0])
    np.testing.assert_array_equal(product, kept[1])


@pytest.mark.parametrize("cache", [1, 2**20])
def test_gram_schmidt_in_pieces_is_gram_schmidt(cache, monkeypatch, rng):
    monkeypatch.setattr(krylov, "_CACHE", cache)
    basis = np.linalg.qr(rng.normal(size=(1000, 5)))[0].T
    vector = rng.normal(size=1000) + 1e6 * basis[3]
    inside, expected = basis @ vector, vector - (basis @ vector) @ basis

    found, length = orthogonalise(basis, vector)

    np.testing.assert_allclose(found, inside, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(vector, expected, atol=1e-8)
    assert length == pytest.approx(np.linalg.norm(expected), rel=1e-9)
    assert np.abs(basis @ vector).max() < 1e-14


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 14), st.integers(1, 3), st.integers(-6, 6), st.integers(0, 2**32 - 1))
def test_nodes_lie_within_the_spectrum_and_weights_sum_to_one(d, steps, r, power, seed):
    rng = np.random.default_rng(seed)
    values = 10.0**power * rng.choice([rng.normal(size=d), rng.integers(-2, 3, d).astype(float), np.zeros(d)])
    matrix = dense(values, rng)
    norm = np.abs(values).max()
    run = lanczos(times(matrix), rng.normal(size=(r, d)), steps)

    for probe in range(r):
        nodes, weights, residuals, _ = ritz(run, probe)
        assert 1 <= len(nodes) == run.steps[probe] <= min(d, steps)
        assert np.all(nodes >= values.min() - 1e-13 * norm)
        assert np.all(nodes <= values.max() + 1e-13 * norm)
        assert weights.sum() == pytest.approx(1, abs=1e-13)
        for node, residual in zip(nodes, residuals, strict=True):  # each lies that near to an eigenvalue
            assert np.abs(values - node).min() <= residual + 1e-13 * norm


def refused(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}")


def test_what_cannot_be_run_is_refused_in_a_sentence(rng):
    with refused("starts that are finite and not zero were wanted, but their lengths are [1. 0.]"):
        lanczos(times(np.eye(2)), np.array([[1.0, 0], [0, 0]]), 2)
    with refused("starts that are finite and not zero were wanted, but their lengths are [nan]"):
        lanczos(times(np.eye(2)), np.array([[1.0, np.nan]]), 2)
    with refused('at least 1 step and "full" or "none" were wanted, but 0 and'):
        lanczos(times(np.eye(2)), np.ones((1, 2)), 0)
    with refused('at least 1 step and "full" or "none" were wanted, but 2 and \'half\' came'):
        lanczos(times(np.eye(2)), np.ones((1, 2)), 2, reorthogonalise="half")
    with refused("finite products were wanted, but that of step 1 is not"):
        lanczos(lambda rows: rows * np.nan, np.ones((1, 2)), 2)
