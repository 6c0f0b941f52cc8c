"""Recordings of Keras training: it goes on bit by bit as without one, and what is read back is what was there."""

import os
import pickle
import subprocess
import sys
import textwrap
from functools import partial
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
import gradvis.callbacks
from gradvis.backends.tf.layers import moved_variables, names_of
from gradvis.backends.tf.record import innermost, is_chief
from gradvis.backends.tf.snapshot import slices
from gradvis.backends.tf.watching import _coalesced
from gradvis.notes import Note
from gradvis.recording import Recording

pytestmark = pytest.mark.filterwarnings("ignore:.*a recorded step takes")

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BATCH, SAMPLES = 16, 69  # four batches, and a ragged one that two replicas share unequally
layers, optimizers = keras.layers, keras.optimizers


def data(samples=SAMPLES):
    rng = np.random.default_rng(0)
    return rng.normal(size=(samples, 6)).astype("float32"), rng.integers(0, 4, samples)


def network(built=True, dropout=0.0):
    """With regularisation, statistics, and a generator if there is dropout."""
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        *([keras.Input((6,))] if built else []),
        layers.Dense(5, kernel_regularizer="l2", name="first"),
        layers.BatchNormalization(name="norm"),
        layers.Dropout(dropout),
        layers.Dense(4, name="last"),
    ])


def sgd(**options):
    return optimizers.SGD(**{"learning_rate": 0.1, "momentum": 0.9, **options})


def compiled(model=None, optimizer=None, **options):
    model = network() if model is None else model
    model.compile(optimizer or sgd(), loss=LOSS, **{"metrics": ["accuracy"], **options})
    return model


class Spy(keras.callbacks.Callback):
    """The state after each step and the logs, as any callback sees them."""

    def __init__(self):
        super().__init__()
        self.states, self.logs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.states.append(state(self.model))
        self.logs.append(dict(logs))


def state(model):
    names = names_of(model)
    return {names[id(v)]: v.numpy().copy() for v in model.weights}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n], equal_nan=True) for n in one)


def fit(model, callback=None, *, epochs=2, **options):
    spy = Spy()
    callbacks = [spy] if callback is None else [callback, spy]
    history = model.fit(*data(), batch_size=BATCH, epochs=epochs, verbose=0, callbacks=callbacks, **options)
    return spy, history.history


def recorder(out, every_n_steps=1, **options):
    return gradvis.callbacks.KerasCallback(out=out, every_n_steps=every_n_steps, **options)


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


REPLICAS = """
    import os, sys
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras, numpy as np, tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import gradvis.callbacks
    from tests import test_keras_recording as ours
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = ours.compiled(ours.network())
    first = ours.state(model)
    spy, _ = ours.fit(model, gradvis.callbacks.KerasCallback(out=sys.argv[1], every_n_steps=2), shuffle=False)
    found, states = gradvis.open(sys.argv[1]), [first, *spy.states]
    assert found.steps.tolist() == [0, 2, 4, 6, 8, 10], found.steps
    losses = [ours.batch_loss(states, n, *ours.data(), replicas=2) for n in found.steps[1:]]
    np.testing.assert_allclose(found.losses[1:], losses, rtol=2e-6)
    for each in found.checkpoints()[1:]:
        assert ours.same(each.tensors(), spy.states[each.step - 1])
    print("right")
"""


def test_two_replicas_are_recorded_as_one_model_with_the_loss_of_the_whole_batch(out):
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(REPLICAS), str(out)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=os.getcwd())

    assert done.stdout.strip() == "right", done.stderr[-3000:]


# --- Several fits, and fits that end otherwise -----------------------------------------------------------------------


def test_a_second_fit_goes_on_where_the_first_ended(out):
    model, callback = compiled(), recorder(out, every_n_steps=2, fresh=True)
    fit(model, callback, epochs=1)
    fit(model, callback, epochs=2, initial_epoch=1)
    compiled(model, sgd(learning_rate=0.01))  # iterations begin anew, steps do not
    fit(model, callback, epochs=1)
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 2, 4, 5, 6, 8, 10, 12, 14, 15]
    assert recording.learning_rates[-1] == np.float32(0.01)
    assert same(recording.checkpoints()[-1].tensors(), state(model))
    assert [path.name for path in out.parent.iterdir()] == ["run.recording"]


