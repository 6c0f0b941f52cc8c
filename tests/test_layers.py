"""Filters of torch's recurrent and attention layers, raw parameters, tied weights, and norms that see a batch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

import gradvis
from gradvis.backends.analytic import Quadratic
from gradvis.backends.pytorch.layers import batch_norms, has_batch_norm, mixes_batch, parameter_space


def drawn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def drawn_like(model):
    """The same model with every parameter drawn anew, so that none is zero by its initialisation."""
    torch.manual_seed(0)
    for value in model.parameters():
        value.data = drawn(*value.shape)
    return model.double()


def direction_of(model, **options):
    """A random direction through a model, as tensors by name."""
    space = parameter_space(model)
    origin = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    plane = gradvis.random_plane(Quadratic(np.ones(space.d), space=space), k=1, origin=origin, seed=1, **options)
    return {name: torch.tensor(value) for name, value in space.split(plane.directions[0]).items()}


def assert_filters(model, name, units):
    """Each of `units(weight)`, (u,), depends on its own part of the weight; each part has its norm in a direction."""
    weight = dict(model.named_parameters())[name].detach()
    slopes = torch.autograd.functional.jacobian(units, weight).reshape(-1, weight.numel())
    parts = slopes != 0  # (u, numbers)
    assert (parts.sum(0) == 1).all(), "every number belongs to one unit"

    direction = direction_of(model)[name].reshape(-1)

    for part in parts:
        np.testing.assert_allclose(direction[part].norm(), weight.reshape(-1)[part].norm(), rtol=1e-6)
    block = parameter_space(model)[name]
    assert len(block.filters(np.zeros(parameter_space(model).d))) == len(parts)
    assert (block.kind, block.guessed) == ("weight", False)


def through(model, name, *inputs):
    """The outputs of a layer as a function of one of its parameters."""
    return lambda weight: functional_call(model, {name: weight}, inputs)


# ------------------------------------------------------------------------------------ layers of torch


def lstm_by_hand(rnn, inputs, suffix, weights):
    """(b, time, in) to the gates before they are squashed, (time, b, gate, unit), and the outputs: torch's formulas."""
    given = {**dict(rnn.named_parameters()), **weights}
    size, carry, gates, outputs = rnn.hidden_size, 0.0, [], []
    steps = inputs.flip(1) if "reverse" in suffix else inputs
    hidden = inputs.new_zeros(len(inputs), rnn.proj_size or size)
    for step in steps.unbind(1):
        pre = (
            step @ given[f"weight_ih_l0{suffix}"].T
            + given[f"bias_ih_l0{suffix}"]
            + hidden @ given[f"weight_hh_l0{suffix}"].T
            + given[f"bias_hh_l0{suffix}"]
        ).reshape(len(inputs), 4, size)
        i, f, g, o = pre.unbind(1)
        carry = f.sigmoid() * carry + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * carry.tanh()
        if rnn.proj_size:
            hidden = hidden @ given[f"weight_hr_l0{suffix}"].T
        gates.append(pre)
        outputs.append(hidden)
    outputs = torch.stack(outputs, 1)
    return torch.stack(gates), outputs.flip(1) if "reverse" in suffix else outputs


@pytest.mark.parametrize("suffix", ["", "_reverse"])
@pytest.mark.parametrize("proj", [0, 2])
def test_a_filter_of_an_lstm_is_a_unit_of_a_gate(suffix, proj):
    rnn = drawn_like(nn.LSTM(3, 5, batch_first=True, bidirectional=True, proj_size=proj))
    inputs = drawn(4, 1, 3) if proj == 0 else drawn(4, 3, 3)
    whole = rnn(inputs)[0].chunk(2, dim=-1)[suffix == "_reverse"]
    np.testing.assert_allclose(lstm_by_hand(rnn, inputs, suffix, {})[1].detach(), whole.detach(), rtol=1e-9)

    name = f"weight_ih_l0{suffix}"
    assert_filters(rnn, name, lambda w: lstm_by_hand(rnn, inputs, suffix, {name: w})[0][0].sum(0).reshape(-1))
    name = f"weight_hh_l0{suffix}"
    before = drawn(4, proj or 5)  # the state that the second step starts from
    assert_filters(rnn, name, lambda w: (before @ w.T).sum(0))
    if proj:
        name = f"weight_hr_l0{suffix}"
        assert_filters(rnn, name, lambda w: (drawn(4, 5) @ w.T).sum(0))


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("cell", [False, True])
def test_recurrent_weights_keep_the_norm_of_every_unit_of_every_gate(kind, gates, cell):
    rnn = drawn_like(getattr(nn, f"{kind.__name__}Cell")(3, 5) if cell else kind(3, 5, num_layers=2))
    direction = direction_of(rnn)
    for name, value in rnn.named_parameters():
        block = parameter_space(rnn)[name]
        if "bias" in name:
            assert block.kind == "bias"
            assert not direction[name].any()
            continue
        assert (block.view[:2], block.filter_axes) == ((gates, 5), (0, 1))
        for gate in range(gates):
            rows = slice(5 * gate, 5 * gate + 5)
            np.testing.assert_allclose(direction[name][rows].norm(dim=1), value.detach()[rows].norm(dim=1), rtol=1e-6)


