"""A network in training, in each framework: built, stepped, and seen without gradvis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import torch
from torch import nn

import gradvis
from gradvis.backends.tf.layers import names_of

INPUTS, WIDTH, CLASSES, BATCH = 6, 5, 4, 16


def batches(count: int = 12) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(BATCH, INPUTS)).astype("float32"), rng.integers(0, CLASSES, BATCH)) for _ in range(count)]


class Torch:
    """In PyTorch, whose optimizer tells of its steps."""

    blocks = ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias")
    buffers = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    some, glob = ("4.*", "1.weight"), "conv.*"
    float16 = torch.float16
    tensor = "Tensor"
    zeros = staticmethod(torch.zeros)

    def model(self, seed: int = 0, classes: int = CLASSES) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Linear(INPUTS, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(0.3), nn.Linear(WIDTH, classes)
            )

    def wider(self, model: Any) -> None:
        """Another last layer in the place of the one that is there."""
        model[4] = nn.Linear(WIDTH, CLASSES + 1)

    def other(self) -> Any:
        """Of another architecture."""
        return nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, CLASSES))

    def sgd(self, model: Any, rate: float = 0.1) -> Any:
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)

    def adam(self, model: Any) -> Any:
        return torch.optim.Adam(model.parameters())

    def accumulating(self, model: Any) -> Any:
        return self.sgd(model)

    def rate(self, optimizer: Any, value: float) -> None:
        optimizer.param_groups[0]["lr"] = value

    def slope(self, model: Any, batch: Any, scale: float = 1.0) -> Any:
        """The loss of a batch; its gradients are there for `apply`."""
        loss = nn.functional.cross_entropy(model(torch.as_tensor(batch[0])), torch.as_tensor(batch[1])) * scale
        loss.backward()
        return loss.detach()

    def apply(self, model: Any, optimizer: Any) -> None:
        optimizer.step()
        optimizer.zero_grad()

    def of_three(self, model: Any, optimizer: Any, number: int) -> None:
        """After the gradients of a batch, of which three make a step."""
        if number % 3 == 0:
            self.apply(model, optimizer)

    def tell(self, recorder: Any) -> None:
        """A hook does."""

    def random(self) -> None:
        torch.manual_seed(0)

    def everything(self, model: Any, optimizer: Any) -> Iterator[np.ndarray]:
        """What training leaves behind."""
        found = [*model.state_dict().values(), *torch.utils._pytree.tree_leaves(optimizer.state_dict()["state"])]
        return (np.asarray(each) for each in (*found, torch.get_rng_state()))

    def state(self, model: Any) -> dict[str, np.ndarray]:
        return {name: value.numpy().copy() for name, value in model.state_dict().items()}

    def fill(self, model: Any, name: str, value: float) -> None:
        with torch.no_grad():
            model.get_parameter(name).fill_(value)

    def freeze(self, model: Any) -> str:
        """A bias; its name."""
        model[1].bias.requires_grad_(False)
        return "1.bias"

    def every_dtype(self) -> tuple[Any, dict[str, Any], str, list[str]]:
        """A module, its values by name, the one that NumPy has no dtype for, and what is no number."""
        model = nn.Module()
        model.small = nn.Parameter(torch.randn(3).half())
        model.brain = nn.Parameter(torch.randn(2, 2).bfloat16())
        model.counts = nn.Parameter(torch.arange(3), requires_grad=False)
        for name, value in {
            "flag": torch.tensor(True), "phase": torch.randn(2, dtype=torch.complex64), "far": torch.tensor(2**62 + 1),
            "none": torch.zeros(0), "rough": torch.randn(3).bfloat16(), "fine": torch.randn(2, dtype=torch.float64),
        }.items():  # fmt: skip
            model.register_buffer(name, value)
        model.register_buffer("passing", torch.zeros(2), persistent=False)
        return model, dict(model.state_dict()), "brain", ["passing"]

    def equal(self, found: np.ndarray, value: Any) -> bool:
        return torch.equal(torch.from_numpy(found).to(value.dtype), value)


class Keras:
    """In Keras, in a loop of one's own: a recorder looks whether its optimizer has taken a step."""

    blocks = ("first/kernel", "first/bias", "norm/gamma", "norm/beta", "last/kernel", "last/bias")
    buffers = ("norm/moving_mean", "norm/moving_variance")
    some, glob = ("last/*", "norm/gamma"), "conv*"
    float16 = tf.float16
    tensor = "EagerTensor"
    zeros = staticmethod(tf.zeros)

    def model(self, seed: int = 0, classes: int = CLASSES) -> Any:
        made = keras.Sequential([keras.Input((INPUTS,)), *self.layers(), keras.layers.Dense(classes, name="last")])
        rng = np.random.default_rng(seed)
        for variable in made.trainable_variables:
            variable.assign(rng.normal(size=variable.shape))
        return made

    def layers(self) -> list[Any]:
        kinds = keras.layers
        return [
            kinds.Dense(WIDTH, name="first"), kinds.BatchNormalization(name="norm"), kinds.Dropout(0.3, seed=1),
        ]  # fmt: skip

    def wider(self, model: Any) -> None:
        model.pop()
        model.add(keras.layers.Dense(CLASSES + 1, name="last"))

    def other(self) -> Any:
        return keras.Sequential([
            keras.Input((INPUTS,)), keras.layers.Dense(CLASSES, name="only"), keras.layers.Dense(CLASSES, name="last"),
        ])  # fmt: skip

    def sgd(self, model: Any, rate: float = 0.1) -> Any:
        return keras.optimizers.SGD(rate, momentum=0.9)

    def adam(self, model: Any) -> Any:
        return keras.optimizers.Adam()

    def accumulating(self, model: Any) -> Any:
        return keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)

    def rate(self, optimizer: Any, value: float) -> None:
        optimizer.learning_rate = value

    def slope(self, model: Any, batch: Any, scale: float = 1.0) -> Any:
        with tf.GradientTape() as tape:
            outputs = model(batch[0], training=True)
            loss = scale * tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch[1], outputs))
        self.gradients = tape.gradient(loss, model.trainable_variables)
        return loss

    def apply(self, model: Any, optimizer: Any) -> None:
        optimizer.apply(self.gradients, model.trainable_variables)

    def of_three(self, model: Any, optimizer: Any, number: int) -> None:
        self.apply(model, optimizer)

    def tell(self, recorder: Any) -> None:
        recorder.stepped()

    def random(self) -> None:
        tf.random.set_seed(0)

    def everything(self, model: Any, optimizer: Any) -> Iterator[np.ndarray]:
        return (each.numpy() for each in (*model.variables, *optimizer.variables))

    def state(self, model: Any) -> dict[str, np.ndarray]:
        names = names_of(model)
        return {names[id(v)]: v.numpy().copy() for v in model.weights}

    def fill(self, model: Any, name: str, value: float) -> None:
        names = names_of(model)
        for variable in model.weights:
            if names[id(variable)] == name:
                variable.assign(np.full(variable.shape, value))

    def freeze(self, model: Any) -> str:
        model.get_layer("last").bias.trainable = False
        return "last/bias"

    def every_dtype(self) -> tuple[Any, dict[str, Any], str, list[str]]:
        model = tf.Module()
        model.small, model.brain = tf.Variable([0.1, 3.0]), tf.Variable(tf.constant([0.1, 0.2], tf.bfloat16))
        for name, value in {
            "counts": [1, 2], "flag": [True, False], "far": tf.constant(2**62 + 1, tf.int64), "none": tf.zeros(0),
            "phase": tf.constant([1 + 2j], tf.complex64), "rough": tf.constant([0.3], tf.bfloat16),
            "fine": tf.constant([0.1], tf.float64), "word": "a",
        }.items():  # fmt: skip
            setattr(model, name, tf.Variable(value, trainable=False))
        return model, _named(model), "brain", ["word"]

    def equal(self, found: np.ndarray, value: Any) -> bool:
        return np.array_equal(found.astype(value.numpy().dtype), value.numpy())