def test_a_run_that_starts_from_a_saved_model_goes_on_with_its_recording(out, tmp_path):
    model = compiled()
    fit(model, recorder(out), epochs=1)
    model.save(tmp_path / "five.keras")
    fit(compiled(), recorder(out, fresh=True), epochs=2)
    again = keras.models.load_model(tmp_path / "five.keras")
    spy, _ = fit(again, recorder(out, every_n_steps=3), epochs=2, initial_epoch=1)

    assert Recording(out).steps.tolist() == [0, 1, 2, 3, 4, 5, 6, 9, 10]
    assert same(Recording(out).checkpoints()[-1].tensors(), spy.states[-1])
    with pytest.raises(ValueError, match="run.recording is there already; give step=N"):
        fit(compiled(), recorder(out))


def test_a_fit_that_fits_no_budget_is_refused_before_its_first_step(out):
    model = compiled()
    with pytest.raises(ValueError, match=r"\d+ recorded steps of .* must fit, but disk_budget .* give every_n_steps="):
        fit(model, recorder(out, disk_budget=200_000), epochs=200)

    assert model.optimizer.iterations == 0
    assert not list(out.parent.iterdir())


def test_an_exception_in_a_step_closes_the_recording(out):
    model = compiled(network(), run_eagerly=True)
    plain = model.train_step
    told = []

    def failing(batch):
        if len(told) == 3:
            raise KeyboardInterrupt
        told.append(1)
        return plain(batch)

    model.train_step = failing
    with pytest.raises(KeyboardInterrupt, match="^$"):
        fit(model, recorder(out, every_n_steps=2))

    assert Recording(out).steps.tolist() == [0, 2, 3]
    assert Recording(out).about["complete"]
    assert same(Recording(out).checkpoints()[-1].tensors(), state(model))


