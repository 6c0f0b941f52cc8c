"""Several fits of Keras, fits that end otherwise, and what a loop of one's own has of Keras alone."""

from __future__ import annotations

import pickle
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
import gradvis.callbacks
from gradvis.backends.tf.record import innermost, is_chief
from gradvis.notes import Note
from gradvis.recording import Recording
from tests.keras_fits import BATCH, LOSS, compiled, data, fit, network, recorder, same, sgd, state

layers, optimizers = keras.layers, keras.optimizers
pytestmark = pytest.mark.filterwarnings("ignore:.*a recorded step takes")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.recording"


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

    assert not list(out.parent.iterdir())


# --- A loop of one's own ---------------------------------------------------------------------------------------------


def stepping(model, optimizer):
    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return step


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


def test_a_loss_that_is_seen_before_its_step_says_that_statistics_are_late(out):
    model, optimizer = network(), sgd()
    step = stepping(model, optimizer)

    def train(told):
        with gradvis.record(model, optimizer, out=out, every_n_steps=1, fresh=True) as recording:
            for _ in range(3):
                recording.log(loss=LOSS(data()[1], model(data()[0], training=True)))
                step(*data())
                if told:
                    recording.stepped()

    with pytest.warns(Note, match="each step is seen at the next log, with the moving statistics of one") as notes:
        train(told=False)
    assert sum("seen at the next log" in str(each.message) for each in notes) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "losses are logged before")
        train(told=True)


def test_a_model_that_is_not_built_and_a_loss_of_a_graph_say_so(out):
    with pytest.raises(ValueError, match="a built model was wanted"):
        gradvis.record(network(built=False), out=out)
    model, optimizer = network(), sgd()
    with (
        gradvis.record(model, optimizer, out=out) as recording,
        pytest.raises(TypeError, match="a tensor of a graph came; return it from the tf.function"),
    ):
        tf.function(lambda: recording.log(loss=tf.zeros(())))()
    assert innermost(optimizers.LossScaleOptimizer(optimizer)) is optimizer


def test_a_frozen_layer_is_a_parameter_that_does_not_move(out):
    model = network()
    model.layers[0].trainable = False
    gradvis.record(model, out=out).close()

    assert [*Recording(out).blocks][:2] == ["first/kernel", "first/bias"]


def test_a_recorded_variable_of_another_shape_is_refused(out):
    gradvis.record(network(), out=out, parameters="last/*").close()
    each = Recording(out).checkpoints()[0]
    narrow = keras.Sequential([keras.Input((6,)), layers.Dense(4, name="last")])
    loss = gradvis.objective(narrow, data(), "cross_entropy")
    with pytest.raises(ValueError, match=r"step 0 does not fit the model: last/kernel is \(5, 4\), not \(6, 4\)"):
        loss.reader(each)
    with pytest.raises(ValueError, match=r"has 'last/kernel' of shape \(5, 4\), the model \(6, 4\); it is of another"):
        loss.read(each)
