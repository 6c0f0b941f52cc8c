"""Filters of every framework against what its layers compute: a filter is what changes one output and no other."""

import warnings

import numpy as np
import pytest

import gradvis
from gradvis.backends.analytic import Quadratic
from gradvis.notes import Note
from tests.contract.layer_kinds import KINDS, drawn

LAYERS = {(name, of): each for name, kind in KINDS.items() for of, each in kind.layers().items()}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def assert_filters(kind, model, name, labels):
    """Numbers of one label, (u of them), have the norm of that part of the weight in a direction."""
    weight, block = kind.values(model)[name].reshape(-1), kind.space(model)[name]
    direction, parts = kind.direction(model)[name].reshape(-1), np.unique(labels)
    for label in parts:
        part = labels.reshape(-1) == label
        np.testing.assert_allclose(np.linalg.norm(direction[part]), np.linalg.norm(weight[part]), rtol=1e-6)
    assert len(block.filters(np.zeros(kind.space(model).d))) == len(parts)
    assert (block.kind, block.guessed) == ("weight", False)


@pytest.mark.parametrize(("name", "of"), LAYERS)
def test_a_filter_is_what_makes_one_output_of_a_layer(name, of):
    kind, (layer, inputs, weight, outputs) = KINDS[name], LAYERS[name, of]
    units = kind.units(kind.drawn(layer, *inputs), weight, inputs, outputs)

    belongs = kind.slopes(units, kind.values(layer)[weight]) != 0

    assert (belongs.sum(0) == 1).all(), "every number belongs to one unit"
    assert_filters(kind, layer, weight, belongs.argmax(0))


@pytest.mark.parametrize(("name", "of"), LAYERS)
def test_scaling_one_filter_scales_what_it_makes_and_nothing_else(name, of):
    kind, (layer, inputs, weight, outputs) = KINDS[name], LAYERS[name, of]
    units, space = kind.units(kind.drawn(layer, *inputs), weight, inputs, outputs), kind.space(layer)
    theta = np.concatenate([value.reshape(-1) for value in kind.values(layer).values()])
    filters = space[weight].filters(theta).copy()
    which = 2 % len(filters)
    filters[which] *= 3

    scaled = units(space[weight].flatten(filters).reshape(space[weight].shape))

    changed = ~np.isclose(kind.array(scaled), kind.array(units(kind.values(layer)[weight])))
    assert np.flatnonzero(changed).tolist() == [which]


# ------------------------------------------------------------------------------------ arrays of one's own

RAW = {
    "token": (1, 1, 4), "positions": (1, 6, 4), "experts_bias": (3, 5), "shift_bias": (4,), "gain": (4,),
    "layer": (4, 1, 1), "map": (1, 4, 1, 1), "last": (1, 1, 1, 4), "all": (1, 1), "one": (),
}  # fmt: skip
STILL = {
    "experts_bias": "bias",
    "shift_bias": "bias",
    **dict.fromkeys(("gain", "layer", "map", "last", "all", "one"), "norm"),
}


def test_a_token_is_one_filter_and_positions_are_one_each(kind):
    model = kind.raw(RAW)
    assert_filters(kind, model, "token", np.zeros((1, 1, 4)))
    assert_filters(kind, model, "positions", np.broadcast_to(np.arange(6)[:, None], (1, 6, 4)))


def test_experts_have_a_filter_for_each_of_their_outputs(kind):
    """Stored (experts, out, in) in PyTorch, (experts, in, out) in Keras."""
    model, outputs = kind.raw({"experts": (3, 5, 4)}), 5 if kind is KINDS["torch"] else 4
    labels = np.arange(3 * outputs).reshape((3, 5, 1) if outputs == 5 else (3, 1, 4))
    assert_filters(kind, model, "experts", np.broadcast_to(labels, (3, 5, 4)))


def test_lora_pairs_have_a_filter_for_each_unit(kind):
    """A row in PyTorch, a column in Keras."""
    model, rows = kind.raw({"lora_A": (2, 4)}), kind is KINDS["torch"]
    labels = np.arange(2)[:, None] if rows else np.arange(4)
    assert_filters(kind, model, "lora_A", np.broadcast_to(labels, (2, 4)))


def test_raw_scales_and_biases_are_held_still_unless_they_are_asked_for(kind):
    model = kind.raw(RAW)
    assert {block.name: block.kind for block in kind.space(model) if block.kind != "weight"} == STILL
    direction, moved = kind.direction(model), kind.direction(model, include_bias=True)
    for name in STILL:
        assert not direction[name].any()
        np.testing.assert_allclose(np.abs(moved[name]), np.abs(kind.values(model)[name]), rtol=1e-6)  # each a filter


def unknown(kind, *names):
    return kind.raw({**dict.fromkeys(names, (3, 2)), "known": (1, 3, 2)})


def norms(kind, array, axis):
    """Of the filters along an axis."""
    return np.linalg.norm(array, axis=1 - axis)


def test_what_is_unknown_has_its_filters_along_one_axis_and_is_named_once(kind):
    model, words = unknown(kind, *"abcde"), "axis 0 was" if kind is KINDS["torch"] else "the last axis was"
    with pytest.warns(Note, match=f"{words} taken to count filters: a, b, c and 2 more; .* filters=") as made:
        direction = kind.direction(model)
    assert len(made) == 1
    wanted = norms(kind, kind.values(model)["a"], kind.unknown)
    np.testing.assert_allclose(norms(kind, direction["a"], kind.unknown), wanted, rtol=1e-6)


