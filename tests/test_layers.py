"""Filters against what the layers compute: a filter is what changes one output and no other."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrize import register_parametrization
from transformers.pytorch_utils import Conv1D

import gradvis
from gradvis.backends.analytic import Quadratic
from gradvis.backends.pytorch.layers import batch_norms, has_batch_norm, mixes_batch, parameter_space
from gradvis.notes import Note


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


class Doubled(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


class Equalised(nn.Conv2d):
    def forward(self, inputs):
        return self._conv_forward(inputs, self.weight / self.weight[0].numel() ** 0.5, self.bias)


def channels(outputs):
    return outputs.sum([axis for axis in range(outputs.ndim) if axis != 1])


LAYERS = {
    "dense": (nn.Linear(3, 4), (drawn(5, 3),), channels),
    "a dense subclass": (Doubled(3, 4), (drawn(5, 3),), channels),
    "a convolution subclass": (Equalised(2, 4, 3), (drawn(2, 2, 6, 6),), channels),
    "convolution 1-D, grouped": (nn.Conv1d(4, 6, 3, groups=2), (drawn(2, 4, 6),), channels),
    "convolution 2-D": (nn.Conv2d(2, 4, 3), (drawn(2, 2, 6, 6),), channels),
    "convolution 2-D, depthwise": (nn.Conv2d(3, 6, 3, groups=3), (drawn(2, 3, 6, 6),), channels),
    "convolution 3-D": (nn.Conv3d(2, 4, 2), (drawn(1, 2, 3, 3, 3),), channels),
    "transposed 1-D": (nn.ConvTranspose1d(3, 2, 3), (drawn(2, 3, 5),), channels),
    "transposed 2-D, grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2), (drawn(2, 4, 5, 5),), channels),
    "transposed 3-D": (nn.ConvTranspose3d(2, 3, 2), (drawn(1, 2, 3, 3, 3),), channels),
    "embedding": (nn.Embedding(5, 3), (torch.arange(5),), lambda rows: rows.sum(1)),
    "bag of embeddings": (nn.EmbeddingBag(5, 3), (torch.arange(5)[:, None],), lambda rows: rows.sum(1)),
    "bilinear": (nn.Bilinear(3, 2, 4), (drawn(5, 3), drawn(5, 2)), channels),
    "transformers' Conv1D": (Conv1D(6, 3), (drawn(5, 3),), channels),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_filter_is_what_makes_one_output_of_a_layer(kind):
    layer, inputs, outputs = LAYERS[kind]
    outcome = through(drawn_like(layer), "weight", *inputs)
    assert_filters(layer, "weight", lambda weight: outputs(outcome(weight)))


@pytest.mark.parametrize("kind", LAYERS)
def test_scaling_one_filter_scales_what_it_makes_and_nothing_else(kind):
    layer, inputs, outputs = LAYERS[kind]
    outcome = through(drawn_like(layer), "weight", *inputs)
    block = parameter_space(layer)["weight"]
    filters = block.filters(layer.weight.detach().reshape(-1).numpy()).copy()
    filters[2 % len(filters)] *= 3

    scaled = outcome(torch.tensor(block.flatten(filters).reshape(block.shape)))

    changed = ~torch.isclose(outputs(scaled), outputs(outcome(layer.weight))).numpy()
    assert np.flatnonzero(changed).tolist() == [2 % len(filters)]


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


class Tokens(nn.Module):
    """A class token, positions, layer scales, and experts of both layouts."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.positions = nn.Parameter(torch.zeros(1, 6, 4))
        self.experts = nn.Parameter(torch.zeros(3, 5, 4))
        self.experts_bias = nn.Parameter(torch.zeros(3, 5))
        shapes = {"layer": (4, 1, 1), "map": (1, 4, 1, 1), "last": (1, 1, 1, 4), "all": (1, 1), "one": ()}
        self.gains = nn.ParameterDict({name: torch.ones(shape) for name, shape in shapes.items()})
        self.shift = nn.Parameter(torch.zeros(4))

    def forward(self, inputs):
        """(b, 5, 4) to (b, 6, 4) and (b, experts, 6, 5)."""
        tokens = torch.cat([self.token.expand(len(inputs), -1, -1), inputs], 1) + self.positions
        return tokens, torch.einsum("bti,eoi->beto", tokens, self.experts) + self.experts_bias[:, None]


def test_tokens_positions_and_experts_have_the_filters_that_are_stated():
    model, inputs = drawn_like(Tokens()), drawn(2, 5, 4)
    token, positions = through(model, "token", inputs), through(model, "positions", inputs)
    assert_filters(model, "token", lambda w: token(w)[0][:, 0].sum().reshape(1))
    assert_filters(model, "positions", lambda w: positions(w)[0].sum((0, 2)))
    experts = through(model, "experts", inputs)
    assert_filters(model, "experts", lambda w: experts(w)[1].sum((0, 2)).reshape(-1))


def test_raw_scales_and_biases_are_held_still():
    model = drawn_like(Tokens())
    still = {"experts_bias": "bias", "shift": "norm"}
    still |= dict.fromkeys((f"gains.{name}" for name in model.gains), "norm")
    assert {block.name: block.kind for block in parameter_space(model) if block.kind != "weight"} == still
    direction = direction_of(model)
    assert all(not direction[name].any() for name in still)
    moved = direction_of(model, include_bias=True)
    for name in still:  # each number is a filter
        np.testing.assert_allclose(moved[name].abs(), model.get_parameter(name).detach().abs(), rtol=1e-6)


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


