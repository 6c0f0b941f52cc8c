"""The same network, the same weights, the same data: PyTorch and Keras give the same answers."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch

import gradvis
from tests.two_frameworks import HEADS, PAIRS, pair

pytestmark = pytest.mark.filterwarnings("ignore::gradvis.notes.Note")

RELATIVE = {"float32": 1e-5, "float64": 1e-10}
COORDS = np.array([[0.0, 0.0], [0.7, -0.4], [-1.0, 1.0], [0.1, 0.05]])
BOTH = pytest.mark.parametrize("dtype", RELATIVE)
EACH = pytest.mark.parametrize("name", PAIRS)


def apart(found, wanted):
    """The largest difference, relative to the largest number."""
    return np.max(np.abs(np.asarray(found) - wanted)) / np.max(np.abs(wanted))


@cache
def planes(name, dtype="float64", **options):
    """Both objectives, and one plane in the order of each."""
    two = pair(name, dtype)
    one, other = two.objectives(**options)
    plane = gradvis.random_plane(one, seed=5, include_bias=True)
    return one, other, plane, two.plane(plane)


# -------------------------------------------------------------------------------------------------- layout


@EACH
def test_the_layout_map_is_there_and_back(name):
    two = pair(name)
    vectors = np.random.default_rng(0).normal(size=(2, len(two.order)))
    np.testing.assert_array_equal(two.to_torch(two.to_keras(vectors)), vectors)
    np.testing.assert_array_equal(two.to_keras(two.to_torch(vectors[0])), vectors[0])
    assert not np.array_equal(two.order, np.arange(len(two.order)))


def carried(name):
    """Every number of a PyTorch vector by its place in both models, a different one each."""
    two = pair(name)
    one, other = two.objectives()
    numbers = np.arange(one.space.d, dtype=float)
    return one.space.split(numbers), other.space.split(two.to_keras(numbers))


def test_a_convolution_is_carried_number_by_number():
    ours, theirs = carried("convolution")
    for o, i, row, column in np.ndindex(4, 2, 3, 3):
        assert theirs["conv/kernel"][row, column, i, o] == ours["0.weight"][o, i, row, column]
    for o, channel, row, column in np.ndindex(3, 4, 2, 2):
        assert (
            theirs["last/kernel"][(2 * row + column) * 4 + channel, o]
            == (ours["5.weight"][o, (2 * channel + row) * 2 + column])
        )


def test_an_attention_is_carried_number_by_number():
    ours, theirs = carried("attention")
    packed, biases, out = (ours[f"attention.{name}"] for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight"))
    for part, name in enumerate(("query", "key", "value")):
        for head, unit, i in np.ndindex(HEADS, 4, 8):
            row = 8 * part + 4 * head + unit
            assert theirs[f"attention/{name}/kernel"][i, head, unit] == packed[row, i]
            assert theirs[f"attention/{name}/bias"][head, unit] == biases[row]
            assert theirs["attention/attention_output/kernel"][head, unit, i] == out[i, 4 * head + unit]


@EACH
def test_the_two_models_have_the_same_outputs(name):
    two = pair(name)
    ours = two.torch(torch.tensor(two.inputs[0])).detach().numpy()
    np.testing.assert_allclose(two.keras(two.inputs[1]).numpy(), ours, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------------------------- directions


@EACH
def test_a_direction_normalised_in_one_framework_has_the_norms_of_filters_in_the_other(name):
    """So both mean the same by a filter: rows, columns, channels, units of heads, words."""
    two = pair(name)
    one, other = two.objectives()
    ours, theirs = gradvis.random_plane(one, seed=1), gradvis.random_plane(other, seed=1)
    for space, theta, directions in (
        (other.space, other.parameters(), two.to_keras(ours.directions)),
        (one.space, one.parameters(), two.to_torch(theirs.directions)),
    ):
        for block in space:
            wanted, *found = (np.linalg.norm(block.filters(row), axis=1) for row in (theta, *directions))
            for norms in found:
                np.testing.assert_allclose(norms, wanted if block.kind == "weight" else 0 * wanted, rtol=1e-6)


# ------------------------------------------------------------------------------------------------ surfaces


@BOTH
@EACH
def test_surfaces_are_the_same(name, dtype):
    one, other, plane, same_plane = planes(name, dtype)
    np.testing.assert_array_equal(other.parameters(), same_plane.origin)
    ours, theirs = (gradvis.loss_surface(o, p, resolution=5) for o, p in ((one, plane), (other, same_plane)))
    for variable in ("loss", "loss_stderr"):
        assert apart(theirs.dataset[variable], ours.dataset[variable].values) < RELATIVE[dtype]
    np.testing.assert_array_equal(theirs.dataset["accuracy"], ours.dataset["accuracy"])
    assert ours.dataset["loss"].values.std() > 0.05


@BOTH
@pytest.mark.parametrize("policy", ["batch", "recalibrate"])
def test_surfaces_with_fresh_statistics_are_the_same(policy, dtype):
    one, other, plane, same_plane = planes("convolution", dtype, batch_norm=policy)
    ours, theirs = one.evaluate(plane, COORDS), other.evaluate(same_plane, COORDS)
    assert apart(theirs, ours) < RELATIVE[dtype]
    stored, *_ = planes("convolution", dtype)
    assert apart(stored.evaluate(plane, COORDS), ours) > 1e-2


# ----------------------------------------------------------------------------------------------- curvature


@EACH
@pytest.mark.parametrize("operator", ["hessian", "ggn", "fisher"])
def test_products_are_the_same(name, operator):
    one, other, plane, same_plane = planes(name)
    theta, same_theta = plane.point(COORDS[1]), same_plane.point(COORDS[1])
    ours = one.hvp(theta, plane.directions, operator)
    theirs = other.hvp(same_theta, same_plane.directions, operator)
    assert apart(theirs, pair(name).to_keras(ours)) < 1e-10


@EACH
def test_gradients_are_the_same(name):
    one, other, plane, same_plane = planes(name)
    ours, theirs = one.gradient(plane.point(COORDS[1])), other.gradient(same_plane.point(COORDS[1]))
    assert apart(theirs, pair(name).to_keras(ours)) < 1e-10


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float64") for name in PAIRS), ("dense", "float32")])
def test_extreme_eigenvalues_are_the_same(name, dtype):
    one, other, *_ = planes(name, dtype)
    ours, theirs = (gradvis.hessian_eigenpairs(o, k=2, which="both") for o in (one, other))
    assert np.max(np.abs(theirs.values - ours.values)) < 1e-5 * np.max(np.abs(ours.values))
    overlaps = np.abs(np.sum(theirs.vectors * pair(name, dtype).to_keras(ours.vectors), axis=1))
    np.testing.assert_allclose(overlaps, 1, atol=1e-3)


def test_the_ends_of_spectra_are_the_same():
    """With as many steps as parameters the outermost Ritz values are eigenvalues, whatever the probe."""
    one, other, *_ = planes("dense")
    ours, theirs = (gradvis.hessian_spectrum(o, probes=1, steps=o.space.d) for o in (one, other))
    for end in (np.nanmin, np.nanmax):
        assert abs(end(theirs.nodes) - end(ours.nodes)) < 1e-5 * np.nanmax(np.abs(ours.nodes))


# -------------------------------------------------------------------------------------------- trajectories


@pytest.fixture(scope="module", params=PAIRS)
def path(request):
    """Five states of a training: as PyTorch has them and as Keras does."""
    two = pair(request.param)
    torch.manual_seed(0)
    model = copy.deepcopy(two.torch).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    states = []
    for _ in range(5):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(torch.tensor(two.inputs[0])), torch.tensor(two.targets))
        loss.backward()
        optimizer.step()
    return two, states, [two.weights(state) for state in states]


def test_trajectories_are_the_same(path):
    two, ours, theirs = path
    one, other = two.objectives()
    first, second = gradvis.project_trajectory(one, ours), gradvis.project_trajectory(other, theirs)
    a, b = first.dataset, second.dataset
    signs = np.sign(np.sum(a["coordinates"].values * b["coordinates"].values, axis=0))
    size = np.max(np.abs(a["coordinates"].values))
    assert np.max(np.abs(b["coordinates"].values * signs - a["coordinates"].values)) < 1e-6 * size
    for variable in ("off_plane", "loss", "plane_loss", "explained_variance"):
        np.testing.assert_allclose(b[variable], a[variable], rtol=1e-6, atol=1e-6 * size)
    np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-10)


def test_a_path_dropped_onto_one_plane_has_the_same_places(path):
    two, ours, theirs = path
    one, other = two.objectives()
    plane = gradvis.random_plane(one, seed=2)
    first, second = (
        gradvis.project_trajectory(one, ours, plane),
        gradvis.project_trajectory(other, theirs, two.plane(plane)),
    )
    size = np.max(np.abs(first.dataset["coordinates"].values))
    for variable in ("coordinates", "off_plane"):
        assert np.max(np.abs(second.dataset[variable].values - first.dataset[variable].values)) < 1e-6 * size
