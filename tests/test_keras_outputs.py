"""Products of Keras models with several outputs, or with a softmax at their end, against dense matrices by torch."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gradvis
from gradvis.notes import Note

layers = keras.layers
WIDE = {"dtype": "float64"}
SAMPLES = 7
RNG = np.random.default_rng(0)
X, CLASSES, NUMBERS = RNG.normal(size=(SAMPLES, 4)), RNG.integers(0, 3, SAMPLES), RNG.normal(size=(SAMPLES, 2))
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(theta, outputs, each):
    """Every operator, (d, d), of the losses, (b,), that `each` makes of what `outputs` gives at theta, (b, c)."""
    at, rows = torch.tensor(theta), range(SAMPLES)
    jacobian = torch.autograd.functional.jacobian(outputs, at)
    z = outputs(at).detach()
    curved = torch.autograd.functional.hessian(lambda z: each(z).sum(), z)
    slopes = torch.autograd.functional.jacobian(lambda at: each(outputs(at)), at)
    return {
        "hessian": torch.autograd.functional.hessian(lambda at: each(outputs(at)).mean(), at).numpy(),
        "ggn": sum(jacobian[row].T @ curved[row, :, row] @ jacobian[row] for row in rows).numpy() / SAMPLES,
        "fisher": (slopes.T @ slopes).numpy() / SAMPLES,
    }


def agree(objective, theta, outputs, each):
    """Loss and products, every vector of a basis at once."""
    found = each(outputs(torch.tensor(theta))).mean().item()
    assert objective.measure(theta)["loss"] == pytest.approx(found, rel=1e-12)
    for operator, wanted in dense(theta, outputs, each).items():
        products = objective.hvp(theta, np.eye(len(theta)), operator)
        assert np.linalg.norm(products - wanted) <= 1e-10 * np.linalg.norm(wanted), operator


# ---------------------------------------------------------------------- several outputs


def heads():
    """Three logits and two numbers of one hidden layer."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,), **WIDE)
    hidden = layers.Dense(3, "tanh", use_bias=False, name="h", **WIDE)(inputs)
    a = layers.Dense(3, name="a", **WIDE)(hidden)
    return keras.Model(inputs, {"a": a, "b": layers.Dense(2, use_bias=False, name="b", **WIDE)(hidden)})


def both(theta):
    """Side by side, (b, 5)."""
    h, a, shift, b = (part for part in theta.split([12, 9, 3, 6]))
    hidden = torch.tanh(torch.tensor(X) @ h.view(4, 3))
    return torch.cat([hidden @ a.view(3, 3) + shift, hidden @ b.view(3, 2)], 1)


def weighted(a, b):
    def each(z):
        errors = ((z[:, 3:] - torch.tensor(NUMBERS)) ** 2).mean(1)
        return a * F.cross_entropy(z[:, :3], torch.tensor(CLASSES), reduction="none") + b * errors

    return each


DATA = X, {"a": CLASSES, "b": NUMBERS}


def test_products_with_several_outputs_are_those_of_the_weighted_sum_of_their_losses():
    model = heads()
    model.compile(loss={"a": LOGITS, "b": "mse"}, loss_weights={"a": 0.3, "b": 2.0})
    objective = gradvis.objective(model, DATA)

    agree(objective, objective.parameters() + 0.1, both, weighted(0.3, 2.0))


def test_a_loss_of_all_outputs_has_the_same_products():
    def loss(outputs, targets):
        a = keras.ops.sparse_categorical_crossentropy(targets["a"], outputs["a"], from_logits=True)
        return 0.3 * a + 2 * keras.ops.mean((outputs["b"] - targets["b"]) ** 2, -1)

    objective = gradvis.objective(heads(), DATA, loss)

    agree(objective, objective.parameters() + 0.1, both, weighted(0.3, 2.0))


# ---------------------------------------------------------------------- a softmax at the end


def ending(units, activation):
    keras.utils.set_random_seed(1)
    hidden = layers.Dense(3, "tanh", use_bias=False, **WIDE)
    return keras.Sequential([
        keras.Input((4,), **WIDE),
        hidden,
        layers.Dense(units, activation, use_bias=False, **WIDE),
    ])


def last(theta, units):
    h, a = theta.split([12, 3 * units])
    return torch.tanh(torch.tensor(X) @ h.view(4, 3)) @ a.view(3, units)


BINARY = (CLASSES > 0)[:, None].astype(float)
ENDS = {
    "classes": (3, "softmax", CLASSES, keras.losses.SparseCategoricalCrossentropy()),
    "shares": (3, "softmax", np.eye(3)[CLASSES], keras.losses.CategoricalCrossentropy()),
    "binary": (1, "sigmoid", BINARY, keras.losses.BinaryCrossentropy()),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_outputs_of_a_softmax_are_probabilities_in_products_too(end):
    """Keras' losses look behind a softmax that they know; the Gauss-Newton matrix is that of what the model gives."""
    units, activation, targets, loss = ENDS[end]
    objective = gradvis.objective(ending(units, activation), (X, targets), loss)

    def outputs(theta):
        z = last(theta, units)
        return z.softmax(1) if units > 1 else z.sigmoid()

    def each(p):
        y = torch.tensor(BINARY)
        if units == 1:
            return -(y * p.log() + (1 - y) * (1 - p).log())[:, 0]
        return -p.log().gather(1, torch.tensor(CLASSES)[:, None])[:, 0]

    words = "taken in what the model gives, here probabilities; for the one in logits"
    with pytest.warns(Note, match=words):
        agree(objective, objective.parameters() + 0.1, outputs, each)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)  # it is said once
        agree(objective, objective.parameters(), outputs, each)


# ---------------------------------------------------------------------- XLA


def test_products_of_a_compiled_pass_are_those_of_the_plain_one():
    plain, fast = (
        gradvis.objective(ending(3, None), (X, CLASSES), "cross_entropy", compile=each) for each in (False, True)
    )
    theta = plain.parameters()

    assert (plain.about["compile"], fast.about["compile"]) == (False, True)
    found, wanted = (each.hvp(theta, np.eye(len(theta))[:2]) for each in (fast, plain))
    assert found.tobytes() == wanted.tobytes()