def test_silencing_a_filter_of_a_gru_is_silencing_its_gate():
    """The update gate of a unit at one keeps its state: its filter is the row that torch calls W_iz."""
    cell = drawn_like(nn.GRUCell(3, 5))
    block = parameter_space(cell)["weight_ih"]
    filters = np.zeros((15, 3))
    filters[5 + 2] = 1e4  # gates come as r, z, n
    weight = torch.tensor(block.flatten(filters).reshape(block.shape))
    hidden = drawn(1, 5)

    after = functional_call(cell, {"weight_ih": weight}, (torch.ones(1, 3).double(), hidden))

    assert torch.isclose(after, hidden).tolist() == [[False, False, True, False, False]]


def attention_by_hand(layer, query, key, value, weights):
    """The projections before the heads mix them, (3, tokens, units), and the outputs."""
    given = {**dict(layer.named_parameters()), **weights}
    if layer.in_proj_weight is None:
        parts = [given[f"{each}_proj_weight"] for each in "qkv"]
    else:
        parts = given["in_proj_weight"].chunk(3)
    biases = given["in_proj_bias"].chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), parts, biases, strict=True))
    k, v = torch.cat([k, given["bias_k"][0]]), torch.cat([v, given["bias_v"][0]])
    heads = [
        ((qh @ kh.T) / qh.shape[1] ** 0.5).softmax(-1) @ vh
        for qh, kh, vh in zip(*(each.chunk(layer.num_heads, dim=1) for each in (q, k, v)), strict=True)
    ]
    mixed = torch.cat(heads, 1)
    return torch.stack([q, k[:-1], v[:-1]]), mixed @ given["out_proj.weight"].T + given["out_proj.bias"]


@pytest.mark.parametrize("packed", [True, False])
def test_a_filter_of_attention_is_a_unit_of_a_head_of_query_key_or_value(packed):
    sizes = {} if packed else {"kdim": 4, "vdim": 5}
    layer = drawn_like(nn.MultiheadAttention(6, 2, add_bias_kv=True, **sizes))
    query, key, value = (drawn(7, 6),) * 3 if packed else (drawn(7, 6), drawn(7, 4), drawn(7, 5))
    np.testing.assert_allclose(
        attention_by_hand(layer, query, key, value, {})[1].detach(), layer(query, key, value)[0].detach(), rtol=1e-9
    )

    def units(name, rows=slice(None)):
        return lambda w: attention_by_hand(layer, query, key, value, {name: w})[0][rows].sum(1).reshape(-1)

    if packed:
        assert_filters(layer, "in_proj_weight", units("in_proj_weight"))
        assert parameter_space(layer)["in_proj_weight"].view == (3, 2, 3, 6)
    else:
        for number, each in enumerate("qkv"):
            assert_filters(layer, f"{each}_proj_weight", units(f"{each}_proj_weight", slice(number, number + 1)))
        assert parameter_space(layer)["k_proj_weight"].view == (2, 3, 4)
    name = "out_proj.weight"
    assert_filters(layer, name, lambda w: attention_by_hand(layer, query, key, value, {name: w})[1].sum(0))
    kinds = {block.name: block.kind for block in parameter_space(layer) if "bias" in block.name}
    assert kinds == dict.fromkeys(["in_proj_bias", "bias_k", "bias_v", "out_proj.bias"], "bias")


