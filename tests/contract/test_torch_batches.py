"""Batches of every form, and means over what a batch counts: values, gradients and products against plain torch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradvis

SAMPLES, STEPS, WIDTH, CLASSES, IGNORED = 11, 4, 3, 3, -100
CUTS = (0, 4, 9, 11)  # batches of 4, 5 and 2


class Two(nn.Module):
    """Two inputs, the second of them tokens."""

    def __init__(self):
        super().__init__()
        self.embedding, self.last = nn.Embedding(5, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x, tokens):
        return self.last(torch.tanh(x + self.embedding(tokens)))  # (b, t, classes)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Two().double()


@pytest.fixture
def data():
    """Inputs, tokens and targets, ignored here and there: the batches count 8, 17 and 3 tokens of 16, 20 and 8."""
    rng = np.random.default_rng(3)
    targets = rng.integers(0, CLASSES, (SAMPLES, STEPS))
    targets[:4, 2:] = targets[4:7, 3] = targets[9] = targets[10, 3] = IGNORED
    return tuple(
        torch.as_tensor(each)
        for each in (rng.normal(size=(SAMPLES, STEPS, WIDTH)), rng.integers(0, 5, (SAMPLES, STEPS)), targets)
    )


def batches(data, form):
    return [form(*(each[start:stop] for each in data)) for start, stop in pairwise(CUTS)]


def per_token(model, batch):
    return F.cross_entropy(model(batch["x"], batch["tokens"]).mT, batch["targets"], reduction="none")


def named(x, tokens, targets):
    return {"x": x, "tokens": tokens, "targets": targets}


def nested(x, tokens, targets):
    return (x, tokens), targets


def keyed(x, tokens, targets):
    return {"x": x, "tokens": tokens}, targets


def counted(batch):
    return float((batch["targets"] != IGNORED).sum())


def swapped(outputs, targets):
    """Per token; what is ignored is a zero that counts."""
    return F.cross_entropy(outputs.mT, targets, reduction="none")


def agree(objective, model, data, reduce):
    """With `reduce`, of the loss of every token, (b, t), and which count, as a function of theta in plain torch."""
    x, tokens, targets = data
    theta = objective.parameters()
    shapes = [value.shape for value in model.parameters()]
    names = [name for name, _ in model.named_parameters()]

    def mean(at):
        pieces = at.split([shape.numel() for shape in shapes])
        values = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        outputs = torch.func.functional_call(model, values, (x, tokens))
        return reduce(F.cross_entropy(outputs.mT, targets, reduction="none"), (targets != IGNORED).double())

    at = torch.tensor(theta, requires_grad=True)
    slope = torch.autograd.grad(mean(at), at)[0].numpy()
    dense = torch.autograd.functional.hessian(mean, at.detach()).numpy()
    parts = [objective.shard(index, 2) for index in range(2)]
    vectors = np.eye(len(theta))[::5]

    assert objective.measure(theta)["loss"] == pytest.approx(mean(at).item(), rel=1e-12)
    np.testing.assert_allclose(objective.gradient(theta), slope, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(objective.hvp(theta, vectors), vectors @ dense, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(sum(part.gradient(theta) for part in parts), slope, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(sum(part.hvp(theta, vectors) for part in parts), vectors @ dense, rtol=1e-8, atol=1e-14)


def of_tokens(values, counts):
    return values.sum() / counts.sum()


def of_places(values, counts):
    return values.mean()


def of_samples(values, counts):
    return values.sum(1).mean()


@pytest.mark.parametrize("form", [nested, keyed])
def test_several_inputs_in_a_tuple_or_by_name_are_arguments_of_the_model(model, data, form):
    agree(gradvis.objective(model, batches(data, form), swapped, dtype="float64"), model, data, of_places)


@pytest.mark.parametrize(
    ("batch_loss", "options", "reduce"),
    [
        (lambda model, batch: (per_token(model, batch).sum(), counted(batch)), {}, of_tokens),
        (
            lambda model, batch: (per_token(model, batch).sum(), (batch["targets"] != IGNORED).sum()),
            {},
            of_tokens,
        ),
        (lambda model, batch: per_token(model, batch).sum() / counted(batch), {"weight": counted}, of_tokens),
        (lambda model, batch: per_token(model, batch).sum(1), {}, of_samples),
        (lambda model, batch: per_token(model, batch), {}, of_places),
    ],
    ids=["sum and count", "sum and tensor count", "mean and weight", "values a sample", "values a token"],
)
def test_a_batch_loss_of_each_form_states_its_unit(model, data, batch_loss, options, reduce):
    objective = gradvis.objective(model, batches(data, named), batch_loss=batch_loss, dtype="float64", **options)

    agree(objective, model, data, reduce)


class Tagger(nn.Module):
    """Tokens in, a class of each out: (b, classes, t), as torch's cross entropy wants them."""

    def __init__(self, two):
        super().__init__()
        self.two = two

    def forward(self, x):
        return self.two(x[..., :WIDTH], x[..., WIDTH].long()).mT


@pytest.mark.parametrize("micro", [2, 5, 11])
@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss(ignore_index=IGNORED)], ids=["name", "module"])
def test_the_unit_of_a_sequence_loss_is_the_token_that_counts(model, data, micro, loss):
    x, tokens, targets = data
    packed = torch.cat([x, tokens[..., None].double()], -1)
    objective = gradvis.objective(
        Tagger(model), (packed, targets), loss, dtype="float64", batch_size=5, micro_batch=micro
    )

    agree(objective, model, data, of_tokens)

    with torch.no_grad():
        values = per_token(model, named(*data)).sum(1).numpy()
    counts = (targets != IGNORED).sum(1).numpy()
    mean = values.sum() / counts.sum()
    spread = np.sqrt(((values - mean * counts) ** 2).sum() * SAMPLES / (SAMPLES - 1)) / counts.sum()
    assert objective.measure(objective.parameters())["loss_stderr"] == pytest.approx(spread, rel=1e-10)


def test_means_of_batch_means_would_be_another_number(model, data):
    """What the tests above tell apart."""
    means = [per_token(model, batch).sum().item() / counted(batch) for batch in batches(data, named)]
    whole = per_token(model, named(*data)).sum().item() / counted(named(*data))

    assert [counted(batch) for batch in batches(data, named)] == [8, 17, 3]
    assert abs(np.mean(means) - whole) > 1e-3 * whole
