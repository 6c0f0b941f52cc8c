"""Gradients and products with the Hessian through every kind of layer, against dense autograd."""

import copy
import random
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations

import gradvis
from gradvis.backends.pytorch.guard import remembered
from gradvis.notes import Note
from gradvis.plane import Plane

SAMPLES, STEPS, WIDTH, CLASSES = 5, 3, 4, 3

pytestmark = pytest.mark.filterwarnings("ignore::gradvis.notes.Note", "ignore::FutureWarning")


class Net(nn.Module):
    """A layer, what of its output counts, and a dense layer on top."""

    def __init__(self, layer, features, run=lambda layer, x: layer(x)):
        super().__init__()
        self.layer, self.last, self.run = layer, nn.Linear(features, CLASSES), run

    def forward(self, x):
        outputs = self.run(self.layer, x)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        return self.last(outputs.flatten(1))


class Fused(nn.Module):
    """The bare function."""

    def __init__(self):
        super().__init__()
        self.packed = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        heads = (part.unflatten(-1, (2, 2)).transpose(1, 2) for part in self.packed(x).chunk(3, -1))
        return F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)


def sequence(layer, features=WIDTH, **options):
    return lambda: Net(layer(), STEPS * features, **options)


def images(layer, features):
    return lambda: Net(layer(), features)


def attention(**options):
    return {"run": lambda layer, x: layer(x, x, x, **options)}


def padded(layer, x):
    """Some places at the ends do not count; yet the whole output is read."""
    mask = torch.arange(STEPS) > 2 * x[:, :1, 0].sigmoid()
    return layer(x, src_key_padding_mask=mask)


def encoder(**options):
    return nn.TransformerEncoderLayer(WIDTH, 2, 5, batch_first=True, **options)


def normalised(norm):
    def layer():
        made = norm(nn.Linear(WIDTH, WIDTH))
        if "weight" in vars(made):  # old style: it could not be copied else
            made.weight = made.weight.detach()
        return made

    return layer


ATTENTION = {
    "attention": sequence(lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True), **attention(need_weights=False)),
    "sdpa": sequence(Fused),
    "encoder layer": sequence(encoder),
    "encoder layer, norm first": sequence(lambda: encoder(norm_first=True, activation="gelu")),
    "padded encoder": sequence(lambda: nn.TransformerEncoder(encoder(), 2), run=padded),
    "decoder layer": sequence(
        lambda: nn.TransformerDecoderLayer(WIDTH, 2, 5, batch_first=True), run=lambda layer, x: layer(x, x.flip(1))
    ),
}
RECURRENT = {
    "lstm": sequence(lambda: nn.LSTM(WIDTH, 2, 2, bidirectional=True, batch_first=True)),
    "gru": sequence(lambda: nn.GRU(WIDTH, 2, bidirectional=True, batch_first=True)),
    "rnn": sequence(lambda: nn.RNN(WIDTH, 3, batch_first=True), features=3),
    "lstm cell": lambda: Net(nn.LSTMCell(WIDTH, 3), 3, run=lambda layer, x: layer(x[:, 0])),
}
SEQUENCES = {
    **ATTENTION,
    **RECURRENT,
    "attention with weights": sequence(lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True), **attention()),
    "conv1d": lambda: Net(nn.Conv1d(STEPS, 2, 3), 2 * 2),
    "layer norm": sequence(lambda: nn.LayerNorm(WIDTH)),
    "rms norm": sequence(lambda: nn.RMSNorm(WIDTH)),
    "prelu": lambda: Net(nn.Sequential(nn.Flatten(), nn.PReLU(STEPS * WIDTH)), STEPS * WIDTH),
    "bilinear": sequence(lambda: nn.Bilinear(WIDTH, WIDTH, 2), features=2, run=lambda layer, x: layer(x, x.tanh())),
    "weight norm": sequence(normalised(parametrizations.weight_norm)),
    "spectral norm": sequence(normalised(parametrizations.spectral_norm)),
    "old weight norm": sequence(normalised(nn.utils.weight_norm)),
    "old spectral norm": sequence(normalised(nn.utils.spectral_norm)),
}
IMAGES = {
    "conv2d": images(lambda: nn.Conv2d(2, 3, 3, groups=1), 3 * 4),
    "conv transpose": images(lambda: nn.ConvTranspose2d(2, 2, 2, groups=2), 2 * 25),
    "group norm": images(lambda: nn.GroupNorm(2, 2), 32),
    "instance norm": images(lambda: nn.InstanceNorm2d(2, affine=True), 32),
    "tracking instance norm": images(lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True), 32),
    "batch norm": images(lambda: nn.BatchNorm2d(2), 32),
    "max pooling": images(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2)), 3),
    "conv3d": images(lambda: nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 2, (2, 3, 3))), 2 * 4),
}
KINDS = {**SEQUENCES, **IMAGES, "embedding": lambda: Net(nn.Embedding(5, WIDTH, padding_idx=0), STEPS * WIDTH)}


