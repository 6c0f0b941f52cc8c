"""What a recorder sees of Keras' `fit`: training goes on bit by bit as without one, each step has its batch's loss."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from gradvis.backends.tf.watching import _coalesced
from gradvis.notes import Note
from gradvis.recording import Recording
from tests.keras_fits import BATCH, LOSS, compiled, data, fit, network, recorder, same, sgd, state

layers, optimizers = keras.layers, keras.optimizers
pytestmark = pytest.mark.filterwarnings("ignore:.*a recorded step takes")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.recording"


# --- Training is as it was -------------------------------------------------------------------------------------------


def decaying():
    return optimizers.Adam(optimizers.schedules.CosineDecay(0.1, 20))


def everything(model):
    """Weights, states of generators, metrics, and what the optimizer has."""
    return [*model.variables, *model.optimizer.variables]


def line():
    """Little to compile."""
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), layers.Dense(4, kernel_regularizer="l2")])


@pytest.mark.parametrize(
    ("model", "optimizer", "options"),
    [
        (partial(network, dropout=0.3), sgd, {}),
        (line, decaying, {"jit_compile": True}),
        (partial(network, built=False, dropout=0.3), sgd, {"steps_per_execution": 2}),
    ],
    ids=["graph", "xla", "unbuilt"],
)
@pytest.mark.filterwarnings("ignore:.*steps_per_execution")
def test_training_is_the_same_bit_by_bit_with_a_recorder(out, model, optimizer, options):
    runs = []
    for callback in (None, recorder(out, every_n_steps=3, ring=4)):
        trained = compiled(model(), optimizer(), **options)
        runs.append((trained, *fit(trained, callback)))
    (bare, spy, history), (watched, watched_spy, watched_history) = runs

    assert len(Recording(out).steps) >= 4
    for one, other in zip(everything(bare), everything(watched), strict=True):
        assert np.array_equal(one.numpy(), other.numpy()), one.path
    assert history == watched_history
    assert spy.logs == watched_spy.logs
    assert [*map(pickle.dumps, spy.states)] == [*map(pickle.dumps, watched_spy.states)]


def test_after_a_fit_nothing_is_left_of_the_recorder(out):
    model = compiled()
    touched = [model.optimizer, *model.metrics]
    fit(model, recorder(out), epochs=1)
    function = model.train_function
    fit(model, epochs=1)

    assert Recording(out).steps.tolist() == list(range(6))
    assert Recording(out).about["complete"]
    assert model.train_function is function
    assert "train_step" not in vars(model)
    assert all({"apply", "result", "update_state"}.isdisjoint(vars(thing)) for thing in touched)


# --- What is recorded ------------------------------------------------------------------------------------------------


def batch_loss(states, number, x, y, replicas=1):
    """Of a batch, at the state before its step, by NumPy; each replica normalises its own share."""
    now, start = states[number - 1], (number - 1) % 5 * BATCH
    shares = np.array_split(np.arange(start, min(start + BATCH, len(x))), replicas)
    sums = [share_loss(now, x[share].astype("float64"), y[share]) for share in shares]
    return sum(sums) / sum(map(len, shares)) + 0.01 * np.square(now["first/kernel"], dtype="float64").sum()


def share_loss(now, x, y):
    """Sum of the cross entropies."""
    hidden = x @ now["first/kernel"] + now["first/bias"]
    normed = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-3) * now["norm/gamma"] + now["norm/beta"]
    logits = normed @ now["last/kernel"] + now["last/bias"]
    return np.sum(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), y])


@pytest.mark.parametrize(("every", "ring"), [(1, 50), (4, 0)])
def test_each_recorded_step_is_the_state_that_was_there_with_the_loss_of_its_own_batch(out, every, ring):
    model = compiled()
    first = state(model)
    spy, _ = fit(model, recorder(out, every, ring=ring), shuffle=False)
    states = [first, *spy.states]
    recording = Recording(out)

    assert recording.steps.tolist() == sorted({*range(0, 11, every), 10})
    for each in recording.checkpoints():
        assert same(each.tensors(), states[each.step])
    np.testing.assert_allclose(
        recording.losses[1:], [batch_loss(states, n, *data()) for n in recording.steps[1:]], rtol=2e-6
    )
    assert [*recording.blocks] == ["first/kernel", "first/bias", "norm/gamma", "norm/beta", "last/kernel", "last/bias"]
    assert [*recording.buffers] == ["norm/moving_mean", "norm/moving_variance"]
    assert np.isnan(recording.gradient_norms).all()


def test_the_loss_of_a_batch_has_all_its_bits_late_in_an_epoch(out):
    """A difference of running means would have lost them: every batch is the same, and so is its loss."""
    model = compiled(network(), sgd(learning_rate=0.0, momentum=0.0))
    x, y = data(BATCH)
    model.fit(
        np.tile(x, (40, 1)), np.tile(y, 40), batch_size=BATCH, shuffle=False, verbose=0, callbacks=[recorder(out)]
    )

    assert np.unique(Recording(out).losses[1:]).size == 1


def test_learning_rates_are_those_of_the_step(out):
    schedule = optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    fit(compiled(optimizer=sgd(learning_rate=schedule)), recorder(out), epochs=1)
    halved = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (epoch + 1))
    other = out.with_name("other.recording")
    options = {"batch_size": 35, "epochs": 2, "verbose": 0, "callbacks": [halved, recorder(other)]}
    compiled(model := network()).fit(*data(), **options)

    np.testing.assert_allclose(Recording(out).learning_rates[:, 0], [0.1, 0.1, 0.05, 0.025, 0.0125, 0.00625], rtol=1e-6)
    np.testing.assert_allclose(Recording(other).learning_rates[:, 0], [0.1, 0.1, 0.1, 0.05, 0.05], rtol=1e-6)
    assert model.optimizer.iterations == 4


def test_gradient_norms_are_those_of_the_gradients_if_they_are_asked_for(out):
    model = compiled(optimizer=optimizers.SGD(0.1, clipnorm=1e-3, loss_scale_factor=8.0))
    x, y = data(BATCH)
    with tf.GradientTape() as tape:
        loss = LOSS(y, model(x, training=True)) + sum(model.losses)
    gradients = tape.gradient(loss, model.trainable_variables)
    wanted = [float(tf.norm(each)) for each in gradients]
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[recorder(out, gradient_norms=True)])

    assert np.isnan(Recording(out).gradient_norms[0]).all()
    np.testing.assert_allclose(Recording(out).gradient_norms[1], wanted, rtol=1e-4, atol=1e-6)


def test_rows_of_a_sparse_gradient_are_added_before_their_norm_is_taken():
    sparse = tf.IndexedSlices(tf.constant([[1.0, 2], [3, 4], [5, 6]]), tf.constant([7, 2, 7]), tf.constant([9, 2]))

    assert np.linalg.norm(_coalesced(sparse)) == pytest.approx(float(tf.norm(tf.convert_to_tensor(sparse))), rel=1e-6)


def test_of_several_steps_in_one_execution_the_last_is_seen(out):
    model = compiled(steps_per_execution=2)
    with pytest.warns(Note, match="steps_per_execution=2: of so many steps the last alone is seen"):
        spy, _ = fit(model, recorder(out, every_n_steps=3), shuffle=False)
    ends = dict(zip((2, 4, 5, 7, 9, 10), spy.states, strict=True))
    whole = out.with_name("whole.recording")
    fit(compiled(), recorder(whole), shuffle=False)
    found = dict(zip(Recording(whole).steps.tolist(), Recording(whole).losses.tolist(), strict=True))

    assert Recording(out).steps.tolist() == [0, 4, 7, 9, 10]  # the first that end at 3, 6, 9 or later, and the last
    np.testing.assert_allclose(Recording(out).losses[1:], [found[n] for n in (4, 7, 9, 10)], rtol=1e-6)
    assert all(same(each.tensors(), ends[each.step]) for each in Recording(out).checkpoints()[1:])


def test_batches_of_one_step_are_one_step_with_the_mean_of_their_losses(out):
    fit(compiled(optimizer=sgd(learning_rate=0.0)), recorder(out), shuffle=False)
    single = Recording(out).losses[1:]
    accumulated = out.with_name("accumulated.recording")
    fit(compiled(optimizer=sgd(learning_rate=0.0, gradient_accumulation_steps=2)), recorder(accumulated), shuffle=False)

    assert Recording(accumulated).steps.tolist() == list(range(6))
    np.testing.assert_allclose(Recording(accumulated).losses[1:], single.reshape(5, 2).mean(1), rtol=1e-6)


REPLICAS = """
    import os, sys
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras, numpy as np, tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import gradvis.callbacks
    from tests import keras_fits as ours, test_keras_recording as its
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = ours.compiled(ours.network())
    first = ours.state(model)
    spy, _ = ours.fit(model, gradvis.callbacks.KerasCallback(out=sys.argv[1], every_n_steps=2), shuffle=False)
    found, states = gradvis.open(sys.argv[1]), [first, *spy.states]
    assert found.steps.tolist() == [0, 2, 4, 6, 8, 10], found.steps
    losses = [its.batch_loss(states, n, *ours.data(), replicas=2) for n in found.steps[1:]]
    np.testing.assert_allclose(found.losses[1:], losses, rtol=2e-6)
    for each in found.checkpoints()[1:]:
        assert ours.same(each.tensors(), spy.states[each.step - 1])
    left = gradvis.record(model, model.optimizer, out=sys.argv[1] + ".left", step=10)  # and never closed
    model.optimizer.iterations.assign_add(1)
    print("right")
"""


def test_two_replicas_are_recorded_as_one_model_with_the_loss_of_the_whole_batch_up_to_the_end_of_the_program(out):
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(REPLICAS), str(out)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=os.getcwd())

    assert done.stdout.strip() == "right", done.stderr[-3000:]
    left = Recording(f"{out}.left")
    assert left.steps.tolist() == [10, 11]
    assert left.about["complete"]
    assert np.array_equal(left.checkpoints()[-1].parameters(), Recording(out).checkpoints()[-1].parameters())
