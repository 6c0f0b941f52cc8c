"""Models beyond a plain Keras one: a tf.Module, a batch_loss of one's own, a call that was traced before."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
from tests.test_keras import RNG, X, Y, dense, losses, objective

layers = keras.layers


def entropy(model, batch):
    inputs, targets = batch
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(targets, tf.int64), model(inputs))


class Plain(tf.Module):
    """No Keras in it: it counts its calls, looks up rows, and branches on a tensor."""

    def __init__(self):
        super().__init__()
        self.kernel, self.shift = (tf.Variable(RNG.normal(size=(rows, 3)).astype("float32")) for rows in (4, 2))
        self.calls = tf.Variable(0.0, trainable=False)

    @tf.function
    def __call__(self, x):
        self.calls.assign_add(1.0)
        if tf.reduce_sum(x) > 1e9:
            x = x * 0
        return x @ self.kernel + tf.gather(self.shift, 1) * self.calls


@pytest.mark.parametrize("options", [{}, {"data_budget": 0}], ids=["kept", "streamed"])
def test_a_module_without_keras_is_moved_by_its_trainable_variables(options):
    model = Plain()
    model(X)  # its tf.function now knows a graph that reads the variables
    before = [variable.numpy().tobytes() for variable in model.variables]
    made = gradvis.objective(model, [(X[:6], Y[:6]), (X[6:], Y[6:])], batch_loss=entropy, **options)
    theta = made.parameters() + 0.1

    found, slope, products = made.measure(theta), made.gradient(theta), made.hvp(theta, np.eye(18)[:2])

    moved = dict(zip((block.name for block in made.space), (theta[b.slice] for b in made.space), strict=True))
    whole = np.concatenate([moved["kernel"], 2 * moved["shift"][3:]])  # calls: 1 when it was made, and one more
    assert found["loss"] == pytest.approx(losses(whole).mean(), rel=1e-5)
    assert found["loss_stderr"] == pytest.approx(losses(whole).std(ddof=1) / np.sqrt(10), rel=1e-4)
    for each in range(18):
        step = np.eye(18)[each] * 1e-2
        assert slope[each] == pytest.approx(
            (made.measure(theta + step)["loss"] - made.measure(theta - step)["loss"]) / 2e-2, abs=2e-4
        )
    step = 1e-2 * np.eye(18)[0]
    np.testing.assert_allclose(
        products[0], (made.gradient(theta + step) - made.gradient(theta - step)) / 2e-2, atol=2e-4
    )
    assert [variable.numpy().tobytes() for variable in model.variables] == before
    assert not {"assign", "_read_variable_op"} & set(vars(model.kernel))
    assert made.about["model"] == "Plain"


def test_a_batch_loss_of_a_module_that_raises_leaves_the_variables_as_they_were():
    model = Plain()

    def failing(model, batch):
        model.kernel.assign(model.kernel * 0)
        raise ArithmeticError("no loss today")

    before = model.kernel.numpy()
    with pytest.raises(ArithmeticError, match="no loss today"):
        gradvis.objective(model, (X, Y), batch_loss=failing)
    np.testing.assert_array_equal(model.kernel.numpy(), before)
    model.kernel.assign(before + 1)
    np.testing.assert_array_equal(model.kernel.numpy(), before + 1)


def test_a_keras_model_has_batch_losses_of_its_own_too():
    """Such as those of physics: what it gives is differentiated by what it gets."""
    model = dense(1, activation="tanh", dtype="float64")
    wide = X.astype(float)

    def slope(model, batch):
        with tf.GradientTape() as tape:
            tape.watch(batch)
            outputs = model(batch)
        return tf.reduce_sum(tape.gradient(outputs, batch) ** 2, 1)

    made = gradvis.objective(model, [wide[:6], wide[6:]], batch_loss=slope, unit="point")
    theta = made.parameters()

    kernel, bias = theta[:4], theta[4]
    wanted = (1 - np.tanh(wide @ kernel + bias) ** 2) ** 2 * (kernel @ kernel)
    assert made.measure(theta)["loss"] == pytest.approx(wanted.mean(), rel=1e-12)
    assert made.about["unit"] == "point"
    step = 1e-6 * np.ones(5)
    assert made.gradient(theta) @ step == pytest.approx(
        (made.measure(theta + step)["loss"] - made.measure(theta - step)["loss"]) / 2, rel=1e-6
    )


def test_a_call_that_was_traced_before_is_traced_anew():
    class Decorated(keras.Model):
        def __init__(self):
            super().__init__()
            self.last = layers.Dense(3)

        @tf.function
        def call(self, x):
            return self.last(x)

    model = Decorated()
    model(X)
    with tf.device("/CPU:0"):  # TensorFlow keeps a graph for each device
        model(X)
    made = objective(model)
    theta = made.parameters() + 0.5

    assert made.measure(theta)["loss"] == pytest.approx(losses(theta).mean(), rel=1e-6)
    step = 1e-2 * np.eye(15)[0]
    wanted = (losses(theta + step) - losses(theta - step)).mean() / 2e-2
    assert made.gradient(theta)[0] == pytest.approx(wanted, rel=1e-3)
    assert not tf.config.functions_run_eagerly()
