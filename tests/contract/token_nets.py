"""One network with two inputs, the second of them tokens, in each framework; and the same function by hand."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
import torch
import torch.nn.functional as F
from torch import nn

STEPS, WIDTH, CLASSES, WORDS, IGNORED = 4, 3, 3, 5, -100


class Torch:
    """In PyTorch. What `per_token` gives is a zero where a token is ignored."""

    losses = ("cross_entropy", nn.CrossEntropyLoss(ignore_index=IGNORED))

    class Two(nn.Module):
        """Both inputs, as arguments."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.last = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, CLASSES)

        def forward(self, x: Any, tokens: Any) -> Any:
            return self.last(torch.tanh(x + self.embedding(tokens)))

    class Packed(nn.Module):
        """Both in one array; outputs (b, classes, t), as torch's cross entropy wants them."""

        def __init__(self, two: nn.Module) -> None:
            super().__init__()
            self.two = two

        def forward(self, x: Any) -> Any:
            return self.two(x[..., :WIDTH], x[..., WIDTH].long()).mT

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.model = self.Two().double()

    def packed(self) -> Any:
        return self.Packed(self.model)

    def array(self, values: np.ndarray) -> Any:
        return torch.as_tensor(values)

    def swapped(self, outputs: Any, targets: Any) -> Any:
        return F.cross_entropy(outputs.mT, targets, reduction="none")

    def per_token(self, model: Any, batch: Any) -> Any:
        return self.swapped(model(batch["x"], batch["tokens"]), batch["targets"])

    def total(self, values: Any, axis: int | None = None) -> Any:
        return values.sum() if axis is None else values.sum(axis)

    def parts(self, theta: Any) -> tuple[Any, Any, Any]:
        words, weight, bias = theta.split([WORDS * WIDTH, CLASSES * WIDTH, CLASSES])
        return words.view(WORDS, WIDTH), weight.view(CLASSES, WIDTH), bias


class Keras:
    """In Keras, whose kernels are transposed."""

    losses = ("cross_entropy", keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED))

    class Two(keras.Model):
        """Both inputs, in a tuple or by name."""

        def __init__(self) -> None:
            super().__init__(dtype="float64")
            self.embedding = keras.layers.Embedding(WORDS, WIDTH, dtype="float64", name="embedding")
            self.last = keras.layers.Dense(CLASSES, dtype="float64", name="last")

        def call(self, inputs: Any) -> Any:
            x, tokens = (inputs["x"], inputs["tokens"]) if isinstance(inputs, dict) else inputs
            return self.last(keras.ops.tanh(x + self.embedding(tokens)))

    class Packed(keras.Model):
        """Both in one array."""

        def __init__(self, two: Any) -> None:
            super().__init__(dtype="float64")
            self.two = two

        def call(self, x: Any) -> Any:
            return self.two((x[..., :WIDTH], keras.ops.cast(x[..., WIDTH], "int32")))

    def __init__(self) -> None:
        self.model = self.Two()
        self.model((np.zeros((1, STEPS, WIDTH)), np.zeros((1, STEPS), int)))
        rng = np.random.default_rng(2)
        for variable in self.model.weights:
            variable.assign(rng.normal(size=variable.shape))

    def packed(self) -> Any:
        made = self.Packed(self.model)
        made(np.zeros((1, STEPS, WIDTH + 1)))
        return made

    def array(self, values: np.ndarray) -> Any:
        return tf.constant(values)

    def swapped(self, outputs: Any, targets: Any) -> Any:
        found = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), outputs)
        return tf.where(targets == IGNORED, tf.zeros_like(found), found)

    def per_token(self, model: Any, batch: Any) -> Any:
        return self.swapped(model((batch["x"], batch["tokens"])), batch["targets"])

    def total(self, values: Any, axis: int | None = None) -> Any:
        return tf.reduce_sum(values, axis)

    def parts(self, theta: Any) -> tuple[Any, Any, Any]:
        words, weight, bias = theta.split([WORDS * WIDTH, CLASSES * WIDTH, CLASSES])
        return words.view(WORDS, WIDTH), weight.view(WIDTH, CLASSES).T, bias


def by_hand(net: Torch | Keras, theta: Any, x: Any, tokens: Any, targets: Any) -> Any:
    """The loss of every token, (b, t), zero where it is ignored, as a function of theta in plain torch."""
    words, weight, bias = net.parts(theta)
    outputs = torch.tanh(x + words[tokens]) @ weight.T + bias
    return F.cross_entropy(outputs.mT, targets, reduction="none", ignore_index=IGNORED)


NETS = {"torch": Torch, "keras": Keras}
