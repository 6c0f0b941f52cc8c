"""Gauss-Newton and empirical Fisher, against dense matrices made from the model alone."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradvis
from gradvis.backends.pytorch.ways import DOUBLE, FORWARD
from tests.test_products import differs, made, mean_of, objective_of
from tests.test_products_ways import WORDS, N, T, rows_of

pytestmark = pytest.mark.filterwarnings("ignore::gradvis.notes.Note", "ignore::FutureWarning")


class Words(nn.Module):
    """A class for each place of a sentence, (b, WORDS, T)."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm, self.last = nn.Embedding(WORDS, 3), nn.LayerNorm(3), nn.Linear(3, WORDS)

    def forward(self, tokens):
        return self.last(self.norm(torch.tanh(self.embedding(tokens)))).mT


def sentences():
    """Some places do not count, in one sentence none: the mean goes over 12 of 21 tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Words()
    rng = np.random.default_rng(1)
    tokens, targets = rng.integers(0, WORDS, (N, T)), rng.integers(0, WORDS, (N, T))
    targets[[0, 0, 1, 2, 3, 3, 4, 4, 4], [1, 2, 0, 2, 0, 1, 0, 1, 2]] = -100
    return model, tokens, targets


def pulled(model, inputs, targets):
    """Outputs as a function of theta, theta, and the targets, in plain torch."""
    twin = copy.deepcopy(model).double().eval()
    named = dict(twin.named_parameters())

    def outputs(theta):
        split = theta.split([value.numel() for value in named.values()])
        values = {name: piece.view(value.shape) for (name, value), piece in zip(named.items(), split, strict=True)}
        return torch.func.functional_call(twin, values, (torch.as_tensor(inputs),))

    theta = torch.cat([value.detach().reshape(-1) for value in named.values()])
    return outputs, theta, torch.as_tensor(targets)


@pytest.mark.parametrize("way", [FORWARD, DOUBLE])
def test_where_the_mean_goes_over_tokens_ggn_and_fisher_are_those_of_that_mean(way):
    model, tokens, targets = sentences()
    objective = objective_of(model, tokens, targets).again({"product": way})
    outputs, theta, wanted_words = pulled(model, tokens, targets)
    counted = (wanted_words != -100).sum().item()
    assert (counted, objective.about["unit"]) == (12, "unit")
    jacobian = torch.autograd.functional.jacobian(outputs, theta)  # (N, WORDS, T, d)
    shares = outputs(theta).softmax(1)
    ggn, fisher = np.zeros((2, len(theta), len(theta)))
    for sample in range(N):
        slope = torch.zeros(len(theta)).double()
        for place in range(T):
            if wanted_words[sample, place] >= 0:
                inner, p = jacobian[sample, :, place], shares[sample, :, place]
                ggn += (inner.T @ (p.diag() - p.outer(p)) @ inner).detach().numpy() / counted
                slope += inner.T @ (p - F.one_hot(wanted_words[sample, place], WORDS)).detach()
        fisher += (slope.outer(slope) * N / counted**2).numpy()

    vectors = rows_of(objective)
    assert differs(objective.hvp(theta.numpy(), vectors, "ggn"), vectors @ ggn) <= 1e-10
    assert differs(objective.hvp(theta.numpy(), vectors, "fisher"), vectors @ fisher) <= 1e-10
    for operator in ("ggn", "fisher"):
        parts = sum(objective.shard(index, 3).hvp(theta.numpy(), vectors, operator) for index in range(3))
        assert differs(parts, objective.hvp(theta.numpy(), vectors, operator)) <= 1e-12


def test_the_empirical_fisher_is_the_mean_over_samples_of_the_squared_slopes():
    model, inputs, targets = made("conv2d")
    objective = objective_of(model, inputs, targets)
    theta, vectors = objective.parameters(), rows_of(objective)
    wanted = np.zeros((len(theta), len(theta)))
    for image, target in zip(inputs, targets, strict=True):
        at = torch.tensor(theta, requires_grad=True)
        slope = torch.autograd.grad(mean_of(model, image[None], target[None])(at), at)[0].numpy()
        wanted += np.outer(slope, slope) / len(inputs)

    assert differs(objective.hvp(theta, vectors, "fisher"), vectors @ wanted) <= 1e-10


@pytest.mark.parametrize("kind", ["batch norm", "encoder layer", "lstm", "group norm"])
def test_the_gauss_newton_matrix_is_the_jacobian_around_the_curvature_of_the_loss(kind):
    model, inputs, _ = made(kind)
    targets = np.random.default_rng(3).normal(size=(len(inputs), 3))
    objective = objective_of(model, inputs, targets, loss="mse")
    outputs, theta, _ = pulled(model, inputs, targets)
    inner = torch.autograd.functional.jacobian(outputs, theta).reshape(-1, len(theta)).numpy()
    vectors = rows_of(objective)

    wanted = vectors @ (2 / targets.size * inner.T @ inner)

    assert differs(objective.hvp(theta.numpy(), vectors, "ggn"), wanted) <= 1e-10


def test_one_output_a_sample_is_no_special_case():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0))
    inputs, targets = np.random.default_rng(0).normal(size=(N, 4)), np.arange(N) % 2.0
    objective = objective_of(model, inputs, targets, loss="binary_cross_entropy")
    outputs, theta, wanted_classes = pulled(model, inputs, targets)
    inner, p = torch.autograd.functional.jacobian(outputs, theta), outputs(theta).sigmoid()
    vectors = rows_of(objective)

    for operator, weights in (("ggn", p * (1 - p)), ("fisher", (p - wanted_classes) ** 2)):
        dense = (inner.T * weights @ inner / N).detach().numpy()
        assert differs(objective.hvp(theta.numpy(), vectors, operator), vectors @ dense) <= 1e-10


def test_a_loss_without_curvature_in_the_outputs_has_no_gauss_newton_matrix():
    model, inputs, _ = made("conv1d")
    objective = objective_of(model, inputs, np.ones((len(inputs), 3)), loss="mae")

    np.testing.assert_array_equal(objective.hvp(objective.parameters(), rows_of(objective), "ggn"), 0)


def test_a_loss_that_is_the_mean_of_its_batch_has_a_gauss_newton_matrix_and_no_fisher():
    model, inputs, targets = made("conv2d")
    averaged = objective_of(model, inputs, targets, loss=lambda outputs, targets: F.cross_entropy(outputs, targets))
    each = objective_of(model, inputs, targets)
    theta, vectors = each.parameters(), rows_of(each)

    assert differs(averaged.hvp(theta, vectors, "ggn"), each.hvp(theta, vectors, "ggn")) <= 1e-12
    assert differs(averaged.hvp(theta, vectors), each.hvp(theta, vectors)) <= 1e-12
    with pytest.raises(ValueError, match="needs the loss of each sample.*return a value a sample"):
        averaged.hvp(theta, vectors, "fisher")


def test_forward_mode_takes_squared_errors_that_are_averaged():
    model, inputs, _ = made("conv2d")
    targets = np.random.default_rng(3).normal(size=(len(inputs), 3))
    averaged = objective_of(model, inputs, targets, loss=lambda outputs, targets: F.mse_loss(outputs, targets))
    each = objective_of(model, inputs, targets, loss="mse")
    theta, vectors = each.parameters(), rows_of(each)

    assert differs(averaged.hvp(theta, vectors), each.hvp(theta, vectors)) <= 1e-12
    assert averaged.how["product"] == FORWARD


@pytest.mark.parametrize("operator", ["ggn", "fisher"])
def test_a_batch_loss_hides_what_the_other_operators_need(operator):
    model, inputs, targets = made("conv2d")

    def hidden(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    objective = gradvis.objective(model, [(inputs, targets)], batch_loss=hidden, dtype="float64")
    each = objective_of(model, inputs, targets)
    theta, vectors = each.parameters(), rows_of(each)

    assert differs(objective.hvp(theta, vectors), each.hvp(theta, vectors)) <= 1e-12
    assert objective.how["product"] == FORWARD
    with pytest.raises(ValueError, match=f"'{operator}' needs the model's outputs, but batch_loss hides them"):
        objective.hvp(theta, vectors, operator)