def test_after_an_exception_elsewhere_another_fit_is_not_recorded(out):
    class Stopping(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("out of coffee")

    model, callback = compiled(), recorder(out)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of coffee"):
            model.fit(*data(), batch_size=BATCH, verbose=0, callbacks=[callback, Stopping()])
    fit(model, epochs=1)

    assert Recording(out).steps.tolist() == list(range(11))
    assert Recording(out).about["complete"]
    assert callback.recorder is None


def test_two_callbacks_in_one_fit_are_refused(out):
    with pytest.raises(ValueError, match="one KerasCallback a fit was wanted, but two came; leave one out"):
        compiled().fit(*data(), verbose=0, callbacks=[recorder(out), recorder(out.with_name("b.recording"))])
    with pytest.raises(TypeError, match="unexpected keyword argument 'evry'"):
        recorder(out, evry=3)


def test_a_callback_travels_to_another_process():
    callback = gradvis.callbacks.KerasCallback("loop.py:objective", ring=0)
    again = pickle.loads(pickle.dumps(callback))

    assert type(again) is gradvis.callbacks.KerasCallback
    options = {"objective": "loop.py:objective", "out": "run.recording", "every_n_steps": 20, "ring": 0}
    assert again.options == options


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


# --- A loop of one's own ---------------------------------------------------------------------------------------------


def stepping(model, optimizer):
    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return step


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_loop_logs_its_losses_before_or_after_their_step(out, when):
    model, optimizer = network(), sgd(learning_rate=optimizers.schedules.ExponentialDecay(0.1, 1, 0.5))
    step = stepping(model, optimizer)
    states, losses = [state(model)], []
    x, y = data()
    with gradvis.record(model, optimizer, out=out, every_n_steps=2) as recording:
        for _ in range(5):
            if when == "before":
                recording.log(loss=float(LOSS(y, model(x, training=False))))
                losses.append(float(LOSS(y, model(x, training=False))))
            loss = step(x, y)
            if when == "after":
                recording.log(loss=loss)
                losses.append(float(loss))
            states.append(state(model))
    found = Recording(out)

    assert found.steps.tolist() == [0, 2, 4, 5]
    np.testing.assert_array_equal(found.losses[1:], [losses[n - 1] for n in (2, 4, 5)])
    np.testing.assert_allclose(found.learning_rates[:, 0], [0.1, 0.05, 0.0125, 0.00625], rtol=1e-6)
    assert all(same(each.tensors(), states[each.step]) for each in found.checkpoints())


def test_a_loop_without_losses_says_that_it_has_stepped_and_may_go_back_to_save(out):
    model, optimizer = network(), sgd()
    step = stepping(model, optimizer)
    with gradvis.record(model, [optimizer], out=out, every_n_steps=2, step=10) as recording:
        for _ in range(3):
            step(*data())
            recording.stepped()
        recording.save()
        recording.save(step=20)
        step(*data())

    assert Recording(out).steps.tolist() == [10, 12, 13, 20, 21]
    assert same(Recording(out).checkpoints()[-1].tensors(), state(model))


def test_an_optimizer_that_goes_back_ends_the_recording(out):
    model, optimizer = network(), sgd()
    with gradvis.record(model, optimizer, out=out) as recording:
        stepping(model, optimizer)(*data())
        recording.stepped()
        optimizer.iterations.assign(0)
        with pytest.warns(
            Note, match=r"ended at step 1, .*: the optimizer has gone back to step 0; record\(\.\.\., st"
        ):
            recording.stepped()

    assert not recording.active


class Line(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(tf.ones((2, 3)))
        self.brain = tf.Variable(tf.constant([0.1, 0.2], tf.bfloat16))
        self.counts = tf.Variable([1, 2], trainable=False)
        self.flag = tf.Variable([True, False], trainable=False)
        self.far = tf.Variable(tf.constant(2**62 + 1, tf.int64), trainable=False)
        self.word = tf.Variable("a", trainable=False)


def test_a_module_is_recorded_exactly_in_every_dtype_and_without_an_optimizer(out):
    model = Line()
    with gradvis.record(model, out=out) as recording:
        model.weight.assign(model.weight * 2)
        recording.log(loss=3.0)
        recording.save()
        recording.save(step=10)
        with pytest.raises(ValueError, match=r"steps go up, but 4 came after 10"):
            recording.save(step=4)
    found = Recording(out)
    tensors = found.checkpoints()[1].tensors()

    assert found.steps.tolist() == [0, 1, 10]
    np.testing.assert_array_equal(found.losses, [np.nan, 3, np.nan])
    assert found.about["left_out"] == ["word"]
    assert found.blocks["brain"].dtype == "bfloat16"
    for name in ("weight", "brain", "counts", "flag", "far"):
        value = getattr(model, name).numpy()
        assert np.array_equal(tensors[name].astype(value.dtype), value), name
    assert tensors["far"] == 2**62 + 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"parameters": "conv*"},
            r"matches 'conv\*'; there are first/kernel, first/bias, norm/gamma, ...:",
        ),
        ({"dtype": "int8"}, "dtype must be one of float16, float32, float64, but int8 came"),
        ({"objective": "lenet"}, "an objective is named as FILE.py:NAME, but 'lenet' came"),
        ({"disk_budget": 1000}, r"a step takes .* and disk_budget \(1 kB\) holds 0; raise it"),
    ],
)
def test_what_cannot_be_recorded_is_said_in_one_line_and_leaves_nothing_behind(out, options, error):
    with pytest.raises(ValueError, match=error) as caught:
        gradvis.record(network(), out=out, **options)
    assert "\n" not in str(caught.value)
    assert not list(out.parent.iterdir())


def test_what_is_no_optimizer_no_loss_or_not_built_says_so(out):
    with pytest.raises(TypeError, match="must be a keras.optimizers.Optimizer, but int came; or leave it out"):
        gradvis.record(network(), 3, out=out)
    with pytest.raises(ValueError, match="a built model was wanted"):
        gradvis.record(network(built=False), out=out)
    model, optimizer = network(), sgd()
    with gradvis.record(model, optimizer, out=out) as recording:
        with pytest.raises(TypeError, match="a loss is one number, but a EagerTensor of 3 came; log its mean"):
            recording.log(loss=tf.zeros(3))
        with pytest.raises(TypeError, match="a tensor of a graph came; return it from the tf.function"):
            tf.function(lambda: recording.log(loss=tf.zeros(())))()
    assert innermost(optimizers.LossScaleOptimizer(optimizer)) is optimizer


@pytest.mark.parametrize("dtype", ["float16", "float64", tf.float16])
def test_parameters_are_stored_in_the_dtype_that_was_asked_for(out, dtype):
    model = network()
    gradvis.record(model, out=out, dtype=dtype).close()
    found = Recording(out).checkpoints()[0].parameters()

    assert found.dtype == (dtype if isinstance(dtype, str) else "float16")
    assert np.array_equal(
        found, np.concatenate([v.numpy().ravel() for v in model.trainable_variables]).astype(found.dtype)
    )


def test_a_frozen_layer_is_a_parameter_that_does_not_move(out):
    model = network()
    model.layers[0].trainable = False
    gradvis.record(model, out=out).close()

    assert [*Recording(out).blocks][:2] == ["first/kernel", "first/bias"]


