"""Small networks of the same kinds in each framework: to be run out of memory, to draw, to have no derivative."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (4, 5, 3)
SAMPLES = 23
D = 43

_rng = np.random.default_rng(3)
X, Y = _rng.normal(size=(SAMPLES, WIDTHS[0])), _rng.integers(0, WIDTHS[2], SAMPLES)


class Module(nn.Module):
    """A linear layer after whatever `before` makes of the inputs."""

    def __init__(self, before: Any) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.last = nn.Linear(4, 3)
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.before(self, x))


class Torch:
    """In PyTorch."""

    derivatives = "gradvis.backends.pytorch.derivatives"

    def dense(self, widths: tuple[int, ...] = WIDTHS, dtype: str = "float64") -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [nn.Linear(*each) for each in pairwise(widths)]
        between = [layer for each in layers for layer in (each, nn.Tanh())][:-1]
        return nn.Sequential(*between).to(getattr(torch, dtype))

    def parts(self, theta: np.ndarray) -> list[np.ndarray]:
        first, bias, last, shift = np.split(theta, [20, 25, 40])
        return [first.reshape(5, 4).T, bias, last.reshape(3, 5).T, shift]

    def linear(self) -> Any:
        return nn.Linear(2, 1, bias=False).double()

    def hungry(self, norm: bool = False) -> tuple[Any, SimpleNamespace]:
        """With what it has memory for: `room` samples at once; and of how many it has `seen` at a time."""
        limits = SimpleNamespace(room=99, seen=[])

        def before(_: Any, x: Tensor) -> Tensor:
            limits.seen.append(len(x))
            if len(x) > limits.room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return x

        model = Module(before).double()
        return (nn.Sequential(model, nn.BatchNorm1d(3).double()) if norm else model), limits

    def counting(self) -> Any:
        """It writes to a buffer, and gives another number with each count."""
        model = Module(lambda net, x: x * net.calls.add_(1)).double()
        model.register_buffer("calls", torch.zeros(()).double())
        return model

    def noisy(self) -> Any:
        return Module(lambda _, x: x * torch.randn_like(x)).double()

    def incomplete(self) -> Any:
        def fused(_: Any, x: Tensor) -> Tensor:
            q = x[:, None, None]
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)[0].flatten(1)

        return nn.Sequential(nn.Linear(4, 4), Module(fused)).double()

    def cross_entropy(self, outputs: Any, targets: Any) -> Any:
        return F.cross_entropy(outputs, targets, reduction="none")

    def squares(self, outputs: Any, targets: Any = 0.0) -> Any:
        return ((outputs - targets) ** 2).sum(1)

    def mean(self, values: Any) -> Any:
        return values.mean()

    def array(self, values: np.ndarray) -> Any:
        return torch.as_tensor(values)

    def state(self, model: Any) -> list[Any]:
        """A checkpoint in memory, and what changes it where it lies."""
        state = model.state_dict()
        return [state, lambda: [value.add_(1) for value in state.values()]]


class Net(keras.Model):
    """A dense layer after whatever `before` makes of the inputs."""

    def __init__(self, before: Any) -> None:
        super().__init__(dtype="float64")
        self.last, self.before = keras.layers.Dense(3, dtype="float64"), before

    def call(self, x: Any) -> Any:
        return self.last(self.before(self, x))


class Normed(Net):
    """With a batch norm at its end."""

    def __init__(self, before: Any) -> None:
        super().__init__(before)
        self.norm = keras.layers.BatchNormalization(dtype="float64")

    def call(self, x: Any) -> Any:
        return self.norm(super().call(x))


class Keras:
    """In Keras, whose kernels have their outputs last."""

    derivatives = "gradvis.backends.tf.derivatives"

    def dense(self, widths: tuple[int, ...] = WIDTHS, dtype: str = "float64") -> Any:
        policy = keras.DTypePolicy({"bfloat16": "mixed_bfloat16"}.get(dtype, dtype))
        keras.utils.set_random_seed(0)
        bends = ["tanh"] * (len(widths) - 2) + [None]
        between = [keras.layers.Dense(width, bend, dtype=policy) for width, bend in zip(widths[1:], bends, strict=True)]
        return keras.Sequential([keras.Input(widths[:1], dtype=policy.variable_dtype), *between])

    def parts(self, theta: np.ndarray) -> list[np.ndarray]:
        first, bias, last, shift = np.split(theta, [20, 25, 40])
        return [first.reshape(4, 5), bias, last.reshape(5, 3), shift]

    def linear(self) -> Any:
        inputs = keras.Input((2,), dtype="float64")
        return keras.Model(inputs, keras.layers.Dense(1, use_bias=False, dtype="float64")(inputs))

    def built(self, model: Any) -> Any:
        keras.utils.set_random_seed(1)
        model(X)
        return model

    def hungry(self, norm: bool = False) -> tuple[Any, SimpleNamespace]:
        """With what it has memory for: `room` samples at once; and of how many it has `seen` at a time."""
        limits = SimpleNamespace(room=99, seen=[])

        def before(_: Any, x: Any) -> Any:
            limits.seen.append(x.shape[0])
            if x.shape[0] > limits.room:
                error = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
                error._keras_call_info_injected = True  # Keras would make another error of it
                raise error
            return x

        return self.built((Normed if norm else Net)(before)), limits

    def counting(self) -> Any:
        """It writes to a buffer, and gives another number with each count."""

        def before(net: Any, x: Any) -> Any:
            net.calls.assign(net.calls + 1)
            return x * net.calls

        model = Net(before)
        model.calls = model.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.built(model)
        model.calls.assign(0)
        return model

    def noisy(self) -> Any:
        seeds = keras.random.SeedGenerator(3)
        model = Net(lambda net, x: x * keras.random.normal(x.shape, seed=net.seeds, dtype="float64"))
        model.seeds = seeds
        return self.built(model)

    def incomplete(self) -> Any:
        last = Net(lambda _, x: tf.math.igamma(tf.exp(x), tf.exp(x)))
        return self.built(
            keras.Sequential([keras.Input((4,), dtype="float64"), keras.layers.Dense(4, dtype="float64"), last])
        )

    def cross_entropy(self, outputs: Any, targets: Any) -> Any:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, outputs)

    def squares(self, outputs: Any, targets: Any = 0.0) -> Any:
        return tf.reduce_sum((outputs - targets) ** 2, 1)

    def mean(self, values: Any) -> Any:
        return tf.reduce_mean(values)

    def array(self, values: np.ndarray) -> Any:
        return tf.constant(values)

    def state(self, model: Any) -> list[Any]:
        """A checkpoint in memory, and what changes it where it lies."""
        state = model.get_weights()
        return [state, lambda: [np.add(value, 1, out=value) for value in state]]


NETS = {"torch": Torch(), "keras": Keras()}


def by_hand(net: Torch | Keras, theta: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
    """The cross entropy of each sample of `dense`, (b,), in NumPy."""
    first, bias, last, shift = net.parts(np.asarray(theta, float))
    z = np.tanh(X[rows] @ first + bias) @ last + shift
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), Y[rows]]
