"""Keras models for the contract suite; the references use the model's twin, variables and all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import gradvis
from gradvis.objective import Objective
from tests.contract.cases import BATCH, CLASSES, SAMPLES, Network, common_state

layers = keras.layers
ZERO = tf.UnconnectedGradients.ZERO


class Dense(Network):
    pattern = "middle/*"
    operators = ("hessian", "ggn", "fisher")
    loss = "cross_entropy"

    def __init__(self, dtype: str = "float64") -> None:
        self.dtype = dtype
        self.labelled(4)
        self.model = self.build(1)
        self.model.compile("adam")
        self.model.optimizer.build(self.model.trainable_variables)
        self.generators = self.model.layers[-1].seed_generator, tf.random.get_global_generator()

    @cached_property
    def twin(self) -> Any:
        """Only the references move it."""
        return self.build(2)

    @cached_property
    def other(self) -> Any:
        """A model in another state."""
        other = self.build(3)
        for variable in other.non_trainable_variables:
            if variable.dtype == self.dtype:
                variable.assign(variable + 0.25)
        return other

    def build(self, seed: int) -> Any:
        def kernel(shift: int) -> Any:
            return keras.initializers.GlorotNormal(seed=10 * seed + shift)

        return keras.Sequential([
            keras.Input((4,), dtype=self.dtype),
            layers.Dense(5, "tanh", kernel_initializer=kernel(1), name="middle", dtype=self.dtype),
            layers.LayerNormalization(name="norm", dtype=self.dtype),
            layers.Dense(CLASSES, kernel_initializer=kernel(2), name="last", dtype=self.dtype),
            layers.Dropout(0.5, seed=seed, name="off", dtype=self.dtype),
        ])  # fmt: skip

    def objective(self, **options: Any) -> Objective:
        standard = {"loss": self.loss, "metrics": list(self.metrics), "batch_size": BATCH, "micro_batch": BATCH}
        return gradvis.objective(self.model, (self.inputs, self.targets), **{**standard, **options})

    def stand(self, theta: np.ndarray, rest: list[np.ndarray] | None = None) -> list[Any]:
        """Put the twin where theta says, with the model's buffers or others; its moved variables."""
        own = [v.numpy() for v in self.model.non_trainable_variables] if rest is None else rest
        for variable, value in zip(self.twin.non_trainable_variables, own, strict=True):
            variable.assign(value)
        start = 0
        for variable in self.twin.trainable_variables:
            stop = start + int(np.prod(variable.shape))
            variable.assign(theta[start:stop].reshape(variable.shape))
            start = stop
        assert start == len(theta)
        return [variable.value for variable in self.twin.trainable_variables]

    def logits(self) -> Any:
        """By hand: TensorFlow 2.21 has second derivatives of LayerNormalization wrong (`tf.nn.moments`)."""
        kernel, bias, gamma, beta, last, shift = (variable.value for variable in self.twin.trainable_variables)
        x = tf.tanh(self.inputs.astype(self.dtype) @ kernel + bias)
        x -= tf.reduce_mean(x, 1, keepdims=True)
        x /= tf.sqrt(tf.reduce_mean(x**2, 1, keepdims=True) + self.twin.get_layer("norm").epsilon)
        return (gamma * x + beta) @ last + shift

    def per_sample(self, logits: Any) -> Any:
        chosen = tf.one_hot(self.targets, CLASSES, dtype=logits.dtype)
        return tf.reduce_logsumexp(logits, 1) - tf.reduce_sum(logits * chosen, 1)

    def values(self, theta: np.ndarray, rest: list[np.ndarray] | None = None) -> Mapping[str, np.ndarray]:
        self.stand(theta, rest)
        logits = self.logits()
        hits = np.argmax(logits.numpy(), 1) == self.targets
        return {"loss": self.per_sample(logits).numpy(), "accuracy": hits.astype(float)}

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        variables = self.stand(theta)
        with tf.GradientTape() as tape:
            mean = tf.reduce_mean(self.per_sample(self.logits()))
        return flat(tape.gradient(mean, variables, unconnected_gradients=ZERO))

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        variables = self.stand(theta)
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape() as inner:
                mean = tf.reduce_mean(self.per_sample(self.logits()))
            first = inner.gradient(mean, variables, unconnected_gradients=ZERO)
            slopes = tf.unstack(tf.concat([tf.reshape(g, -1) for g in first], 0))
        return rows(outer, slopes, variables)

    def dense(self, operator: str, theta: np.ndarray) -> np.ndarray:
        """J' H J (Schraudolph 2002), and the mean of g g' over samples."""
        if operator == "hessian":
            return self.hessian(theta)
        variables = self.stand(theta)
        with tf.GradientTape(persistent=True) as tape:
            logits = self.logits()
            each, outputs = tf.unstack(self.per_sample(logits)), tf.unstack(tf.reshape(logits, -1))
        if operator == "fisher":
            slopes = rows(tape, each, variables)
            return slopes.T @ slopes / SAMPLES
        with tf.GradientTape() as outer:
            outer.watch(logits)
            with tf.GradientTape() as inner:
                inner.watch(logits)
                mean = tf.reduce_mean(self.per_sample(logits))
            slope = inner.gradient(mean, logits)
        curved = outer.batch_jacobian(slope, logits).numpy()
        jacobian = rows(tape, outputs, variables).reshape(*logits.shape, -1)
        return np.einsum("bid,bij,bje->de", jacobian, curved, jacobian)

    def elsewhere(self) -> tuple[Any, np.ndarray, Mapping[str, np.ndarray]]:
        theta = flat([variable.value for variable in self.other.trainable_variables])
        rest = [variable.numpy() for variable in self.other.non_trainable_variables]
        return self.other.get_weights(), theta, self.values(theta, rest)

    def snapshot(self) -> dict[str, Any]:
        seeds, global_generator = self.generators
        return {
            **common_state(),
            "variables": [(v.path, v.numpy().tobytes()) for v in self.model.variables],
            "trainable": [v.trainable for v in self.model.variables],
            "optimizer": [v.numpy().tobytes() for v in self.model.optimizer.variables],
            "seeds": seeds.state.numpy().tobytes(),
            "tensorflow": global_generator.state.numpy().tobytes(),
            "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
            "dtype": keras.config.floatx(),
        }

    def borrow(self, other: Network) -> None:
        self.model.set_weights(other.model.get_weights())

    def losing(self, fails: Callable[[int], bool]) -> Callable[[Any, Any], Any]:
        def loss(outputs: Any, targets: Any) -> Any:
            if fails(outputs.shape[0]):
                raise ArithmeticError("no loss today")
            return tf.reduce_sum(outputs**2, 1)

        return loss

    def move(self, part: str) -> None:
        variables = self.model.trainable_variables if part == "parameters" else self.model.non_trainable_weights
        variables[-1].assign(variables[-1] + 1)