def unknown(*names):
    return nn.ParameterDict({name: torch.ones(3, 2) for name in names} | {"known": torch.ones(1, 3, 2)})


def test_what_is_unknown_has_its_filters_along_axis_0_and_is_named_once():
    model = drawn_like(unknown("a", "b", "c", "d", "e"))
    with pytest.warns(
        Note, match="axis 0 was taken to count filters: a, b, c and 2 more; .* filters={name: axes}"
    ) as made:
        direction = direction_of(model)
    assert len(made) == 1
    np.testing.assert_allclose(direction["a"].norm(dim=1), model["a"].detach().norm(dim=1), rtol=1e-6)


def test_names_that_only_look_like_those_of_weight_norm_are_weights():
    names = ["up_g", "up_v", "up_orig"]
    space = parameter_space(unknown(*names))
    assert [(space[name].kind, space[name].guessed) for name in names] == [("weight", True)] * 3


@pytest.mark.parametrize("normalize", ["layer", "none"])
def test_nothing_is_said_of_filters_that_nobody_asked_for(normalize):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert direction_of(drawn_like(unknown("a")), normalize=normalize)["a"].any()


def test_nothing_is_said_of_a_model_whose_layers_are_known():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2), nn.LSTM(2, 2), Tokens())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert direction_of(drawn_like(model))["3.weight"].any()


# ------------------------------------------------------------------------------- weights made of others


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


# ---------------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize(("first", "rows"), [("dense", 4), ("columns", 6)])
def test_the_first_layer_that_owns_a_tied_weight_decides(first, rows):
    layers = {"dense": nn.Linear(6, 4, bias=False), "columns": Conv1D(6, 4)}
    layers["columns"].weight = layers["dense"].weight
    model = nn.ModuleDict({name: layers[name] for name in sorted(layers, key=lambda name: name != first)})
    space = parameter_space(model)
    assert [block.name for block in space if block.kind == "weight"] == [f"{first}.weight"]
    assert len(space[f"{first}.weight"].filters(np.zeros(space.d))) == rows


def test_a_zero_factor_of_lora_has_a_zero_direction_and_is_named():
    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            self.requires_grad_(False)
            self.lora_A, self.lora_B = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.zeros(3, 2))

        def forward(self, inputs):
            return super().forward(inputs) + inputs @ self.lora_A.T @ self.lora_B.T

    objective = gradvis.objective(Adapted(), (torch.randn(5, 4), torch.randn(5, 3)), "mse")
    with pytest.warns(Note, match=r"all zero at the origin.*: lora_B; the surface does not move") as made:
        plane = gradvis.random_plane(objective)
    assert len(made) == 1
    parts = objective.space.split(plane.directions[0])
    assert parts["lora_A"].any()
    assert not parts["lora_B"].any()


@pytest.mark.parametrize("layer", [nn.LazyLinear(2), nn.LazyBatchNorm1d(affine=False)])
def test_a_model_that_has_no_shapes_yet_is_refused(layer):
    name = "weight" if isinstance(layer, nn.LazyLinear) else "running_mean"
    with pytest.raises(ValueError, match=f"1.{name} has no shape yet; call the model once"):
        parameter_space(nn.Sequential(nn.Linear(2, 2), layer))


# ------------------------------------------------------------------------------------ what the user says


@pytest.mark.parametrize(("axes", "filters"), [(0, 3), (1, 2), (-1, 2), ((0, 1), 6), ([1, 0], 6), ((), 1)])
def test_the_user_may_say_which_axes_count_filters(axes, filters):
    model = unknown("x", "y")
    space = parameter_space(model, filters={"x": axes})
    assert len(space["x"].filters(np.zeros(space.d))) == filters
    assert not space["x"].guessed
    assert space["y"].guessed


@pytest.mark.parametrize("axis", [1, -1])
def test_the_users_word_on_an_axis_is_followed_to_the_norms(axis):
    model = drawn_like(unknown("x"))
    space = parameter_space(model, filters={"x": axis})
    origin = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plane = gradvis.random_plane(Quadratic(np.ones(space.d), space=space), origin=origin)
    made = space.split(plane.directions[0])["x"]
    np.testing.assert_allclose(np.linalg.norm(made, axis=0), model["x"].detach().norm(dim=0), rtol=1e-6)


def test_the_first_glob_that_fits_counts_and_only_for_weights():
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Linear(3, 4))
    space = parameter_space(model, filters={"1.*": 1, "*": 0})
    assert [(block.name, block.view, block.filter_axes) for block in space] == [
        ("0.weight", (4, 3, 3, 3), (0,)),
        ("0.bias", (6,), (0,)),
        ("1.weight", (4, 3), (1,)),
        ("1.bias", (4,), (0,)),
    ]


@pytest.mark.parametrize(
    ("filters", "match"),
    [
        ({"0.weigth": 0}, "'0.weigth' fits none; near: 0.weight"),
        ({"0.bias": 0}, "'0.bias' fits none"),
        ({"*": 2}, r"filters\['\*'\] must be axes of 0.weight, whose shape is \(4, 3\), but 2 came"),
        ({"*": (0, -3)}, r"must be axes of 0.weight.*but \(0, -3\) came"),
        ({"*": "0"}, "must be axes of 0.weight.*but '0' came"),
        ({"1.weight": 0, "*": 7}, "but 7 came"),
    ],
)
def test_a_word_that_fits_nothing_is_refused(filters, match):
    with pytest.raises(ValueError, match=match):
        parameter_space(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), filters=filters)


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
