"""Weights and what does not count: every mean is that of the whole set, however the samples came in batches."""

from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import gradvis

SAMPLES, CLASSES = 12, 3
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(SAMPLES, 2)), RNG.integers(0, CLASSES, SAMPLES)
Y[:CLASSES] = range(CLASSES)
KERNEL = RNG.normal(size=(2, CLASSES))
OF_CLASS = np.array([0.2, 5.0, 1.0])  # one of them counts most, so that batches weigh much or little
CUTS = {"even": (0, 4, 8, 12), "ragged": (0, 1, 8, 12)}
COUNTED = {"weighted": OF_CLASS[Y], "ignored": (Y != 1) * 1.0}


def torch_network():
    model = torch.nn.Linear(2, CLASSES, bias=False, dtype=torch.float64)
    model.weight.data = torch.tensor(KERNEL.T.copy())
    return model


def keras_network():
    inputs = keras.Input((2,), dtype="float64")
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, use_bias=False, dtype="float64")(inputs))
    model.set_weights([KERNEL])
    return model


def torch_objective(counted, batches, **options):
    torch_losses = {
        "weighted": torch.nn.CrossEntropyLoss(weight=torch.tensor(OF_CLASS)),
        "ignored": torch.nn.CrossEntropyLoss(ignore_index=1),
    }
    return gradvis.objective(torch_network(), batches, torch_losses[counted], **options)


def keras_objective(counted, batches, **options):
    if counted == "ignored":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1)
        return gradvis.objective(keras_network(), batches, loss, **options)
    weighted = [(x, y, OF_CLASS[y]) for x, y in batches]
    return gradvis.objective(keras_network(), weighted, "cross_entropy", **options)


MAKE = {"torch": torch_objective, "keras": keras_objective}


def by_hand(weights):
    """Value, gradient (2, 3) and Hessian (6, 6) in the kernel, by the formulas of a linear softmax."""
    logits = X @ KERNEL
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    shares = weights / weights.sum()
    value = -shares @ np.log(chances[range(SAMPLES), Y])
    slope = (X * shares[:, None]).T @ (chances - np.eye(CLASSES)[Y])
    curved = [np.diag(p) - np.outer(p, p) for p in chances]
    dense = np.einsum("i,ia,ib,icd->acbd", shares, X, X, curved).reshape(6, 6)
    return value, slope, dense


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("counted", COUNTED)
@pytest.mark.parametrize("framework", MAKE)
def test_the_mean_goes_over_the_weight_of_the_whole_set(framework, counted, cut):
    objective = MAKE[framework](counted, batches_of(CUTS[cut]))
    found = objective.measure(objective.parameters())["loss"]
    assert found == pytest.approx(by_hand(COUNTED[counted])[0], rel=1e-12)


@pytest.mark.parametrize("framework", MAKE)
def test_gradient_and_products_of_streamed_batches_do_so_too(framework):
    objective = MAKE[framework]("weighted", batches_of(CUTS["ragged"]), data_budget=0)
    theta = objective.parameters()
    value, slope, dense = by_hand(COUNTED["weighted"])
    order = np.arange(6) if framework == "keras" else np.arange(6).reshape(2, CLASSES).T.reshape(-1)

    assert objective.measure(theta)["loss"] == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(objective.gradient(theta), slope.reshape(-1)[order], rtol=1e-10)
    np.testing.assert_allclose(objective.hvp(theta, np.eye(6)), dense[np.ix_(order, order)], rtol=1e-9, atol=1e-14)
    halves = sum(objective.shard(part, 2).hvp(theta, np.eye(6)) for part in range(2))
    np.testing.assert_allclose(halves, dense[np.ix_(order, order)], rtol=1e-9, atol=1e-14)


def batches_of(cuts):
    return [(X[i:j], Y[i:j]) for i, j in pairwise(cuts)]


def test_means_of_batches_would_be_another_number():
    """What the tests above tell apart."""
    values = -np.log(np.exp(X @ KERNEL) / np.exp(X @ KERNEL).sum(1, keepdims=True))[range(SAMPLES), Y]
    for cuts in CUTS.values():
        for weights in COUNTED.values():
            found = of_batches(values, weights, cuts)
            assert abs(found - weights @ values / weights.sum()) > 1e-2


def of_batches(values, weights, cuts):
    """The mean of each batch over its own weight, weighed by how many samples the batch has, as Keras 3 does it."""
    means = [(j - i) * (weights[i:j] @ values[i:j]) / max(weights[i:j].sum(), 1e-300) for i, j in pairwise(cuts)]
    return sum(means) / SAMPLES


# ---------------------------------------------------------------------------------- what Keras itself says


@pytest.mark.parametrize(
    ("reduction", "cut"),
    [("sum_over_batch_size", "ragged"), ("mean_with_sample_weight", "even"), ("mean_with_sample_weight", "ragged")],
)
def test_evaluate_is_this_number_where_it_divides_by_samples_and_a_mean_of_batches_where_by_weights(reduction, cut):
    model, weights = keras_network(), OF_CLASS[Y]
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction))
    batches = [(X[i:j], Y[i:j], weights[i:j]) for i, j in pairwise(CUTS[cut])]
    values = -np.log(np.exp(X @ KERNEL) / np.exp(X @ KERNEL).sum(1, keepdims=True))[range(SAMPLES), Y]

    objective = gradvis.objective(model, batches)
    found = objective.measure(objective.parameters())["loss"]
    said = model.evaluate(streamed(batches), verbose=0)

    if reduction == "sum_over_batch_size":
        assert found == pytest.approx((weights * values).mean(), rel=1e-12)
        assert said == pytest.approx(found, rel=1e-6)
    else:
        assert found == pytest.approx(weights @ values / weights.sum(), rel=1e-12)
        assert said == pytest.approx(of_batches(values, weights, CUTS[cut]), rel=1e-6)


def streamed(batches):
    """Of lengths that differ."""
    kinds = tuple(tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in batches[0])
    made = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=kinds)
    return made.apply(tf.data.experimental.assert_cardinality(len(batches)))


@pytest.mark.parametrize("cut", CUTS)
def test_places_that_a_layer_masks_do_not_count_in_batches_of_any_length(cut):
    words = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [1, 1, 2, 3], [2, 0, 0, 0]] * 3)
    embedding = RNG.normal(size=(4, 1))
    model = keras.Sequential([
        keras.Input((4,), dtype="int32"), keras.layers.Embedding(4, 1, mask_zero=True, dtype="float64"),
    ])  # fmt: skip
    model.set_weights([embedding])
    targets = RNG.normal(size=(12, 4, 1))
    batches = [(words[i:j], targets[i:j]) for i, j in pairwise(CUTS[cut])]

    objective = gradvis.objective(model, batches, "mse")
    found = objective.measure(objective.parameters())["loss"]

    squares = (embedding[words] - targets)[..., 0] ** 2
    assert found == pytest.approx(squares[words > 0].mean(), rel=1e-12)
    slope = [2 * ((embedding[words] - targets)[..., 0] * (words == word)).sum() for word in range(4)]
    wanted = np.array([0, *slope[1:]]) / (words > 0).sum()
    np.testing.assert_allclose(objective.gradient(objective.parameters()), wanted, rtol=1e-10)
