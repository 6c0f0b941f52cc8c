"""A Keras model of many layers for the contract suite."""

from __future__ import annotations

from functools import cached_property
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from tests.contract.cases import CLASSES
from tests.contract.keras_cases import ZERO, Dense

layers = keras.layers


class Net(keras.Model):
    """What makes trouble, in one: shared, frozen and unused weights, too; inputs are (b, 3, 2)."""

    def __init__(self, seed: int, dtype: str) -> None:
        super().__init__(dtype=dtype)

        def dense(name: str, units: int, *options: Any, **more: Any) -> Any:
            return layers.Dense(units, *options, name=name, dtype=dtype, **more)

        self.embedding = layers.Embedding(2, 2, dtype=dtype, name="embedding")
        self.batch_norm = layers.BatchNormalization(dtype=dtype, name="batch_norm")
        self.attention = layers.MultiHeadAttention(1, 2, dropout=0.3, seed=seed, dtype=dtype, name="attention")
        self.layer_norm = layers.LayerNormalization((1, 2), dtype=dtype, name="layer_norm")
        self.lstm = layers.LSTM(2, return_sequences=True, dropout=0.2, seed=seed, dtype=dtype, name="lstm")
        self.group_norm = layers.GroupNormalization(1, dtype=dtype, name="group_norm")
        self.shared, self.unused, self.last = dense("shared", 2, "tanh"), dense("unused", 2), dense("last", CLASSES)
        self.frozen = dense("frozen", 4, trainable=False)
        self.off = layers.Dropout(0.5, seed=seed, dtype=dtype, name="off")
        self.unused.build((None, 3))

    def call(self, x: Any, training: bool = False) -> Any:
        x = x + self.embedding(keras.ops.cast(x[..., 0] > 0, "int32"))
        x = self.batch_norm(x, training=training)
        x = self.layer_norm(x + self.attention(x, x, training=training))
        x = keras.ops.mean(self.group_norm(self.lstm(x, training=training)), 1)
        return self.last(self.off(self.frozen(self.shared(self.shared(x))), training=training))


class Everything(Dense):
    """The reference has no loops, and a variance whose mean is not held still."""

    pattern = "lstm/*"

    def __init__(self, dtype: str = "float64") -> None:
        super().__init__(dtype)
        self.labelled(3, 2)
        self.second = tf.function(self.curvature, autograph=False)  # else it takes most of the suite's time

    @cached_property
    def twin(self) -> Any:
        twin = self.build(2)
        twin.lstm.unroll = True
        return twin

    def build(self, seed: int) -> Any:
        model, rng = Net(seed, self.dtype), np.random.default_rng(seed)
        model(np.zeros((1, 3, 2), self.dtype))
        for variable in model.weights:
            kept, start = np.abs if "variance" in variable.name else np.asarray, variable.numpy()
            start = start if np.ptp(start) == 0 else 0.0  # what Keras draws is another each time
            variable.assign(kept(start + 0.7 * rng.normal(size=variable.shape)))
        return model

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        self.stand(theta)
        return self.second().numpy()

    def curvature(self) -> Any:
        """Where the twin stands, (d, d)."""
        variables = [variable.value for variable in self.twin.trainable_variables]
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape() as inner:
                mean = tf.reduce_mean(self.per_sample(self.logits()))
            first = inner.gradient(mean, variables, unconnected_gradients=ZERO)
            slope = tf.concat([tf.reshape(each, (-1,)) for each in first], 0)
        parts = outer.jacobian(slope, variables, unconnected_gradients=ZERO, experimental_use_pfor=False)
        return tf.concat([tf.reshape(each, (slope.shape[0], -1)) for each in parts], 1)

    def logits(self) -> Any:
        with mock.patch.object(tf.nn, "moments", moments):
            return self.twin(self.inputs.astype(self.dtype), training=False)


def moments(x: Any, axes: Any, keepdims: bool = False) -> tuple[Any, Any]:
    """As `tf.nn.moments`, whose second derivatives are wrong."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean((x - mean) ** 2, axes, keepdims=True)
    return (mean, variance) if keepdims else (tf.squeeze(mean, axes), tf.squeeze(variance, axes))
