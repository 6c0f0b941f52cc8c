"""Batches of every form, and means over what a batch counts: values, gradients and products of every framework."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import gradvis
from tests.contract.token_nets import CLASSES, IGNORED, NETS, STEPS, WIDTH, WORDS, by_hand

SAMPLES = 11
CUTS = (0, 4, 9, 11)  # batches of 4, 5 and 2


@pytest.fixture(params=NETS)
def net(request):
    return NETS[request.param]()


@pytest.fixture
def data():
    """Inputs, tokens and targets, ignored here and there: the batches count 8, 17 and 3 tokens of 16, 20 and 8."""
    rng = np.random.default_rng(3)
    targets = rng.integers(0, CLASSES, (SAMPLES, STEPS))
    targets[:4, 2:] = targets[4:7, 3] = targets[9] = targets[10, 3] = IGNORED
    return rng.normal(size=(SAMPLES, STEPS, WIDTH)), rng.integers(0, WORDS, (SAMPLES, STEPS)), targets


def batches(net, data, form):
    return [form(*(net.array(each[start:stop]) for each in data)) for start, stop in pairwise(CUTS)]


def named(x, tokens, targets):
    return {"x": x, "tokens": tokens, "targets": targets}


def nested(x, tokens, targets):
    return (x, tokens), targets


def keyed(x, tokens, targets):
    return {"x": x, "tokens": tokens}, targets


def agree(net, objective, data, reduce):
    """With `reduce`, of the loss of every token, (b, t), and which count, by hand."""
    theta, tensors = objective.parameters(), [torch.as_tensor(each) for each in data]

    def mean(at):
        return reduce(by_hand(net, at, *tensors), (tensors[2] != IGNORED).double())

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
def test_several_inputs_in_a_tuple_or_by_name_are_arguments_of_the_model(net, data, form):
    objective = gradvis.objective(net.model, batches(net, data, form), net.swapped, dtype="float64")

    agree(net, objective, data, of_places)


def count(batch):
    return (batch["targets"] != IGNORED).sum() if isinstance(batch["targets"], torch.Tensor) else _count(batch)


def _count(batch):
    import tensorflow as tf

    return tf.reduce_sum(tf.cast(batch["targets"] != IGNORED, tf.float64))


FORMS = {
    "sum and count": (lambda net, model, batch: (net.total(net.per_token(model, batch)), count(batch)), {}, of_tokens),
    "mean and weight": (
        lambda net, model, batch: net.total(net.per_token(model, batch)) / count(batch),
        {"weight": count},
        of_tokens,
    ),
    "values a sample": (lambda net, model, batch: net.total(net.per_token(model, batch), 1), {}, of_samples),
    "values a token": (lambda net, model, batch: net.per_token(model, batch), {}, of_places),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_loss_of_each_form_states_its_unit(net, data, form):
    batch_loss, options, reduce = FORMS[form]
    objective = gradvis.objective(
        net.model, batches(net, data, named), batch_loss=lambda model, batch: batch_loss(net, model, batch),
        dtype="float64", **options,
    )  # fmt: skip

    agree(net, objective, data, reduce)


@pytest.mark.parametrize(("loss", "micro"), [(0, 2), (1, 11)], ids=["name", "object"])
def test_the_unit_of_a_sequence_loss_is_the_token_that_counts(net, data, micro, loss):
    x, tokens, targets = data
    objective = gradvis.objective(
        net.packed(), (np.concatenate([x, tokens[..., None]], -1), targets), net.losses[loss], dtype="float64",
        batch_size=5, micro_batch=micro,
    )  # fmt: skip

    agree(net, objective, data, of_tokens)

    theta = torch.as_tensor(objective.parameters())
    values = by_hand(net, theta, *(torch.as_tensor(each) for each in data)).sum(1).numpy()
    counts = (targets != IGNORED).sum(1)
    mean = values.sum() / counts.sum()
    spread = np.sqrt(((values - mean * counts) ** 2).sum() * SAMPLES / (SAMPLES - 1)) / counts.sum()
    assert objective.measure(objective.parameters())["loss_stderr"] == pytest.approx(spread, rel=1e-10)


def test_means_of_batch_means_would_be_another_number(data):
    """What the tests above tell apart."""
    net = NETS["torch"]()
    whole, *parts = (named(*map(net.array, each)) for each in (data, *_cut(data)))
    means = [(net.per_token(net.model, batch).sum() / count(batch)).item() for batch in parts]
    mean = (net.per_token(net.model, whole).sum() / count(whole)).item()

    assert [int(count(batch)) for batch in parts] == [8, 17, 3]
    assert abs(np.mean(means) - mean) > 1e-3 * mean


def _cut(data):
    return [tuple(each[start:stop] for each in data) for start, stop in pairwise(CUTS)]
