"""Gradients and products with the Hessian through every kind of layer, against dense autograd."""

import copy
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
from gradvis.notes import Note

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
