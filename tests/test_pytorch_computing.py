"""How PyTorch computes: layouts, devices, settings of the process. The laws are in tests/contract."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradvis
from gradvis.backends.pytorch import TorchObjective
from gradvis.backends.pytorch.compute import find_device
from tests.test_pytorch import SAMPLES, net


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SAMPLES, 6, generator=generator), torch.randint(0, 4, (SAMPLES,), generator=generator)


class Viewing(nn.Module):
    """As in many a tutorial: `view` takes only contiguous images."""

    def __init__(self, flatten):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.flatten = nn.Conv2d(1, 3, 3), nn.Linear(108, 4), flatten

    def forward(self, images):
        hidden = F.relu(self.conv(images))
        return self.head(hidden.flatten(1) if self.flatten else hidden.view(len(hidden), -1))


def test_channels_last_is_used_where_the_code_allows_it():
    images, classes = torch.randn(SAMPLES, 1, 8, 8), torch.arange(SAMPLES) % 4
    values = []
    for flatten in (True, False):
        objective = TorchObjective(Viewing(flatten), (images, classes), "cross_entropy")
        assert objective.how["channels_last"] is flatten
        values.append(objective.measure(objective.parameters())["loss"])
    np.testing.assert_allclose(*values, rtol=1e-6)


def test_the_forward_pass_runs_once_a_micro_batch_for_all_metrics(pair):
    model, calls = net(), []
    objective = gradvis.objective(model, pair, "cross_entropy", metrics=["accuracy", "error"], micro_batch=8)
    objective = objective.again({"points": 1})
    model.register_forward_hook(lambda *_: calls.append(1))
    objective.evaluate(gradvis.random_plane(objective), np.zeros((5, 2)))
    assert len(calls) == 5 * 3


def test_points_are_formed_in_float32_for_a_bfloat16_model(pair):
    objective = gradvis.objective(net().bfloat16(), pair, "cross_entropy")
    assert objective.parameters().dtype == np.float32
    plane = gradvis.random_plane(objective)
    coords = np.array([[0.0, 0.0], [1e-3, 0.0], [2e-3, 0.0]])
    losses = objective.evaluate(plane, coords)[:, 0]
    assert len(set(losses)) == 3  # in bfloat16 such steps are lost
    second = losses[0] - 2 * losses[1] + losses[2]
    assert abs(second) < 0.05 * abs(losses[1] - losses[0])


def test_ranks_take_accelerators_in_turn(monkeypatch):
    """Without one here: only the choice is tested."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    assert [str(find_device("auto", rank)) for rank in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert str(find_device("cuda:1", 0)) == "cuda:1"


@pytest.fixture
def settings():
    """Reads torch's process-wide settings, none of them the default here."""
    cudnn = torch.backends.cudnn

    def read():
        flags = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
        return torch.get_num_threads(), torch.get_float32_matmul_precision(), *flags

    threads, precision, *flags = read()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = True, False, True
    yield read
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = flags


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_is_ieee_float32_on_its_own_threads_and_puts_the_settings_back(pair, settings, fails):
    seen, failing = [], []

    def loss(outputs, targets):
        seen.append(settings())
        if failing:
            raise ArithmeticError
        return F.cross_entropy(outputs, targets, reduction="none")

    objective = gradvis.objective(net(), pair, loss, threads=3)
    theta, before = objective.parameters(), settings()
    failing += [1] * fails
    for ask in (objective.measure, objective.gradient, lambda theta: objective.hvp(theta, theta[None])):
        with pytest.raises(ArithmeticError) if fails else nullcontext():
            ask(theta)
        assert settings() == before == (2, "high", True, False, True)
    assert set(seen) == {(3, "highest", False, True, False)}


@pytest.mark.slow
def test_compiled_values_are_the_same_within_rounding(pair):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    data = torch.randn(SAMPLES, 1, 8, 8), torch.arange(SAMPLES) % 4
    plain, compiled = (
        gradvis.objective(model, data, "cross_entropy", metrics=["accuracy"], compile=compile_it, micro_batch=8)
        for compile_it in (False, True)
    )
    plane = gradvis.random_plane(plain)
    coords = np.random.default_rng(0).normal(size=(3, 2))
    np.testing.assert_allclose(compiled.evaluate(plane, coords), plain.evaluate(plane, coords), rtol=1e-5)