class Conv(Dense):
    """Batch norm with statistics that have moved, a frozen layer, one-hot targets."""

    pattern = "*kernel"

    def __init__(self, dtype: str = "float64") -> None:
        super().__init__(dtype)
        self.labelled(5, 5, 1)
        self.classes, self.targets = self.targets, np.eye(CLASSES)[self.targets]
        norm = self.model.get_layer("norm")
        norm.moving_mean.assign(norm.moving_mean + 0.3)
        norm.moving_variance.assign(norm.moving_variance * 2.5)

    def build(self, seed: int) -> Any:
        def kernel(shift: int) -> Any:
            return keras.initializers.GlorotNormal(seed=10 * seed + shift)

        inputs = keras.Input((5, 5, 1), dtype=self.dtype)
        x = layers.Conv2D(2, 3, kernel_initializer=kernel(1), name="conv", dtype=self.dtype)(inputs)
        x = layers.BatchNormalization(name="norm", dtype=self.dtype)(x)
        x = layers.ReLU(name="bend", dtype=self.dtype)(x)
        x = layers.GlobalAveragePooling2D(name="pool", dtype=self.dtype)(x)
        shared = layers.Dense(2, "tanh", kernel_initializer=kernel(2), name="shared", dtype=self.dtype)
        x = shared(shared(x))
        x = layers.Dense(4, kernel_initializer=kernel(3), name="frozen", trainable=False, dtype=self.dtype)(x)
        x = layers.Dense(CLASSES, kernel_initializer=kernel(4), name="last", dtype=self.dtype)(x)
        return keras.Model(inputs, layers.Dropout(0.5, seed=seed, name="off", dtype=self.dtype)(x))

    def logits(self) -> Any:
        return self.twin(self.inputs.astype(self.dtype), training=False)

    def per_sample(self, logits: Any) -> Any:
        return tf.reduce_logsumexp(logits, 1) - tf.reduce_sum(logits * self.targets.astype(self.dtype), 1)

    def values(self, theta: np.ndarray, rest: list[np.ndarray] | None = None) -> Mapping[str, np.ndarray]:
        self.stand(theta, rest)
        logits = self.logits()
        hits = np.argmax(logits.numpy(), 1) == self.classes
        return {"loss": self.per_sample(logits).numpy(), "accuracy": hits.astype(float)}


class Regression(Dense):
    """Two outputs a sample: each mean is over both, then over samples."""

    pattern = "*bias"
    loss = "mse"
    metrics = ("mae",)

    def __init__(self, dtype: str = "float64") -> None:
        super().__init__(dtype)
        self.targets = np.random.default_rng(6).normal(size=(SAMPLES, CLASSES))

    def errors(self, logits: Any) -> Any:
        return logits - self.targets.astype(self.dtype)

    def per_sample(self, logits: Any) -> Any:
        return tf.reduce_mean(self.errors(logits) ** 2, 1)

    def values(self, theta: np.ndarray, rest: list[np.ndarray] | None = None) -> Mapping[str, np.ndarray]:
        self.stand(theta, rest)
        logits = self.logits()
        return {"loss": self.per_sample(logits).numpy(), "mae": np.abs(self.errors(logits).numpy()).mean(1)}


def flat(tensors: list[Any]) -> np.ndarray:
    return np.concatenate([tf.convert_to_tensor(tensor).numpy().reshape(-1) for tensor in tensors])


def rows(tape: tf.GradientTape, values: list[Any], variables: list[Any]) -> np.ndarray:
    """The gradient of each value."""
    return np.stack([flat(tape.gradient(value, variables, unconnected_gradients=ZERO)) for value in values])
