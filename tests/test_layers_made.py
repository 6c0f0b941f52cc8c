"""Weights that torch computes from others: weight norm, spectral norm, other parametrisations, and pruning."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrize import register_parametrization
from transformers.pytorch_utils import Conv1D

import gradvis
from gradvis.backends.pytorch.layers import parameter_space
from tests.test_layers import assert_filters, direction_of, drawn, drawn_like, through


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", amount=2)


def squashed(layer):
    register_parametrization(layer, "weight", nn.Tanh())
    return layer


MADE = {
    "weight norm": (parametrizations.weight_norm, "parametrizations.weight.original1"),
    "weight norm by column": (lambda a: parametrizations.weight_norm(a, dim=1), "parametrizations.weight.original1"),
    "weight norm of the whole": (
        lambda a: parametrizations.weight_norm(a, dim=None),
        "parametrizations.weight.original1",
    ),
    "spectral norm": (parametrizations.spectral_norm, "parametrizations.weight.original"),
    "another": (squashed, "parametrizations.weight.original"),
    "old weight norm": (old_weight_norm, "weight_v"),
    "old spectral norm": (old_spectral_norm, "weight_orig"),
    "pruning": (pruned, "weight_orig"),
}
PLAIN = {
    "dense": lambda: nn.Linear(3, 4),
    "grouped, transposed": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "embedding": lambda: nn.Embedding(5, 3),
    "transformers' Conv1D": lambda: Conv1D(6, 3),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("layer", PLAIN)
@pytest.mark.parametrize("how", MADE)
def test_a_weight_that_is_computed_has_the_filters_of_the_weight(how, layer, deep):
    make, name = MADE[how]
    plain = parameter_space(PLAIN[layer]())["weight"]
    model, prefix = make(PLAIN[layer]()), ""
    if deep:
        model, prefix = nn.ModuleDict({"in": nn.Sequential(model)}), "in.0."

    blocks = {block.name.removeprefix(prefix): block for block in parameter_space(model)}

    made = blocks.pop(name)
    assert (made.shape, made.view, made.filter_axes) == (plain.shape, plain.view, plain.filter_axes)
    assert (made.kind, made.guessed) == ("weight", False)
    lengths = {"parametrizations.weight.original0", "weight_g"} & set(blocks)
    assert len(lengths) == ("weight norm" in how)
    assert {each: block.kind for each, block in blocks.items()} == {
        each: "norm" if each in lengths else "bias" for each in blocks
    }


def test_weight_norm_of_a_recurrent_or_attention_layer_keeps_its_gates_and_heads():
    rnn = old(nn.LSTM(3, 5), "weight_hh_l0")
    assert parameter_space(rnn)["weight_hh_l0_v"].view == (4, 5, 5)
    assert parameter_space(rnn)["weight_hh_l0_g"].kind == "norm"
    attention = parametrizations.weight_norm(nn.MultiheadAttention(6, 2), "in_proj_weight")
    assert parameter_space(attention)["parametrizations.in_proj_weight.original1"].view == (3, 2, 3, 6)


def old(layer, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return old_weight_norm(layer, name)


def test_each_filter_of_a_direction_of_weight_norm_can_turn_one_output():
    """g stays, v moves: the output of a unit depends on the matching row of v alone."""
    layer = drawn_like(parametrizations.weight_norm(nn.Linear(3, 4)))
    name = "parametrizations.weight.original1"
    outcome = through(layer, name, drawn(5, 3))
    assert_filters(layer, name, lambda v: outcome(v).sum(0))
    assert not direction_of(layer)["parametrizations.weight.original0"].any()


def test_an_orthogonal_weight_is_told_from_a_parameter_of_several_parts():
    layer = parametrizations.orthogonal(nn.Linear(4, 4, bias=False))
    (block,) = parameter_space(layer)
    assert (block.filter_axes, block.guessed) == ((0,), False)

    class LowRank(nn.Module):
        def forward(self, left, right):
            return left @ right

        def right_inverse(self, weight):
            return weight[:, :2], weight[:2]

    layer = nn.Linear(4, 4, bias=False)
    register_parametrization(layer, "weight", LowRank())
    assert [(block.filter_axes, block.guessed) for block in parameter_space(layer)] == [((0,), True)] * 2


def test_a_weight_computed_from_a_vector_is_held_still_as_vectors_are():
    class Diagonal(nn.Module):
        def forward(self, vector):
            return torch.diag(vector)

        def right_inverse(self, weight):
            return weight.diagonal()

    layer = nn.Linear(4, 4, bias=False)
    register_parametrization(layer, "weight", Diagonal())
    (block,) = parameter_space(layer)
    assert (block.shape, block.kind) == ((4,), "norm")


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, old_spectral_norm])
def test_the_buffers_of_spectral_norm_stay_still(norm):
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(3, 4)), nn.ReLU(), norm(nn.Linear(4, 2))).double().train()
    inputs, targets = drawn(6, 3), drawn(6, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective = gradvis.objective(model, (inputs, targets), "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plane = gradvis.random_plane(objective)

    values = objective.evaluate(plane, np.array([[0.0, 0.0], [0.5, -1.0], [0.0, 0.0]]))
    objective.gradient(plane.point([0.5, -1.0]))

    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    expected = ((model.eval()(inputs) - targets) ** 2).mean().item()
    np.testing.assert_allclose(values[[0, 2], 0], expected, rtol=1e-12)


def unknown(*names):
    return nn.ParameterDict({name: torch.ones(3, 2) for name in names} | {"known": torch.ones(1, 3, 2)})


def test_names_that_only_look_like_those_of_weight_norm_are_weights():
    names = ["up_g", "up_v", "up_orig"]
    space = parameter_space(unknown(*names))
    assert [(space[name].kind, space[name].guessed) for name in names] == [("weight", True)] * 3
