"""Spectra from quadratures, against the spectra they were made of."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradvis import quadrature
from gradvis.krylov import lanczos, ritz
from gradvis.quadrature import cumulative, density, estimates, grid, mass, moment, widths


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def quadratures(values, starts, m, mode="full"):
    """Nodes and weights of a diagonal operator, (r, m)."""
    run = lanczos(lambda rows: rows * values, starts, m, reorthogonalise=mode)
    nodes, weights = np.full((len(starts), m), np.nan), np.zeros((len(starts), m))
    for i, count in enumerate(run.steps):
        nodes[i, :count], weights[i, :count] = ritz(run, i)[:2]
    return nodes, weights


def quantiles(edges, heights, n):
    """So many values, evenly by rank, of a distribution whose density is given on a fine mesh."""
    total = np.concatenate([[0], np.cumsum((heights[1:] + heights[:-1]) / 2 * np.diff(edges))])
    return np.interp((np.arange(n) + 0.5) / n, total / total[-1], edges)


def semicircle(n):
    x = np.linspace(-1, 1, 20001)
    return quantiles(x, np.sqrt(1 - x**2), n)


def marchenko_pastur(n, ratio=0.25):
    """Bai and Silverstein, Spectral Analysis of Large Dimensional Random Matrices, section 3.1."""
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    x = np.linspace(low, high, 20001)
    return quantiles(x, np.sqrt((high - x) * (x - low)) / x, n)


PEER = np.concatenate([np.geomspace(1e-4, 1, 1995), [20, 40, 60, 80, 100]])
SPECTRA = {
    "semicircle": (semicircle(2000), 0.01),
    "Marchenko-Pastur": (marchenko_pastur(2000), 0.01),
    "bulk and outliers": (np.concatenate([semicircle(1990), np.linspace(3, 50, 10)]), 0.01),
    "half are zero": (np.concatenate([np.zeros(1000), marchenko_pastur(1000)]), 0.01),
    "two bulks": (np.concatenate([semicircle(1000), 8 + 0.5 * semicircle(1000)]), 0.01),
    "uniform": (np.linspace(0, 1, 2000), 0.01),
    "log-uniform and outliers": (PEER, 0.04),  # the lowest decade is finer than 80 steps can see
}


def integral(nodes, weights, lo, hi):
    """Of the density, through the corners of its triangles, between which it is straight."""
    half = widths(nodes, weights)
    corners = np.unique([nodes + sign * half for sign in (-1, 0, 1)])
    x = np.unique(np.clip(corners[np.isfinite(corners)], lo, hi))
    return np.trapezoid(density(nodes, weights, x)[0], x)


def test_the_bulk_keeps_its_mass_beside_outliers(rng):
    """Kernels of one width report 0.29 and 0.52 here."""
    signs = quadratures(PEER, rng.choice([-1.0, 1.0], size=(5, 2000)), 80)
    assert integral(*signs, 0, 1) == pytest.approx(0.9975, rel=0.01)
    gauss = quadratures(PEER, rng.normal(size=(5, 2000)), 80)
    assert integral(*gauss, 0, 1) == pytest.approx(0.9975, rel=0.01)
    assert mass(*signs, 0, 1) == pytest.approx(0.9975, abs=1e-9)


def test_outliers_are_thin_spikes_and_the_bulk_is_not(rng):
    nodes, weights = quadratures(PEER, np.ones((1, 2000)), 80)
    half = widths(nodes, weights)[0]

    np.testing.assert_allclose(nodes[0, -5:], [20, 40, 60, 80, 100])
    assert np.all(half[-5:] <= 0.2001)
    gaps = np.diff(nodes[0])
    bulk = slice(2, 60)
    np.testing.assert_allclose(half[bulk], np.minimum(gaps[1:59], gaps[2:60]))  # neighbours meet: nothing between


@pytest.mark.parametrize("name", SPECTRA)
def test_the_smoothed_distribution_is_nearer_to_the_true_one_than_the_steps(name):
    """Kolmogorov-Smirnov distances away from jumps: a spike is as much to the left as to the right of its place."""
    values, allowed = SPECTRA[name]
    nodes, weights = quadratures(values, np.ones((1, 2000)), 80)
    half = widths(nodes, weights)
    x = np.unique(np.concatenate([nodes - half, nodes, nodes + half], axis=None))
    smooth = np.concatenate([
        [0],
        np.cumsum((lambda y: (y[1:] + y[:-1]) / 2)(density(nodes, weights, x)[0]) * np.diff(x)),
    ])
    jumps = np.min(np.abs(x[:, None] - values[:1000][values[:1000] == 0][:1]), axis=1, initial=np.inf)
    away = jumps > 0.01
    true = np.searchsorted(values, x, side="right") / 2000
    distance = np.abs(smooth - true)[away].max()

    assert distance < allowed
    assert distance < 0.8 * np.abs(cumulative(nodes, weights, x) - true)[away].max()


def test_a_cluster_of_zeros_is_a_spike_at_zero():
    nodes, weights = quadratures(SPECTRA["half are zero"][0], np.ones((1, 2000)), 80)

    assert integral(nodes, weights, -0.01, 0.01) == pytest.approx(0.5, abs=1e-6)
    assert mass(nodes, weights, 0, 0) == pytest.approx(0.5, abs=1e-12)
    assert mass(nodes, weights, -1, 0) == pytest.approx(0.5, abs=1e-12)
    assert cumulative(nodes, weights, np.array([-1e-6, 0, 0.1]))[1:] == pytest.approx([0.5, 0.5])


def test_widths_know_the_residuals_of_ritz_pairs(rng):
    """The formula through nodes and weights, against the eigenvectors; what is left, beta_m, is a factor."""
    values = np.concatenate([semicircle(1995), [2, 3, 5, 5.5, 9]])
    run = lanczos(lambda rows: rows * values, rng.normal(size=(1, 2000)), 30)
    nodes, weights, residuals, _ = ritz(run, 0)
    away = np.abs(nodes[:, None] - nodes)
    np.fill_diagonal(away, np.nan)
    found = quadrature._residuals(away, weights)

    geometric = np.exp(np.log(run.betas[0, :-1]).mean())
    known = residuals > 1e-12
    assert known.sum() > 24
    np.testing.assert_allclose(found[known], (residuals * geometric / run.betas[0, -1])[known], rtol=1e-3)
    assert np.all(found[~known] < 1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**32 - 1), st.integers(-6, 6))
def test_the_density_is_not_negative_integrates_to_one_moves_and_scales(d, m, r, seed, power):
    rng = np.random.default_rng(seed)
    values = rng.choice([rng.normal(size=d), rng.integers(1, 4, d).astype(float), np.ones(d)])
    starts, factor = rng.normal(size=(r, d)), float(rng.choice([-1, 1])) * 10.0**power
    nodes, weights = quadratures(values, starts, m)
    x = grid(nodes, weights, 100)
    y, error = density(nodes, weights, x)

    assert np.all(y >= 0)
    assert integral(nodes, weights, -np.inf, np.inf) == pytest.approx(1, abs=1e-9)
    scaled, scaled_error = density(factor * nodes, weights, factor * x)
    np.testing.assert_allclose(scaled * abs(factor), y, rtol=1e-6, atol=1e-6 * y.max())
    np.testing.assert_allclose(scaled_error * abs(factor), error, rtol=1e-6, atol=1e-6 * y.max())
    if np.isfinite(nodes).sum(axis=1).min() > 1:  # a single eigenvalue has no other scale than its own
        moved = density(nodes + 2.5, weights, x + 2.5)[0]
        np.testing.assert_allclose(moved, y, rtol=1e-3, atol=1e-3 * y.max())


def test_a_density_is_the_sum_of_its_triangles():
    nodes, weights = np.array([[0.0, 2.0, np.nan], [1.0, 3.0, 4.0]]), np.array([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]])
    kernels = np.array([[0.5, 1.0, np.nan], [1.0, 2.0, 4.0]])
    mean, error = density(nodes, weights, np.array([0.25, 2.0, 9.0]), kernels)
    first = np.array([0.25 / 0.5 * 0.5, 0.75, 0])
    second = np.array([0.5 * 0.25 + 0.25 / 4 * 0.0625, 0.25 / 2 * 0.5 + 0.25 / 4 * 0.5, 0])

    np.testing.assert_allclose(mean, (first + second) / 2)
    np.testing.assert_allclose(error, np.abs(first - second) / 2)
    one = density(nodes[1:], weights[1:], np.array([0.25, 2.0, 9.0]), kernels[1:])
    np.testing.assert_allclose(one[0], second)
    assert np.isnan(one[1]).all()


def test_a_density_in_pieces_is_the_same(monkeypatch, rng):
    nodes, weights = quadratures(rng.normal(size=50), rng.normal(size=(2, 50)), 10)
    x = np.linspace(-3, 3, 101)
    whole = density(nodes, weights, x)
    monkeypatch.setattr(quadrature, "_ROOM", 70)

    np.testing.assert_array_equal(density(nodes, weights, x), whole)


def test_cumulative_and_mass_are_the_steps_of_the_quadrature(rng):
    nodes = np.array([[1.0, 2.0, np.nan], [-1.0, 2.0, 5.0]])
    weights = np.array([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]])

    x = np.array([-2, -1, 0.99, 1, 2 - 1e-9, 2, 4, 5, 6])
    expected = np.array([0, 0.5, 0.5, 0.75, 0.75, 1.75, 1.75, 2, 2]) / 2
    np.testing.assert_allclose(cumulative(nodes, weights, x), expected)
    assert mass(nodes, weights, 1, 2) == pytest.approx((0.25 + 0.75 + 0.25) / 2)
    assert mass(nodes, weights, -9, 9) == 1
    assert mass(nodes, weights, 1.5, 1.6) == 0


def test_sums_are_exact_when_the_probes_span_the_space(rng):
    values = rng.normal(size=12)
    turn, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    found = estimates(*quadratures(values, turn, 5), 12, exact=True)

    assert found.trace == pytest.approx(values.sum(), abs=1e-13)
    assert found.frobenius == pytest.approx(np.linalg.norm(values), rel=1e-13)
    assert (found.trace_stderr, found.frobenius_stderr) == (0, 0)


def test_standard_errors_are_those_of_many_repeated_runs(rng):
    values = rng.normal(1, 1, size=60)
    runs = [estimates(*quadratures(values, rng.normal(size=(8, 60)), 3), 60) for _ in range(300)]
    for name, true in (("trace", values.sum()), ("frobenius", np.linalg.norm(values))):
        found, errors = (np.array([getattr(run, each) for run in runs]) for each in (name, f"{name}_stderr"))
        spread = found.std(ddof=1)
        assert abs(found.mean() - true) < 5 * spread / np.sqrt(300) + 0.02 * true
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(spread, rel=0.2)


def test_rademacher_probes_have_the_variance_of_hutchinson(rng):
    """2 (|A|^2 - sum A_ii^2) for each probe (Hutchinson 1990); none for a diagonal operator."""
    matrix = rng.normal(size=(30, 30))
    matrix += matrix.T
    run = lanczos(lambda rows: rows @ matrix, rng.choice([-1.0, 1.0], size=(400, 30)), 2)
    pairs = [ritz(run, i)[:2] for i in range(400)]
    found = estimates(np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs]), 30)

    variance = 2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2))
    assert found.trace_stderr == pytest.approx(np.sqrt(variance / 400), rel=0.15)
    assert found.trace == pytest.approx(np.trace(matrix), abs=4 * found.trace_stderr)
    diagonal = estimates(*quadratures(rng.normal(size=30), rng.choice([-1.0, 1.0], size=(4, 30)), 2), 30)
    assert diagonal.trace_stderr == pytest.approx(0, abs=1e-13)


def test_one_probe_has_no_standard_error_and_a_zero_operator_no_division_by_zero():
    found = estimates(np.array([[1.0, 3.0]]), np.array([[0.5, 0.5]]), 10)
    assert (found.trace, found.frobenius) == (20, pytest.approx(np.sqrt(50)))
    assert np.isnan([found.trace_stderr, found.frobenius_stderr]).all()
    zero = estimates(np.zeros((2, 1)), np.ones((2, 1)), 10)
    assert (zero.trace, zero.trace_stderr, zero.frobenius, zero.frobenius_stderr) == (0, 0, 0, 0)
    x = grid(np.zeros((2, 1)), np.ones((2, 1)), 50, "symlog")
    assert np.trapezoid(density(np.zeros((2, 1)), np.ones((2, 1)), x)[0], x) == pytest.approx(1, rel=0.02)


def test_moments_pass_over_what_is_not_there():
    nodes, weights = np.array([[2.0, np.nan], [1.0, 3.0]]), np.array([[1.0, 0.0], [0.5, 0.5]])

    assert [moment(nodes, weights, p).tolist() for p in (0, 1, 2)] == [[1, 1], [2, 2], [4, 5]]


@pytest.mark.parametrize("name", SPECTRA)
def test_without_reorthogonalisation_the_density_is_the_same_but_for_resolution(name, rng):
    """Ghosts take steps away from the bulk: 28 of 80 in the worst of these."""
    values, starts = SPECTRA[name][0], rng.normal(size=(2, 2000))
    full, none = (quadratures(values, starts, 80, mode) for mode in ("full", "none"))

    assert integral(*none, -np.inf, np.inf) == pytest.approx(1, abs=1e-6)
    edges = np.quantile(values, np.linspace(0.1, 1, 10)) + 1e-3 * np.ptp(values)
    for edge in edges:
        assert integral(*none, -np.inf, edge) == pytest.approx(integral(*full, -np.inf, edge), abs=0.02)
    for p in (1, 2):
        np.testing.assert_allclose(moment(*none, p), moment(*full, p), rtol=1e-9)


@pytest.mark.parametrize("scale", ["linear", "symlog"])
@pytest.mark.parametrize("name", SPECTRA)
def test_a_drawing_on_the_grid_keeps_the_mass(name, scale, rng):
    nodes, weights = quadratures(SPECTRA[name][0], rng.normal(size=(3, 2000)), 80)
    x = grid(nodes, weights, 1200, scale)
    y, _ = density(nodes, weights, x)

    assert len(x) == 1200
    assert np.all(np.diff(x) >= 0)
    assert np.trapezoid(y, x) == pytest.approx(1, abs=0.02)
    assert x[0] < nodes.min() < nodes.max() < x[-1]
    if name == "half are zero":
        assert np.abs(x).min() < 1e-12  # the top of the spike
    if name == "bulk and outliers":
        assert np.abs(x - 50).min() < 0.06  # within the spike, 1 % of the gap


def test_no_outlier_is_stepped_over_though_others_are_thinner():
    bulk = np.linspace(0.0, 1.0, 78)
    nodes = np.stack([np.append(bulk + shift, [50.0, 50.5]) for shift in np.linspace(0, 0.01, 10)])
    weights = np.full(nodes.shape, 1 / 80)
    half = widths(nodes, weights)[:, -2:].max()

    x = grid(nodes, weights, 240)

    for outlier in (50.0, 50.5):
        assert np.sum(np.abs(x - outlier) <= 1.01 * half) >= 3


def test_a_symlog_grid_spreads_over_decades_and_through_zero():
    nodes, weights = np.array([[-100.0, -1e-3, 1e-3, 1.0, 1e3]]), np.array([[0.1, 0.4, 0.3, 0.1, 0.1]])
    x = grid(nodes, weights, 400, "symlog")
    sizes = np.abs(x)

    for decade in (1e-2, 1e-1, 1, 10):
        assert np.sum((sizes > decade) & (sizes <= 10 * decade)) > 20
    assert np.sum(sizes < 1e-3) >= 20
    linear = grid(nodes, weights, 400)
    assert np.sum((np.abs(linear) > 1e-2) & (np.abs(linear) < 0.5)) == 0


def test_what_makes_no_sense_is_refused_in_a_sentence():
    nodes, weights = np.array([[1.0, 2.0]]), np.array([[0.5, 0.5]])
    with pytest.raises(ValueError, match=re.escape('the scale "linear" or "symlog" was wanted, but \'log\' came')):
        grid(nodes, weights, 10, "log")
    with pytest.raises(ValueError, match=re.escape("exact sums need as many probes as dimensions, 7, but 1 came")):
        estimates(nodes, weights, 7, exact=True)
