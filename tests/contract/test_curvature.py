"""Spectra of every backend, against its own dense reference."""

from __future__ import annotations

import numpy as np

import gradvis
from gradvis.probing import Probes


def test_extreme_eigenvalues_and_moments_are_those_of_the_dense_hessian(case, objective):
    """Each extreme eigenvalue, an indefinite matrix's smallest included; and v'Hv of every probe."""
    theta = objective.parameters()
    wanted = case.hessian(theta)
    values, norm = np.linalg.eigvalsh(wanted), np.linalg.norm(wanted, 2)
    k = min(2, objective.space.d // 2)

    pairs = gradvis.hessian_eigenpairs(objective, k, "both", tol=1e-10)
    found = gradvis.hessian_spectrum(objective, probes=2, steps=6, top=0)

    np.testing.assert_allclose(pairs.values, [*values[: -k - 1 : -1], *values[:k][::-1]], atol=1e-8 * norm)
    assert pairs.converged.all()
    assert np.linalg.norm(pairs.vectors @ wanted - pairs.values[:, None] * pairs.vectors, axis=1).max() < 1e-8 * norm
    starts = Probes(objective.space.d, 2, 6, 0, True, "float64", 0, "largest").starts([0, 1])
    starts /= np.linalg.norm(starts, axis=1, keepdims=True)
    for power in (1, 2, 3):
        exact = np.einsum("rd,rd->r", starts, starts @ np.linalg.matrix_power(wanted, power))
        mine = np.sum(found.weights * np.nan_to_num(found.nodes) ** power, axis=1)
        np.testing.assert_allclose(mine, exact, atol=1e-8 * norm**power)