class Cluster:
    def __init__(self, kind, number, jobs):
        self.task_type, self.task_id, self.cluster_spec = kind, number, lambda: tf.train.ClusterSpec(jobs)


@pytest.mark.parametrize(
    ("kind", "number", "jobs", "chief"),
    [
        ("worker", 0, {"worker": ["a:1", "b:1"]}, True),
        ("worker", 1, {"worker": ["a:1", "b:1"]}, False),
        ("worker", 0, {"chief": ["c:1"], "worker": ["a:1"]}, False),
        ("chief", 0, {"chief": ["c:1"], "worker": ["a:1"]}, True),
    ],
)
def test_of_several_workers_the_chief_writes(kind, number, jobs, chief):
    strategy = SimpleNamespace(cluster_resolver=Cluster(kind, number, jobs))

    assert is_chief(SimpleNamespace(distribute_strategy=strategy)) is chief


def test_other_ranks_record_nothing(out, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    fit(compiled(), recorder(out), epochs=1)
    with gradvis.record(network(), out=out.with_name("b.recording")) as recording:
        recording.log(loss=1.0)
        recording.save()

    assert not list(out.parent.iterdir())


# --- Objectives read it ----------------------------------------------------------------------------------------------


def objective(model):
    return gradvis.objective(model, data(), "cross_entropy")


def test_an_objective_takes_a_recorded_step_with_its_buffers_and_draws_its_path(out):
    model = compiled()
    fit(model, recorder(out, every_n_steps=2))
    keras.utils.set_random_seed(3)
    other = objective(network())
    last = Recording(out).checkpoints()[-1]
    trajectory = gradvis.project_trajectory(other, out)

    assert np.array_equal(other.read(last), objective(model).parameters())
    assert other.at(last).measure(other.read(last)) == objective(model).measure(objective(model).parameters())
    assert trajectory.dataset["step"].values.tolist() == [0, 2, 4, 6, 8, 10]
    expected = objective(model).measure(objective(model).parameters())["loss"]
    assert float(trajectory.dataset["loss"][-1]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("parameters", ["*", ["last/*", "norm/gamma"]], ids=["all", "some"])
@pytest.mark.filterwarnings("ignore:.*these stay as the")
def test_slices_of_a_recorded_step_are_those_of_its_vector(out, parameters):
    trained = compiled()
    fit(trained, recorder(out, parameters=parameters), epochs=1)
    model = network()
    model.get_layer("norm").beta.assign(np.arange(5.0))
    model.get_layer("last").bias.trainable = False
    each, moved = Recording(out).checkpoints()[-1], moved_variables(model)
    loss = objective(model)
    whole, reader = loss.read(each), slices(model, moved, "float32", each)
    expected = {**state(model), **{name: each.tensors()[name] for name in each.tensors()}}

    names = names_of(model)
    assert np.array_equal(whole, np.concatenate([expected[names[id(v)]].ravel() for v in moved]))
    for start in range(0, loss.space.d, 7):
        part = slice(start, min(start + 13, loss.space.d))
        assert np.array_equal(reader.read(part), whole[part])
    before = reader.rest()
    first = slices(model, moved, "float32", Recording(out).checkpoints()[0]).rest()
    assert before == slices(model, moved, "float32", each).rest() != first


def test_what_was_not_recorded_is_said_and_another_model_is_refused(out):
    gradvis.record(network(), out=out, parameters="last/*").close()
    each = Recording(out).checkpoints()[0]
    with pytest.warns(Note, match=r"has not first/bias, first/kernel, norm/beta, ... \(4 in all\): these stay"):
        objective(network()).read(each)
    wider = keras.Sequential([keras.Input((6,)), layers.Dense(4, name="other"), layers.Dense(4, name="last")])
    with pytest.raises(ValueError, match="the checkpoint run.recording step 0 has no 'other/kernel'"):
        objective(wider).read(each)
    with pytest.raises(ValueError, match="run.recording step 0 has no 'other/kernel', which the model has"):
        slices(wider, moved_variables(wider), "float32", each)
    narrow = keras.Sequential([keras.Input((6,)), layers.Dense(4, name="last")])
    with pytest.raises(ValueError, match=r"step 0 does not fit the model: last/kernel is \(5, 4\), not \(6, 4\)"):
        slices(narrow, moved_variables(narrow), "float32", each)
