"""Against Li et al. 2018, whose `normalize_direction` is written out below as a loop over filters."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from gradvis import Block, ParameterSpace, random_plane
from gradvis.backends.analytic import Quadratic
from gradvis.directions import random_directions
from gradvis.notes import Note

SPACE = ParameterSpace([
    Block("conv.weight", (6, 3, 5, 5)),
    Block("conv.bias", (6,), kind="bias"),
    Block("norm.weight", (6,), kind="norm"),
    Block("kernel", (7, 4), filter_axes=(1,)),
    Block("transposed", (4, 3, 2), view=(2, 2, 3, 2), filter_axes=(0, 2)),
    Block("tiny", (5, 1)),
])
THETA = np.random.default_rng(1).normal(size=SPACE.d) * np.geomspace(0.01, 100, SPACE.d)


def ratios(direction, block):
    return np.linalg.norm(block.filters(direction), axis=1) / np.linalg.norm(block.filters(THETA), axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("orthogonal", [False, True])
def test_every_filter_has_the_norm_of_its_weights(dtype, orthogonal):
    made = random_directions(SPACE, THETA.astype(dtype), 2, "filter", seed=3, orthogonal=orthogonal)

    assert made.dtype == dtype
    for block in SPACE:
        for number, direction in enumerate(made):
            if block.kind != "weight":
                assert not direction[block.slice].any()
            elif orthogonal and block.name == "tiny" and number == 1:
                assert not direction[block.slice].any()  # a filter of one number has no room for two directions
            else:
                np.testing.assert_allclose(ratios(direction, block), 1, rtol=1e-6)


def test_filter_normalisation_is_the_loop_of_the_paper():
    space = ParameterSpace([Block("w", (4, 3, 2))])
    theta = np.random.default_rng(0).normal(size=24)
    draw = random_directions(space, theta, 1, "none", seed=5)[0]

    made = random_directions(space, theta, 1, "filter", seed=5)[0]

    expected = draw.reshape(4, 3, 2).copy()
    for d, w in zip(expected, theta.reshape(4, 3, 2), strict=True):
        d *= np.linalg.norm(w) / np.linalg.norm(d)
    np.testing.assert_allclose(made, expected.ravel(), rtol=1e-14)


def test_layer_normalisation_gives_each_array_its_norm():
    made = random_directions(SPACE, THETA, 1, "layer", include_bias=True)[0]
    for block in SPACE:
        np.testing.assert_allclose(np.linalg.norm(made[block.slice]), np.linalg.norm(THETA[block.slice]))
    assert not np.allclose(ratios(made, SPACE["conv.weight"]), 1, rtol=1e-2)  # but not each filter


def test_without_normalisation_the_draws_are_standard_normal():
    space = ParameterSpace([Block("w", (100, 1000))])
    made = random_directions(space, np.ones(space.d), 1, "none")[0]
    assert abs(made.mean()) < 0.02
    assert abs(made.std() - 1) < 0.01
    assert 0.49 < (made > 0).mean() < 0.51  # the peers drew from [0, 1)


def test_biases_move_when_asked_with_a_random_sign_each():
    made = random_directions(SPACE, THETA, 2, include_bias=True)
    where = SPACE["conv.bias"].slice
    np.testing.assert_allclose(np.abs(made[:, where]), np.abs(np.stack([THETA[where]] * 2)), rtol=1e-14)


def test_a_bias_or_scale_of_several_dimensions_has_a_filter_for_each_number():
    space = ParameterSpace([
        Block("norm", (3, 4), kind="norm"),
        Block("bias", (2, 3, 1), kind="bias", filter_axes=(1,)),
    ])
    theta = np.random.default_rng(0).normal(size=space.d)
    made = random_directions(space, theta, 1, include_bias=True)[0]
    np.testing.assert_allclose(np.abs(made), np.abs(theta), rtol=1e-14)
    assert not np.allclose(made, theta)


def test_random_directions_are_nearly_orthogonal():
    space = ParameterSpace([Block("w", (200, 500))])
    one, two = random_directions(space, np.ones(space.d), 2)
    assert abs(one @ two) / (np.linalg.norm(one) * np.linalg.norm(two)) < 0.02


@pytest.mark.parametrize("normalize", ["filter", "layer", "none"])
def test_orthogonal_means_orthogonal(normalize):
    made = random_directions(SPACE, THETA, 3, normalize, include_bias=True, orthogonal=True)
    lengths = np.linalg.norm(made, axis=1)
    cosines = made @ made.T / np.outer(lengths, lengths)
    np.testing.assert_allclose(cosines, np.eye(3), atol=1e-12)


def test_directions_come_from_the_seed_alone():
    np.random.seed(0)
    first = random_directions(SPACE, THETA, 3, seed=7)
    np.random.seed(1)
    np.testing.assert_array_equal(random_directions(SPACE, THETA, 3, seed=7), first)
    np.testing.assert_array_equal(random_directions(SPACE, THETA, 1, seed=7), first[:1])
    assert not np.allclose(random_directions(SPACE, THETA, 1, seed=8), first[:1])


def test_dead_filters_stay_dead():
    theta = THETA.copy()
    theta[: 3 * 5 * 5] = 0
    made = random_directions(SPACE, theta, 1)[0]
    assert not made[: 3 * 5 * 5].any()
    assert np.isfinite(made).all()


def notes_of(theta, blocks=SPACE, **options):
    """What a user is told who asks for a random plane."""
    space = ParameterSpace(blocks)
    with warnings.catch_warnings(record=True) as made:
        warnings.simplefilter("always")
        random_plane(Quadratic(np.ones(space.d), space=space), origin=theta, **options)
    assert all(each.category is Note for each in made)
    assert all(each.filename == __file__ for each in made), "the line of the user's own call"
    return [str(each.message) for each in made]


@pytest.mark.parametrize("normalize", ["filter", "layer"])
def test_an_array_of_zeros_is_named_since_the_surface_does_not_move_along_it(normalize):
    theta = THETA.copy()
    theta[SPACE["kernel"].slice] = theta[SPACE["conv.bias"].slice] = 0
    theta[0] = 0  # one dead number is no news
    (said,) = notes_of(theta, normalize=normalize)
    assert "all zero at the origin" in said
    assert "zero there too: kernel; the surface does not move" in said
    (said,) = notes_of(theta, normalize=normalize, include_bias=True)
    assert ": conv.bias, kernel;" in said


def test_zeros_are_no_news_where_directions_do_not_follow_the_weights():
    assert notes_of(0 * THETA, normalize="none") == []
    assert notes_of(THETA) == []


def test_three_names_are_enough():
    blocks = [Block(name, (2, 2)) for name in "abcde"]
    assert ": a, b, c and 2 more;" in notes_of(np.zeros(20), blocks)[0]
    assert ": a, b, c;" in notes_of(np.zeros(12), blocks[:3])[0]


def test_guessed_filters_are_named_where_they_count():
    blocks = [replace(block, guessed=block.name in {"tiny", "conv.bias"}) for block in SPACE]
    (said,) = notes_of(THETA, blocks)
    assert "axis 0 was taken to count filters: tiny;" in said
    assert notes_of(THETA, blocks, normalize="layer") == notes_of(THETA, blocks, normalize="none") == []


def test_rescaling_a_relu_net_leaves_its_picture_alone():
    """W1 * 5, W2 / 5: the same function, so the same filter-normalised surface (Li et al. 2018, section 4)."""
    space = ParameterSpace([Block("W1", (8, 5)), Block("W2", (3, 8))])
    rng = np.random.default_rng(0)
    inputs, theta = rng.normal(size=(20, 5)), rng.normal(size=space.d)
    rescaled = theta * np.repeat([5.0, 0.2], [40, 24])

    def loss(point):
        parts = space.split(point)
        return ((np.maximum(inputs @ parts["W1"].T, 0) @ parts["W2"].T) ** 2).mean()

    def line(origin, normalize):
        direction = random_directions(space, origin, 1, normalize, seed=2)[0]
        return [loss(origin + step * direction) for step in np.linspace(-1, 1, 9)]

    np.testing.assert_allclose(line(rescaled, "filter"), line(theta, "filter"), rtol=1e-12)
    assert not np.allclose(line(rescaled, "none"), line(theta, "none"), rtol=0.1)


@pytest.mark.parametrize(
    "change", [{}, {"seed": 5}, {"normalize": "none"}, {"include_bias": True}, {"orthogonal": True}]
)
def test_a_random_plane_has_the_directions_its_options_ask_for(change):
    """The norms are those of the origin it is pinned at, not of the model."""
    options = {"normalize": "filter", "seed": 4, "include_bias": False, "orthogonal": False, **change}
    objective = Quadratic(np.ones(SPACE.d), minimum=np.ones(SPACE.d), space=SPACE)

    plane = random_plane(objective, k=2, origin=THETA, **change | {"seed": options["seed"]})

    np.testing.assert_array_equal(plane.directions, random_directions(SPACE, THETA, 2, **options))
    assert {name: plane.about[name] for name in options} == options


def test_a_random_plane_says_how_it_was_made():
    objective = Quadratic(np.ones(5))
    plane = random_plane(objective, k=3, normalize="layer", seed=4, origin=np.arange(5.0))
    assert plane.k == 3
    assert plane.origin.tolist() == [0, 1, 2, 3, 4]
    assert plane.about["seed"] == 4
    assert plane.about["normalize"] == "layer"


@pytest.mark.parametrize(
    ("options", "match"), [({"k": 4}, "1, 2 or 3"), ({"normalize": "weights"}, "one of filter, layer, none")]
)
def test_unknown_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        random_plane(Quadratic(np.ones(3)), **options)