def _named(model: Any) -> dict[str, Any]:
    """The variables of a module by its attributes, but for its texts."""
    found = {name: value for name, value in vars(model).items() if isinstance(value, tf.Variable)}
    return {name: value for name, value in found.items() if value.dtype != tf.string}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name], equal_nan=True) for name in one
    )


def flat(net: Torch | Keras, state: dict[str, np.ndarray]) -> np.ndarray:
    """The parameters of a state, in the order of the vector."""
    return np.concatenate([state[name].ravel() for name in net.blocks])


def trained(net: Torch | Keras, out: Any, steps: int = 12, **options: Any) -> tuple[Any, list[dict[str, np.ndarray]]]:
    """A model trained and recorded, and its state after each step."""
    model = net.model()
    optimizer, states = net.sgd(model), [net.state(model)]
    with gradvis.record(model, optimizer, out=out, **options) as recorder:
        for batch in batches(steps):
            loss = net.slope(model, batch)
            net.apply(model, optimizer)
            recorder.log(loss=loss)
            states.append(net.state(model))
    return model, states


def loop(net: Torch | Keras, model: Any, optimizer: Any, recorder: Any, steps: int = 1) -> Any:
    """Some steps that log no loss; the loss of the last."""
    for batch in batches(steps):
        loss = net.slope(model, batch)
        net.apply(model, optimizer)
        net.tell(recorder)
    return loss


NETS = {"torch": Torch, "keras": Keras}
