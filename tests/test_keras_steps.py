"""Training steps of Keras that are not plain: loss scales, float16, the user's own, and losses that blow up."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from gradvis.notes import Note
from gradvis.recording import Recording
from tests.keras_fits import BATCH, LOSS, Spy, compiled, data, fit, recorder, same, sgd

layers, optimizers = keras.layers, keras.optimizers
pytestmark = pytest.mark.filterwarnings("ignore:.*a recorded step takes")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.recording"


def test_a_step_that_a_loss_scale_skips_is_none(out):
    class Spiky(keras.Sequential):
        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
                scaled = self.optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, self.trainable_variables)
            spike = tf.where(tf.equal(self.seen.assign_add(1), 2), np.inf, 1.0)
            self.optimizer.apply([g * spike for g in gradients], self.trainable_variables)
            return {"loss": loss}

    keras.utils.set_random_seed(0)
    model = Spiky([keras.Input((6,)), layers.Dense(4)])
    model.seen = tf.Variable(0)
    compiled(model, optimizers.LossScaleOptimizer(sgd()), metrics=None)
    spy, _ = fit(model, recorder(out, gradient_norms=True), epochs=1)

    assert Recording(out).steps.tolist() == [0, 1, 2, 3, 4]
    assert same(Recording(out).checkpoints()[2].tensors(), spy.states[2])
    assert np.isfinite(Recording(out).gradient_norms[1:]).all()
    assert Recording(out).learning_rates[-1] == np.float32(0.1)
    np.testing.assert_allclose(
        Recording(out).losses[[1, 3, 4]], [spy.logs[n]["loss"] for n in (0, 3, 4)], rtol=1e-6
    )  # such a step's logs have the loss of the batch


@pytest.mark.parametrize("name", ["loss", "total"])
def test_a_step_of_the_users_own_that_logs_a_mean_shows_the_loss_of_its_batch(out, name):
    class Own(keras.Sequential):
        def train_step(self, batch):
            with tf.GradientTape() as tape:
                loss = LOSS(batch[1], self(batch[0], training=True))
            variables = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            self.mean.update_state(loss)
            return {"loss": self.mean.result()}

    model = Own([keras.Input((6,)), layers.Dense(4)])
    model.mean = keras.metrics.Mean(name=name)
    compiled(model, metrics=None)
    spy, _ = fit(model, recorder(out), epochs=1)
    means = np.array([each["loss"] for each in spy.logs])

    np.testing.assert_allclose(Recording(out).losses[1:], np.diff(np.arange(6) * np.array([0, *means])), rtol=1e-5)


def test_a_step_with_optimizers_of_its_own_counts_batches_and_says_what_it_cannot_see(out):
    class Players(keras.Sequential):
        def train_step(self, batch):
            variables = self.trainable_variables
            self.other.apply([tf.ones_like(each) for each in variables], variables)
            return {"d_loss": tf.constant(1.0)}

    model = Players([keras.Input((6,)), layers.Dense(4)])
    compiled(model, metrics=None)
    model.other = optimizers.SGD(0.5)
    with pytest.warns(Note, match="the training step shows no loss of its batch") as told:
        spy, _ = fit(model, recorder(out), epochs=1)

    assert sum("shows no loss" in str(each.message) for each in told) == 1
    assert Recording(out).steps.tolist() == list(range(6))
    assert np.isnan(Recording(out).losses).all()
    assert all(same(e.tensors(), s) for e, s in zip(Recording(out).checkpoints()[1:], spy.states, strict=True))


def test_the_latest_steps_are_written_when_the_loss_is_no_number(out):
    x, y = data(160)
    x[13 * 10 :] = np.nan
    model = compiled()
    spy = Spy()
    with pytest.warns(Note, match="the loss of step 14 is not finite: 4 more of the latest steps are recorded"):
        model.fit(
            x, y, batch_size=10, shuffle=False, verbose=0, callbacks=[recorder(out, every_n_steps=10, ring=5), spy]
        )
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 10, 11, 12, 13, 14, 16]
    assert recording.first_nonfinite == 14
    assert recording.finite.tolist() == [True] * 5 + [False] * 2
    assert np.isfinite(recording.losses[1:5]).all()
    assert all(same(each.tensors(), spy.states[each.step - 1]) for each in recording.checkpoints()[1:])


def half(optimizer):
    """A network that computes in float16."""
    keras.utils.set_random_seed(0)
    policy = {"dtype": "mixed_float16"}
    return compiled(
        keras.Sequential([
            keras.Input((6,)), layers.Dense(5, "tanh", name="first", kernel_regularizer="l2", **policy),
            layers.Dense(4, name="last", **policy),
        ]),
        optimizer,
        metrics=None,
    )  # fmt: skip


def test_float16_records_float32_variables_at_the_steps_that_its_loss_scale_takes(out):
    """The first scale is too large; the loss of a batch is recorded unscaled, that of a skipped one with the next."""
    scaled = optimizers.LossScaleOptimizer(sgd(), initial_scale=2.0**20)
    model, batches = half(scaled), {0: 0}
    counted = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batches.setdefault(int(scaled.iterations), len(spy.logs))
    )
    spy = Spy()
    model.fit(
        *data(), batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=[recorder(out, ring=3), spy, counted]
    )
    recording, x, y = Recording(out), *data()
    found = [*recording.checkpoints()]
    steps = recording.steps.tolist()

    assert 2 <= steps[-1] < 10
    assert steps == list(range(len(batches)))
    assert {part.dtype for part in recording.blocks.values()} == {"float32"}
    assert all(same(each.tensors(), spy.states[batches[each.step] - 1]) for each in found[1:])
    for number in steps[1:]:
        kernel, bias, last, shift = (found[number - 1].tensors()[name].astype("float64") for name in recording.blocks)
        losses = []
        for batch in range(batches[number - 1], batches[number]):
            part = slice(batch % 5 * BATCH, batch % 5 * BATCH + BATCH)
            logits = np.tanh(x[part] @ kernel + bias) @ last + shift
            values = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), y[part]]
            losses.append(values.mean() + 0.01 * np.square(kernel).sum())
        assert recording.losses[number] == pytest.approx(np.mean(losses), rel=5e-3)


def test_the_first_loss_of_float16_that_is_not_finite_is_told_though_its_step_is_skipped(out):
    model = half(optimizers.LossScaleOptimizer(sgd(), initial_scale=2.0**8))
    x, y = data(80)
    x[3 * BATCH : 4 * BATCH] = np.inf
    with pytest.warns(Note, match="the loss of step 4 is not finite: 2 more of the latest steps are recorded"):
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[recorder(out, every_n_steps=9, ring=2)])
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 3, 4]  # of five batches
    assert recording.first_nonfinite == 4
    assert all(np.isfinite(each.parameters()).all() for each in recording.checkpoints())


def test_where_no_loss_is_shown_a_gradient_that_is_not_finite_tells(out):
    class Silent(keras.Sequential):
        def train_step(self, batch):
            spike = tf.where(tf.equal(self.optimizer.iterations, 3), np.inf, 1.0)
            self.optimizer.apply([tf.ones_like(v) * spike for v in self.trainable_variables])
            return {"other": tf.constant(1.0)}

    model = Silent([keras.Input((6,)), layers.Dense(4)])
    compiled(model, metrics=None)
    model.optimizer.build(model.trainable_variables)
    with pytest.warns(Note, match="the gradient of step 4 is not finite: 2 more of the latest steps are recorded"):
        fit(model, recorder(out, every_n_steps=2, ring=4, gradient_norms=True), epochs=1)

    assert Recording(out).steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isinf(Recording(out).gradient_norms[4]).all()
