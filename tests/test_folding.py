"""Batch norm by stored statistics, folded into the linear layer before it: the same products, wherever it stands."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradvis.backends.pytorch import folding
from gradvis.backends.pytorch.ways import DOUBLE, FORWARD
from tests.test_products import differs, objective_of
from tests.test_products_ways import rows_of

N = 7


def unsettled(norm):
    """With statistics, scale and shift of its own."""
    generator = torch.Generator().manual_seed(1)
    for values in (*norm.parameters(), *norm.buffers()):
        if values.is_floating_point():
            values.data.add_(torch.rand(values.shape, generator=generator))
    return norm


class Chain(nn.Module):
    """A layer and its batch norm, joined as `run` says."""

    def __init__(self, layer, norm, run=lambda layer, norm, x: norm(layer(x))):
        super().__init__()
        self.layer, self.norm, self.run, self.last = layer, unsettled(norm), run, nn.LazyLinear(3)

    def forward(self, x):
        return self.last(torch.tanh(self.run(self.layer, self.norm, x)).flatten(1))


def conv(channels=2, **options):
    return nn.Conv2d(2, channels, 3, padding=1, **options)


FOLDED = {
    "conv1d": ((2, 5), lambda: Chain(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3))),
    "conv2d": ((2, 4, 4), lambda: Chain(conv(), nn.BatchNorm2d(2))),
    "conv3d": ((2, 3, 3, 3), lambda: Chain(nn.Conv3d(2, 2, 2), nn.BatchNorm3d(2))),
    "linear": ((4,), lambda: Chain(nn.Linear(4, 3), nn.BatchNorm1d(3))),
    "no bias": ((2, 4, 4), lambda: Chain(conv(bias=False), nn.BatchNorm2d(2))),
    "no scale": ((2, 4, 4), lambda: Chain(conv(), nn.BatchNorm2d(2, affine=False))),
    "neither": ((2, 4, 4), lambda: Chain(conv(bias=False), nn.BatchNorm2d(2, affine=False))),
    "groups": ((2, 4, 4), lambda: Chain(conv(4, groups=2, stride=2, dilation=2), nn.BatchNorm2d(4))),
}
PLAIN = {
    "used twice": ((2, 4, 4), lambda: Chain(conv(), nn.BatchNorm2d(2), twice)),
    "looked at": ((2, 4, 4), lambda: Chain(conv(), nn.BatchNorm2d(2), looked_at)),
    "layer after layer": ((2, 4, 4), lambda: Chain(conv(), nn.BatchNorm2d(2), lambda c, n, x: n(c(c(x))))),
    "written to": ((2, 4, 4), lambda: Chain(conv(), nn.BatchNorm2d(2), written_to)),
    "transposed": ((2, 4, 4), lambda: Chain(nn.ConvTranspose2d(2, 3, 3), nn.BatchNorm2d(3))),
    "channels last": ((3, 4), lambda: Chain(nn.Linear(4, 5), nn.BatchNorm1d(3))),
    "norm first": ((2, 4, 4), lambda: Chain(conv(), nn.BatchNorm2d(2), lambda c, n, x: c(n(x)))),
    "the last layer": ((4,), lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))),
}


def twice(layer, norm, x):
    y = layer(x)
    return norm(y) + y * norm(torch.relu(y))


def looked_at(layer, norm, x):
    y = layer(x)
    assert (y.shape, y.ndim, y.dtype) == (x.shape, 4, x.dtype)
    return norm(y * y.mean().sin())


def written_to(layer, norm, x):
    y = layer(x)
    y[:, 0] *= 2
    return norm(y)


def made(shape, build):
    torch.manual_seed(0)
    model, inputs = build().double().eval(), torch.randn(N, *shape, dtype=torch.float64)
    model(inputs)
    return objective_of(model, inputs.numpy(), torch.arange(N).numpy() % 3)


@pytest.mark.parametrize("operator", ["hessian", "ggn", "fisher"])
@pytest.mark.parametrize("kind", [*FOLDED, *PLAIN])
def test_products_are_those_of_double_backward_which_folds_nothing(kind, operator):
    objective = made(*{**FOLDED, **PLAIN}[kind])
    theta, vectors = objective.parameters(), rows_of(objective)

    found = objective.hvp(theta, vectors, operator)

    assert objective.how["product"] == FORWARD
    assert differs(found, objective.again({"product": DOUBLE}).hvp(theta, vectors, operator)) <= 1e-10


@pytest.mark.parametrize("kind", FOLDED)
def test_the_layer_before_a_batch_norm_is_never_computed_without_it(kind, monkeypatch):
    objective = made(*FOLDED[kind])
    theta, vectors = objective.parameters(), rows_of(objective)
    plain, seen = folding._Later.plain, []
    monkeypatch.setattr(folding._Later, "plain", lambda self: seen.append(self.weight.shape) or plain(self))

    objective.hvp(theta, vectors)

    assert seen
    assert set(seen) == {(3, objective.space["last.weight"].shape[1])}  # the last layer, which no batch norm follows


def test_a_layer_that_several_ask_for_is_computed_once():
    calls = []

    def layer(x, weight, bias):
        calls.append(1)
        return F.linear(x, weight, bias)

    with folding.Forward():
        y = F.linear(torch.ones(2, 3), torch.ones(4, 3))
        y.run = layer
        total = y + y.sum() * y

    assert torch.equal(total, torch.full((2, 4), 3 + 24 * 3.0))
    assert len(calls) == 1