# ------------------------------------------------------------------------------------ raw parameters


def test_small_weights_are_no_scales():
    model = nn.ModuleList([nn.Conv2d(1, 4, 1), nn.Conv1d(1, 4, 1), nn.Linear(1, 1)])
    assert [block.kind for block in parameter_space(model)] == ["weight", "bias"] * 3
    raw = parameter_space(nn.ParameterList([torch.zeros(4, 3, 2, 2), torch.zeros(4, 3, 1), torch.zeros(4, 1)]))
    assert [(block.kind, block.filter_axes, block.guessed) for block in raw] == [
        ("weight", (0,), True), ("weight", (0, 1), False), ("weight", (0,), True)
    ]  # fmt: skip


def test_a_filter_of_experts_stored_transposed_is_a_column():
    """As transformers marks them, GPT-OSS for one: (experts, in, out)."""
    model = nn.ParameterDict({"down": torch.zeros(3, 4, 5)})
    model.is_transposed = True
    inputs = drawn(2, 4)
    assert_filters(drawn_like(model), "down", lambda w: torch.einsum("bi,eio->eo", inputs, w).reshape(-1))


@pytest.mark.parametrize("inside", ["lora_A", "adapter.lora_A.default"])
def test_lora_pairs_have_a_filter_for_each_row(inside):
    names = [inside, inside.replace("_A", "_B")]
    model = nn.Module()
    for name, shape in zip(names, [(2, 4), (5, 2)], strict=True):
        path, _, leaf = name.rpartition(".")
        layer = model
        for part in path.split(".") if path else ():
            if not hasattr(layer, part):
                layer.add_module(part, nn.Module())
            layer = layer.get_submodule(part)
        layer.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
    drawn_like(model)
    inputs, low = drawn(3, 4), drawn(3, 2)
    assert_filters(model, names[0], lambda a: (inputs @ a.T).sum(0))
    assert_filters(model, names[1], lambda b: (low @ b.T).sum(0))


# ---------------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize(("first", "rows"), [("dense", 4), ("columns", 6)])
def test_the_first_layer_that_owns_a_tied_weight_decides(first, rows):
    layers = {"dense": nn.Linear(6, 4, bias=False), "columns": Conv1D(6, 4)}
    layers["columns"].weight = layers["dense"].weight
    model = nn.ModuleDict({name: layers[name] for name in sorted(layers, key=lambda name: name != first)})
    space = parameter_space(model)
    assert [block.name for block in space if block.kind == "weight"] == [f"{first}.weight"]
    assert len(space[f"{first}.weight"].filters(np.zeros(space.d))) == rows


# -------------------------------------------------------------------------------------- what sees a batch

NORMS = {
    "batch": (nn.BatchNorm1d(3), True, True, False),
    "synchronised batch": (nn.SyncBatchNorm(3), True, True, False),
    "batch without statistics": (nn.BatchNorm1d(3, track_running_stats=False), True, False, True),
    "instance with statistics": (nn.InstanceNorm1d(3, track_running_stats=True), True, True, False),
    "instance": (nn.InstanceNorm1d(3, affine=True), False, False, False),
    "group": (nn.GroupNorm(1, 3), False, False, False),
    "layer": (nn.LayerNorm(4), False, False, False),
}


@pytest.mark.parametrize("kind", NORMS)
def test_norms_are_told_by_whether_samples_see_each_other(kind):
    norm, listed, stored, mixes = NORMS[kind]
    model = nn.Sequential(nn.Conv1d(3, 3, 1), norm)
    assert batch_norms(model) == [norm] * listed
    assert (has_batch_norm(model), mixes_batch(model)) == (stored, mixes)

    inputs, others = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    others[0] = inputs[0]
    model.eval()
    assert torch.allclose(model(inputs)[0], model(others)[0], atol=1e-6) is not mixes


def test_a_norm_told_later_to_forget_its_statistics_still_uses_them_in_evaluation():
    norm = nn.BatchNorm1d(3)
    norm.track_running_stats = False
    inputs = torch.randn(5, 3)
    assert torch.allclose(norm.eval()(inputs)[:1], norm(inputs[:1]))
    assert (has_batch_norm(norm), mixes_batch(norm)) == (True, False)