def made(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KINDS[kind]()
    rng = np.random.default_rng(1)
    if kind == "embedding":
        inputs = rng.integers(0, 5, (SAMPLES, STEPS))
    else:
        inputs = rng.normal(size=(SAMPLES, 2, 4, 4) if kind in IMAGES else (SAMPLES, STEPS, WIDTH))
    return model, inputs, rng.integers(0, CLASSES, SAMPLES)


def objective_of(model, inputs, targets, **options):
    standard = {"loss": "cross_entropy", "dtype": "float64", "batch_size": 3, "micro_batch": 3}
    return gradvis.objective(model, (inputs, targets), **{**standard, **options})


def mean_of(model, inputs, targets, loss=F.cross_entropy):
    """The loss of all samples at once as a function of theta, in plain torch."""
    twin = copy.deepcopy(model).double().eval()
    inputs, targets = torch.as_tensor(inputs), torch.as_tensor(targets)
    names, shapes = zip(*((name, value.shape) for name, value in twin.named_parameters()), strict=True)

    def mean(theta):
        pieces = theta.split([shape.numel() for shape in shapes])
        values = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        with sdpa_kernel(SDPBackend.MATH):
            return loss(torch.func.functional_call(twin, values, (inputs,)), targets)

    return mean


def differs(found, wanted):
    """Relative to the norm of what is wanted."""
    assert found.shape == wanted.shape
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def agree(objective, mean):
    theta = objective.parameters() + 0.1 * np.random.default_rng(2).normal(size=objective.space.d)
    vectors = np.random.default_rng(3).normal(size=(4, objective.space.d))
    at = torch.tensor(theta, requires_grad=True)
    dense = torch.autograd.functional.hessian(mean, at.detach()).numpy()

    products = objective.hvp(theta, vectors)

    assert objective.measure(theta)["loss"] == pytest.approx(mean(at).item(), rel=1e-12)
    assert differs(objective.gradient(theta), torch.autograd.grad(mean(at), at)[0].numpy()) <= 1e-10
    assert differs(products, vectors @ dense) <= 1e-8
    assert differs(products @ vectors.T, vectors @ products.T) <= 1e-12


WRITTEN_OUT = ("weight norm", "old weight norm")  # torch's own second derivative of it is wrong


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WRITTEN_OUT])
def test_products_through_each_kind_of_layer_are_those_of_the_dense_hessian(kind):
    model, inputs, targets = made(kind)

    agree(objective_of(model, inputs, targets), mean_of(model, inputs, targets))


@pytest.mark.parametrize("kind", WRITTEN_OUT)
def test_products_through_weight_norm_are_those_of_its_formula(kind):
    model, inputs, targets = made(kind)

    def mean(theta):
        bias, length, v, last, last_bias = theta.split([value.numel() for value in model.parameters()])
        v = v.view(WIDTH, WIDTH)
        hidden = torch.tensor(inputs) @ (v * (length / v.norm(dim=1))[:, None]).T + bias
        return F.cross_entropy(hidden.flatten(1) @ last.view(CLASSES, -1).T + last_bias, torch.tensor(targets))

    agree(objective_of(model, inputs, targets), mean)


