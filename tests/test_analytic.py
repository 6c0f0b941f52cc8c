"""The closed forms, checked by hand; their laws are in the contract suite."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from gradvis.backends import analytic
from gradvis.backends.analytic import Quadratic, Rosenbrock
from gradvis.plane import Plane


def test_the_examples_in_its_docstrings_hold():
    assert doctest.testmod(analytic).failed == 0


def test_a_rotation_keeps_the_spectrum_and_turns_the_axes():
    spectrum = [-1.0, 2.0, 5.0]
    turned = Quadratic(spectrum, rotate_seed=0)

    np.testing.assert_allclose(np.linalg.eigvalsh(turned.hessian), spectrum, atol=1e-14)
    assert np.abs(turned.hessian - np.diag(np.diag(turned.hessian))).max() > 0.1


def test_a_hessian_is_taken_as_it_is():
    dense = np.array([[2.0, 1.0], [1.0, 3.0]])
    bowl = Quadratic(hessian=dense, minimum=[1.0, 0.0], offset=0.25)

    assert bowl.measure(np.array([2.0, 1.0])) == {"loss": 0.25 + (2 + 2 + 3) / 2}
    np.testing.assert_array_equal(bowl.hvp(np.zeros(2), np.eye(2)), dense)
    np.testing.assert_array_equal(bowl.parameters(), [1.0, 0.0])


def test_the_surface_of_a_quadratic_is_a_quadratic():
    rng = np.random.default_rng(0)
    bowl = Quadratic(np.arange(1.0, 7.0), minimum=rng.normal(size=6), rotate_seed=1)
    plane = Plane(rng.normal(size=6), rng.normal(size=(2, 6)))
    coords = rng.normal(size=(9, 2))

    found = bowl.evaluate(plane, coords)[:, 0]

    slope, curve = plane.directions @ bowl.gradient(plane.origin), plane.directions @ bowl.hessian @ plane.directions.T
    wanted = bowl.measure(plane.origin)["loss"] + coords @ slope + 0.5 * np.einsum("ni,ij,nj->n", coords, curve, coords)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_rosenbrock_is_least_at_ones():
    valley = Rosenbrock(4)

    np.testing.assert_array_equal(valley.parameters(), np.ones(4))
    assert valley.measure(np.ones(4)) == {"loss": 0.0}
    np.testing.assert_array_equal(valley.gradient(np.ones(4)), np.zeros(4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Quadratic(), "either a spectrum"),
        (lambda: Quadratic([1.0], hessian=[[1.0]]), "and not both"),
        (lambda: Quadratic(hessian=[[1.0, 2.0], [0.0, 1.0]]), "symmetric"),
        (lambda: Quadratic([1.0, 2.0], minimum=[0.0]), r"shape \(2,\) was wanted"),
        (lambda: Rosenbrock(1), "at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