@pytest.mark.parametrize("normalize", ["layer", "none"])
def test_nothing_is_said_of_filters_that_nobody_asked_for(kind, normalize):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kind.direction(unknown(kind, "a"), normalize=normalize)["a"].any()


def test_nothing_is_said_of_a_model_whose_layers_are_known(kind):
    model = kind.drawn(kind.usual())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        direction = kind.direction(model)
    moved = {name for name, value in direction.items() if value.any()}
    assert moved == {block.name for block in kind.space(model) if block.kind == "weight"}
    assert len(moved) == 4


def test_a_zero_weight_has_a_zero_direction_and_is_named(kind):
    model = kind.raw({"lora_A": (2, 4), "lora_B": (3, 2)})
    space = kind.space(model)
    origin = np.concatenate([value.reshape(-1) * (name == "lora_A") for name, value in kind.values(model).items()])
    with pytest.warns(Note, match=r"all zero at the origin.*: lora_B; the surface does not move") as made:
        plane = gradvis.random_plane(Quadratic(np.ones(space.d), space=space), k=1, origin=origin)
    assert len(made) == 1
    parts = space.split(plane.directions[0])
    assert parts["lora_A"].any()
    assert not parts["lora_B"].any()


# ------------------------------------------------------------------------------------ what the user says


@pytest.mark.parametrize(("axes", "filters"), [(0, 3), (1, 2), (-1, 2), ((0, 1), 6), ([1, 0], 6), ((), 1)])
def test_the_user_may_say_which_axes_count_filters(kind, axes, filters):
    space = kind.space(unknown(kind, "x", "y"), filters={"x": axes})
    assert len(space["x"].filters(np.zeros(space.d))) == filters
    assert not space["x"].guessed
    assert space["y"].guessed


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_users_word_on_an_axis_is_followed_to_the_norms(kind, axis):
    model = unknown(kind, "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        direction = kind.direction(model, {"x": axis})
    wanted = norms(kind, kind.values(model)["x"], axis % 2)
    np.testing.assert_allclose(norms(kind, direction["x"], axis % 2), wanted, rtol=1e-6)


def test_the_first_glob_that_fits_counts_and_only_for_weights(kind):
    model, names = kind.two()
    space = kind.space(model, filters={names[2]: 1, "*": 0})
    assert [space[name].filter_axes for name in names] == [(0,), (0,), (1,), (0,)]
    space = kind.space(model, filters={"*": 0, names[2]: 1})
    assert space[names[2]].filter_axes == (0,)


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        (lambda weight, bias: {weight[:-1] + "x": 0}, "'{weight}x' fits none; near: {weight}"),
        (lambda weight, bias: {bias: 0}, "'{bias}' fits none"),
        (lambda weight, bias: {"*": 2}, r"filters\['\*'\] must be axes of {weight}l?t?, whose shape is .*, but 2 came"),
        (lambda weight, bias: {"*": (0, -3)}, r"must be axes of .*but \(0, -3\) came"),
        (lambda weight, bias: {"*": "0"}, "must be axes of .*but '0' came"),
        (lambda weight, bias: {weight: 0, "*": 7}, "but 7 came"),
    ],
)
def test_a_word_on_filters_that_fits_nothing_is_refused(kind, filters, words):
    model, (weight, bias, *_) = kind.two()
    with pytest.raises(ValueError, match=words.format(weight=weight[:-1], bias=bias)):
        kind.space(model, filters=filters(weight, bias))


def test_an_objective_takes_filters_and_frozen_layers(kind):
    model, names = kind.two(first=False)
    data = np.ones((2, 4), "float32"), np.array([0, 1])
    less = gradvis.objective(model, data, "cross_entropy").space
    more = gradvis.objective(model, data, "cross_entropy", include_frozen=True, filters={names[0]: (0, 1)}).space
    assert [block.name for block in less] == names[2:]
    assert [block.name for block in more] == names
    assert more[names[0]].filter_axes == (0, 1)
    assert more[names[2]].filter_axes == less[names[2]].filter_axes == (kind.unknown,)


# ------------------------------------------------------------------------------------ what is refused


def test_a_model_that_is_frozen_is_refused(kind):
    model, _ = kind.two(first=False)
    assert len(list(kind.space(model))) == 2
    frozen = model[:1] if kind is KINDS["torch"] else model.layers[0]
    with pytest.raises(ValueError, match=kind.frozen):
        kind.space(frozen)
    assert len(list(kind.space(frozen, include_frozen=True))) == 2


@pytest.mark.parametrize("number", [0, 1])
def test_a_model_that_has_no_shapes_yet_is_refused(kind, number):
    with pytest.raises(ValueError, match=kind.unbuilt):
        kind.space(kind.no_shapes()[number])


def test_parameters_that_are_no_real_numbers_are_refused(kind):
    with pytest.raises(ValueError, match="real floating-point parameters were wanted, but w(eight)? is complex64; kee"):
        kind.space(kind.complex())


def test_a_direction_is_drawn_anew_for_every_filter(kind):
    """No two filters of a weight are the same direction, as they would be were one drawn for all."""
    model = kind.drawn(kind.layers()["dense"][0], drawn(5, 3))
    name = next(iter(kind.values(model)))
    made = kind.space(model)[name].filters(np.concatenate([v.reshape(-1) for v in kind.direction(model).values()]))
    units = made / np.linalg.norm(made, axis=1, keepdims=True)
    assert np.abs(units @ units.T - np.eye(len(made))).max() < 0.999