@pytest.mark.parametrize("kind", ["attention", "lstm", "conv2d"])
def test_products_of_squared_errors_are_those_of_the_dense_hessian(kind):
    model, inputs, _ = made(kind)
    targets = np.random.default_rng(3).normal(size=(SAMPLES, CLASSES))

    agree(objective_of(model, inputs, targets, loss="mse"), mean_of(model, inputs, targets, F.mse_loss))


@pytest.mark.parametrize("kind", SEQUENCES)
def test_single_precision_differs_by_rounding_alone(kind):
    model, inputs, targets = made(kind)
    narrow, wide = (objective_of(model, inputs, targets, dtype=dtype) for dtype in ("float32", "float64"))
    theta = wide.parameters()

    assert narrow.measure(theta.astype(np.float32))["loss"] == pytest.approx(wide.measure(theta)["loss"], rel=1e-6)
    vectors = np.random.default_rng(3).normal(size=(2, len(theta)))
    assert differs(narrow.hvp(theta.astype(np.float32), vectors), wide.hvp(theta, vectors)) <= 1e-5


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_the_value_without_gradients_is_the_one_that_gradients_are_taken_of(kind, dtype, tolerance):
    model, inputs, targets = made(kind)
    objective = objective_of(model, inputs, targets, dtype=dtype)
    theta = objective.parameters().astype(np.float64)

    wanted = mean_of(model, inputs, targets)(torch.tensor(theta, requires_grad=True)).item()

    assert objective.measure(theta.astype(dtype))["loss"] == pytest.approx(wanted, rel=tolerance)


# ---------------------------------------------------------------------------------------------- paths


def settings():
    cuda = torch.backends.cuda
    return {
        "kernels": [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()],
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic),
        "nested": torch.backends.mha.get_fastpath_enabled(),
        "threads": torch.get_num_threads(),
        "modes": len(torch.overrides._get_current_function_mode_stack()),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_path_is_said_once_and_only_where_there_was_one(kind):
    model, inputs, targets = made(kind)
    objective = objective_of(model, inputs, targets)
    theta = objective.parameters()

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            objective.measure(theta)
            objective.gradient(theta)
            objective.hvp(theta, theta[None])

    found = [str(each.message) for each in said if each.category is Note]
    wanted = ["attention"] * (kind in ATTENTION) + ["weight norm"] * kind.endswith("weight norm")
    assert len(found) == len(wanted)
    assert all(word in each for word, each in zip(wanted, found, strict=True))


@pytest.mark.parametrize("fails", [False, True])
def test_kernels_are_chosen_for_the_length_of_a_call(fails):
    model, inputs, targets = made("padded encoder")
    inside = []

    def run(layer, x):
        inside.append(settings())
        if fails and len(inside) > 3:
            raise ArithmeticError("not today")
        return padded(layer, x)

    model.run = run
    objective = objective_of(model, inputs, targets)
    theta = objective.parameters()
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]):
        before, nested = settings(), model.layer.use_nested_tensor
        inside.clear()
        with pytest.raises(ArithmeticError, match="not today") if fails else nullcontext():
            for _ in range(2):
                objective.hvp(theta, theta[None])
        after = settings()

    assert inside[0]["kernels"] == [False, False, True]
    assert after == before
    assert (nested, model.layer.use_nested_tensor) == (True, True)


def test_what_has_no_second_derivative_is_said_in_a_sentence():
    class Direct(nn.Linear):
        def forward(self, x):
            q = super().forward(x)[:, None]
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)[0].flatten(1)

    _, inputs, targets = made("attention")
    objective = objective_of(Net(Direct(WIDTH, WIDTH), STEPS * WIDTH), inputs, targets)
    theta = objective.parameters()

    assert np.isfinite(objective.gradient(theta)).all()
    with pytest.raises(ValueError, match="torch has none for aten::_scaled_dot_product_flash_attention_for_cpu_backw"):
        objective.hvp(theta, theta[None])


