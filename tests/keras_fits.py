"""A small network of Keras in `fit`, recorded, and a callback that sees the same: for tests."""

from __future__ import annotations

import keras
import numpy as np

import gradvis.callbacks
from gradvis.backends.tf.layers import names_of

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
