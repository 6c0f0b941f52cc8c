"""A network of Keras after a step of training, and its files in every form: for tests."""

from __future__ import annotations

from functools import cache

import h5py
import keras
import numpy as np
import tensorflow as tf

import gradvis
from gradvis.backends.tf.layers import names_of

layers = keras.layers
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(12, 6, 6, 1)).astype("float32"), RNG.integers(0, 3, 12)


def network(width=4, compiled=True):
    model = keras.Sequential([
        keras.Input((6, 6, 1)),
        layers.Conv2D(2, 3, name="conv"),
        layers.BatchNormalization(momentum=0.5, name="norm"),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(width, "tanh", name="hidden"),
        layers.Dense(3, name="out"),
    ])
    if compiled:
        model.compile(
            "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"], run_eagerly=True
        )
    return model


FORMS = (
    "model.keras", "whole.h5", "net.weights.h5", "old.weights.h5", "folder", "exported", "saved", "ck", "ck/ckpt-1",
    "ck/ckpt-1.index", "ck/ckpt-1.data-00000-of-00001", "plain", "root", "named.keras", "named.weights.h5",
)  # fmt: skip


@cache
def written(base):
    """A network after a step of training, its files, and its weights by name."""
    folder = base / "keras_files"
    folder.mkdir()
    model = network()
    model.fit(X, Y, verbose=0)
    model.save(folder / "model.keras")
    keras.saving.save_model(model, folder / "folder", zipped=False)
    model.save(folder / "whole.h5")
    model.save_weights(folder / "net.weights.h5")
    with h5py.File(folder / "whole.h5") as whole, h5py.File(folder / "old.weights.h5", "w") as old:  # as Keras 2 did
        old.attrs.update(whole["model_weights"].attrs)
        for name in whole["model_weights"]:
            whole.copy(f"model_weights/{name}", old)
    model.export(folder / "exported", verbose=False)
    tf.saved_model.save(model, folder / "saved")
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(folder / "ck" / "ckpt")
    tf.train.Checkpoint(network=model).write(folder / "plain")
    tf.train.Checkpoint(model).write(folder / "root")
    for name in ("named.keras", "named.weights.h5"):
        gradvis.save_checkpoint(folder / name, model, objective="net.py:objective", step=3)
    return folder, model, by_name(model)


def by_name(model):
    names = names_of(model)
    return {names[id(variable)]: variable.numpy() for variable in model.weights}


class Pair(tf.Module):
    def __init__(self, scale):
        super().__init__()
        self.first, self.rest = tf.Variable([scale, 2.0]), [tf.Variable([[scale]])]