def test_an_error_of_the_model_stays_its_own():
    model, inputs, targets = made("conv1d")
    objective = objective_of(model, inputs, targets)
    model.run = lambda layer, x: layer(x) @ torch.zeros(1, 1).double()

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        objective.gradient(objective.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: cuDNN's recurrent layers")
@pytest.mark.parametrize("kind", [*RECURRENT, *ATTENTION])
def test_products_on_an_accelerator_are_those_of_the_dense_hessian(kind):
    model, inputs, targets = made(kind)
    if kind == "padded encoder":
        pytest.skip("its mask is made on the CPU")
    objective = objective_of(model, inputs, targets, device="cuda")

    agree(objective, mean_of(model, inputs, targets))

    assert torch.backends.cudnn.enabled


# ---------------------------------------------------------------------------------------------- batch norm


def normed():
    """Two kinds of batch norm, and dropout, which stays off."""
    layers = (
        nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(8, 3), nn.BatchNorm1d(3, momentum=None), nn.Linear(3, CLASSES),
    )  # fmt: skip
    return nn.Sequential(*layers)


@pytest.mark.parametrize("micro", [None, 2])
def test_under_the_batch_policy_products_are_those_of_each_whole_batch_in_training_mode(micro):
    _, inputs, targets = made("conv2d")
    model = normed()
    stood = {name: value.clone() for name, value in model.named_buffers()}
    objective = objective_of(model, inputs, targets, batch_norm="batch", micro_batch=micro)
    training = copy.deepcopy(model).double().train()
    training[4].eval()

    def mean(theta):
        pieces = theta.split([value.numel() for value in model.parameters()])
        named = zip(model.named_parameters(), pieces, strict=True)
        values = {name: piece.view(value.shape) for (name, value), piece in named}
        total = torch.zeros(()).double()
        for start, stop in ((0, 3), (3, SAMPLES)):  # batches of 3, the last of them ragged
            outputs = torch.func.functional_call(training, values, (torch.tensor(inputs[start:stop]),))
            total = total + F.cross_entropy(outputs, torch.tensor(targets[start:stop]), reduction="sum")
        return total / SAMPLES

    agree(objective, mean)
    theta = objective.parameters()
    parts = sum(objective.shard(index, 2).hvp(theta, theta[None]) for index in range(2))
    assert differs(parts, objective.hvp(theta, theta[None])) <= 1e-12
    assert all(torch.equal(value, stood[name]) for name, value in model.named_buffers())
    assert model.training
    assert all(layer.track_running_stats for layer in (model[1], model[6]))


def test_recalibrated_batch_norm_has_no_derivatives_and_no_shards():
    _, inputs, targets = made("conv2d")
    objective = objective_of(normed(), inputs, targets, batch_norm="recalibrate")
    theta = objective.parameters()

    asked = (objective.gradient, lambda theta: objective.hvp(theta, theta[None]), lambda _: objective.shard(0, 2))
    for ask in asked:
        with pytest.raises(ValueError, match="batch_norm='recalibrate'"):
            ask(theta)


# ---------------------------------------------------------------------------------------------- random forwards


class Drawing(nn.Module):
    """Random in evaluation mode too."""

    def __init__(self, draw):
        super().__init__()
        self.first, self.last, self.draw = nn.Linear(WIDTH, 4), nn.Linear(4, CLASSES), draw
        self.torch, self.numpy = torch.Generator().manual_seed(3), np.random.default_rng(3)

    def forward(self, x):
        return self.last(torch.tanh(self.draw(self, self.first(x.mean(1)))))


DRAWS = {
    "dropout": lambda _, z: F.dropout(z, 0.5, training=True),
    "reparametrised": lambda _, z: z + torch.randn_like(z),
    "python": lambda _, z: z * random.random(),
    "numpy": lambda _, z: z * np.random.rand(),
    "own numpy generator": lambda net, z: z * net.numpy.random(),
    "own torch generator": lambda net, z: z * torch.rand(z.shape, generator=net.torch, dtype=z.dtype),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_a_random_forward_is_one_function_of_theta(draw):
    _, inputs, targets = made("lstm")
    objective = objective_of(Drawing(DRAWS[draw]), inputs, targets)
    theta, along = objective.parameters(), np.random.default_rng(4).normal(size=objective.space.d)
    step = 1e-5 * along
    before = objective.measure(theta)["loss"]

    gradient, product = objective.gradient(theta), objective.hvp(theta, along[None])[0]

    slope = (objective.measure(theta + step)["loss"] - objective.measure(theta - step)["loss"]) / 2e-5
    assert gradient @ along == pytest.approx(slope, rel=1e-7)
    assert differs((objective.gradient(theta + step) - objective.gradient(theta - step)) / 2e-5, product) <= 1e-7
    points = objective.evaluate(Plane(theta, along[None]), np.array([[0.3], [0.0], [0.0]]))[:, 0]
    assert points[1] == points[2] == objective.measure(theta)["loss"] == before


@pytest.mark.parametrize("draw", ["dropout", "python", "numpy"])
def test_a_random_forward_draws_anew_for_each_micro_batch_and_shards_draw_the_same(draw):
    _, inputs, targets = made("lstm")
    drawn = []

    def recorded(net, z):
        drawn.append(DRAWS[draw](net, torch.ones(1, 8)).tolist())
        return z

    objective = objective_of(Drawing(recorded), inputs, targets, micro_batch=2)
    theta = objective.parameters()
    drawn.clear()
    objective.gradient(theta)
    whole = drawn.copy()
    drawn.clear()
    for index in range(3):
        objective.shard(index, 3).gradient(theta)

    assert len(whole) == len({str(each) for each in whole}) == 3
    assert all(each in drawn for each in whole)


# ---------------------------------------------------------------------------------------------- states


class Stateful(nn.Module):
    """Assigns tensors in its forward pass: a state, a mask, a buffer that was and one that was not there."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(WIDTH, CLASSES)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", None)
        self.state, self.calls = None, []
        self.fixed = torch.ones(CLASSES)

    def forward(self, x):
        self.calls.append(len(x))
        self.count = self.count + 1
        outputs = self.last(x.mean(1)) * self.count
        if self.state is not None:
            outputs = outputs + self.state
        self.state = self.mean = self.new = self.fixed = outputs.detach().mean(0)
        return outputs


@pytest.mark.parametrize("fails", [False, True])
def test_tensors_that_a_forward_assigns_are_gone_after_the_call(fails):
    _, inputs, targets = made("lstm")
    model = Stateful()
    found = {name: vars(model)[name] for name in ("state", "fixed")}
    count = model.count

    with pytest.raises(ArithmeticError, match="no loss") if fails else nullcontext():
        objective = objective_of(model, inputs, targets, loss=refuse if fails else "cross_entropy")
        objective.hvp(objective.parameters(), objective.parameters()[None])

    assert all(vars(model)[name] is value for name, value in found.items())
    assert not hasattr(model, "new")
    assert model.mean is None
    assert model.count is count
    assert model.count.item() == 0
    assert model.calls


def refuse(outputs, targets):
    raise ArithmeticError("no loss")


def test_every_point_starts_from_the_same_state():
    _, inputs, targets = made("lstm")
    objective = objective_of(Stateful(), inputs, targets)
    theta = objective.parameters()

    values = objective.evaluate(Plane(theta, theta[None]), np.array([[0.0], [0.2], [0.0]]))[:, 0]

    assert values[0] == values[2] == objective.measure(theta)["loss"]


def test_generators_of_the_models_own_are_as_found():
    _, inputs, targets = made("lstm")
    model = Drawing(lambda net, z: z * net.numpy.random() * torch.rand((), generator=net.torch, dtype=z.dtype))
    before = model.torch.get_state(), model.numpy.bit_generator.state

    objective = objective_of(model, inputs, targets)
    objective.gradient(objective.parameters())

    assert torch.equal(model.torch.get_state(), before[0])
    assert model.numpy.bit_generator.state == before[1]


def test_old_weight_norm_keeps_the_weight_that_it_had():
    model, inputs, targets = made("old weight norm")
    weight = model.layer.weight

    objective = objective_of(model, inputs, targets)
    objective.gradient(objective.parameters() + 1)

    assert model.layer.weight is weight
    assert "weight" in vars(model.layer)


def test_what_is_no_tensor_is_left_as_the_forward_left_it():
    model = Stateful()
    put_back = remembered(model)
    model.steps = 5
    model.state = torch.ones(1)
    model.count = torch.ones(())

    put_back()

    assert (model.steps, model.state, model.count.item()) == (5, None, 0)
