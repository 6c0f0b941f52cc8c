"""PyTorch modules whose forward pass draws random numbers or carries states on: still one function of theta."""

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradvis.backends.pytorch.guard import remembered
from gradvis.plane import Plane
from tests.test_products import CLASSES, WIDTH, differs, made, objective_of

pytestmark = pytest.mark.filterwarnings("ignore::gradvis.notes.Note", "ignore::FutureWarning")


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
