"""Layers of every framework, what each makes of a weight, and arrays that belong to no layer known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import torch
from torch import nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

import gradvis
from gradvis.backends.analytic import Quadratic
from gradvis.backends.pytorch import layers as torch_layers
from gradvis.backends.tf import layers as keras_layers

layers = keras.layers
RNG = np.random.default_rng(0)
WIDE = {"dtype": "float64"}


def drawn(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


class Kind:
    """What both have in common: models whose parameters are drawn anew, so that none is zero by its initialisation."""

    space: Callable[..., Any]
    values: Callable[[Any], Mapping[str, np.ndarray]]

    def direction(self, model: Any, filters: Any = None, **options: Any) -> dict[str, np.ndarray]:
        """A random direction through a model, as arrays by name."""
        space = self.space(model, filters=filters)
        origin = np.concatenate([value.reshape(-1) for value in self.values(model).values()])
        plane = gradvis.random_plane(Quadratic(np.ones(space.d), space=space), k=1, origin=origin, seed=1, **options)
        return dict(space.split(plane.directions[0]))


class Doubled(nn.Linear):
    def forward(self, inputs: Any) -> Any:
        return 2 * super().forward(inputs)


class Equalised(nn.Conv2d):
    def forward(self, inputs: Any) -> Any:
        return self._conv_forward(inputs, self.weight / self.weight[0].numel() ** 0.5, self.bias)


def channels_first(outputs: Any) -> Any:
    """One number for each entry of axis 1, the others summed."""
    return outputs.sum([axis for axis in range(outputs.ndim) if axis != 1])


def rows(outputs: Any) -> Any:
    return outputs.sum(1)


class Torch(Kind):
    """In PyTorch: rows."""

    unknown = 0
    frozen = "all of its parameters are frozen; pass include_frozen=True"
    unbuilt = "has no shape yet; call the model once"

    def layers(self) -> dict[str, tuple[Any, tuple[Any, ...], str, Callable[[Any], Any]]]:
        """A layer, its inputs, the name of a weight, and what sums the outputs of each of its units."""
        made = {
            "dense": (nn.Linear(3, 4), (drawn(5, 3),)),
            "a dense subclass": (Doubled(3, 4), (drawn(5, 3),)),
            "a convolution subclass": (Equalised(2, 4, 3), (drawn(2, 2, 6, 6),)),
            "convolution 1-D, grouped": (nn.Conv1d(4, 6, 3, groups=2), (drawn(2, 4, 6),)),
            "convolution 2-D": (nn.Conv2d(2, 4, 3), (drawn(2, 2, 6, 6),)),
            "convolution 2-D, depthwise": (nn.Conv2d(3, 6, 3, groups=3), (drawn(2, 3, 6, 6),)),
            "convolution 3-D": (nn.Conv3d(2, 4, 2), (drawn(1, 2, 3, 3, 3),)),
            "transposed 1-D": (nn.ConvTranspose1d(3, 2, 3), (drawn(2, 3, 5),)),
            "transposed 2-D, grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2), (drawn(2, 4, 5, 5),)),
            "transposed 3-D": (nn.ConvTranspose3d(2, 3, 2), (drawn(1, 2, 3, 3, 3),)),
            "embedding": (nn.Embedding(5, 3), (np.arange(5),), rows),
            "bag of embeddings": (nn.EmbeddingBag(5, 3), (np.arange(5)[:, None],), rows),
            "bilinear": (nn.Bilinear(3, 2, 4), (drawn(5, 3), drawn(5, 2))),
            "transformers' Conv1D": (Conv1D(6, 3), (drawn(5, 3),)),
        }
        return {name: (*each[:2], "weight", (*each, channels_first)[2]) for name, each in made.items()}

    def space(self, model: Any, filters: Any = None, include_frozen: bool = False) -> Any:
        return torch_layers.parameter_space(model, include_frozen, filters)

    def values(self, model: Any) -> dict[str, np.ndarray]:
        return {name: value.detach().numpy() for name, value in model.named_parameters()}

    def drawn(self, model: Any, *inputs: np.ndarray) -> Any:
        for value in model.double().parameters():
            value.data = torch.tensor(drawn(*value.shape))
        return model

    def units(self, model: Any, name: str, inputs: Any, outputs: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """What the units of a layer give, as a function of one of its parameters."""
        given = tuple(map(torch.tensor, inputs))
        return lambda weight: outputs(functional_call(model, {name: torch.as_tensor(weight)}, given))

    def slopes(self, units: Callable[[Any], Any], weight: np.ndarray) -> np.ndarray:
        """(u, numbers)."""
        return torch.autograd.functional.jacobian(units, torch.tensor(weight)).reshape(-1, weight.size).numpy()

    def array(self, outputs: Any) -> np.ndarray:
        return outputs.detach().numpy()

    def raw(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """A module of one's own with such parameters."""
        return self.drawn(nn.ParameterDict({name: torch.ones(shape) for name, shape in shapes.items()}))

    def usual(self) -> Any:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2), nn.LSTM(2, 2))

    def two(self, first: bool = True) -> Any:
        """Two dense layers, 4 to 3 to 2, and the names of what they have; the first may be frozen."""
        model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        model[0].requires_grad_(first)
        return model, ["0.weight", "0.bias", "1.weight", "1.bias"]

    def no_shapes(self) -> list[Any]:
        return [nn.LazyLinear(2), nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d(affine=False))]

    def complex(self) -> Any:
        return nn.Linear(2, 2, dtype=torch.complex64)


@keras.saving.register_keras_serializable("tests")
class DoubledKeras(layers.Dense):
    def call(self, inputs: Any) -> Any:
        return 2 * super().call(inputs)


class RawKeras(layers.Layer):
    """A layer of one's own with such variables."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(**WIDE)
        self.own = {name: self.add_weight(shape=shape, name=name) for name, shape in shapes.items()}
        self.built = True


def channels_last(outputs: Any) -> Any:
    """One number for each entry of the last axis, the others summed."""
    return tf.reduce_sum(outputs, axis=range(len(outputs.shape) - 1))


def of_heads(outputs: Any) -> Any:
    return tf.reshape(tf.reduce_sum(outputs, axis=(0, 1)), -1)


def of_words(outputs: Any) -> Any:
    return tf.reduce_sum(outputs, axis=1)


def of_places(outputs: Any) -> Any:
    return tf.reshape(tf.reduce_sum(outputs, 0), -1)


class Keras(Kind):
    """In Keras: columns."""

    unknown = 1
    frozen = "all of its layers are frozen; pass include_frozen=True"
    unbuilt = "no variables yet; call it on one batch"

    def layers(self) -> dict[str, tuple[Any, tuple[Any, ...], str, Callable[[Any], Any]]]:
        """A layer, its inputs, the name of a weight, and what sums the outputs of each of its units."""
        wrapped = layers.SpectralNormalization
        depthwise = layers.DepthwiseConv1D(3, depth_multiplier=2, **WIDE)
        made = {
            "dense": (layers.Dense(4, **WIDE), drawn(5, 3)),
            "a dense subclass": (DoubledKeras(4, **WIDE), drawn(5, 3)),
            "convolution 1-D, grouped": (layers.Conv1D(6, 3, groups=2, **WIDE), drawn(2, 6, 4)),
            "convolution 2-D": (layers.Conv2D(4, 3, **WIDE), drawn(2, 6, 6, 2)),
            "convolution 3-D": (layers.Conv3D(4, 2, **WIDE), drawn(1, 3, 3, 3, 2)),
            "transposed 1-D": (layers.Conv1DTranspose(2, 3, **WIDE), drawn(2, 5, 3)),
            "transposed 2-D": (layers.Conv2DTranspose(6, 3, **WIDE), drawn(2, 5, 5, 4)),
            "transposed 3-D": (layers.Conv3DTranspose(3, 2, **WIDE), drawn(1, 3, 3, 3, 2)),
            "depthwise 1-D": (depthwise, drawn(2, 6, 3)),
            "depthwise 2-D": (layers.DepthwiseConv2D(3, depth_multiplier=2, **WIDE), drawn(2, 6, 6, 3)),
            "separable 1-D": (layers.SeparableConv1D(5, 3, **WIDE), drawn(2, 6, 3), "pointwise_kernel"),
            "separable 2-D": (layers.SeparableConv2D(5, 3, **WIDE), drawn(2, 6, 6, 3), "pointwise_kernel"),
            "einsum, as a dense one": (layers.EinsumDense("...x,xy->...y", 4, **WIDE), drawn(5, 3)),
            "einsum, of heads": (
                layers.EinsumDense("abc,cde->abde", (None, 2, 5), **WIDE), drawn(2, 4, 3), "kernel", of_heads,
            ),
            "einsum, heads to one": (layers.EinsumDense("abcd,cde->abe", (None, 5), **WIDE), drawn(2, 4, 2, 3)),
            "einsum, one for each place": (
                layers.EinsumDense("bni,nio->bno", (4, 5), **WIDE), drawn(2, 4, 3), "kernel", of_places,
            ),
            "embedding": (layers.Embedding(5, 3, **WIDE), np.arange(5), "embeddings", of_words),
            "reversible embedding": (layers.ReversibleEmbedding(5, 3, **WIDE), np.arange(5), "embeddings", of_words),
            "in a wrapper": (
                layers.TimeDistributed(layers.Dense(4, name="dense", **WIDE), **WIDE), drawn(2, 5, 3), "dense/kernel",
            ),
            "spectral norm": (
                wrapped(layers.DepthwiseConv1D(3, depth_multiplier=2, name="deep", **WIDE), **WIDE), drawn(2, 6, 3),
                "deep/kernel",
            ),
            "spectral norm of an embedding": (
                wrapped(layers.Embedding(5, 3, name="words", **WIDE), **WIDE), np.arange(5.0), "words/embeddings",
                of_words,
            ),
        }  # fmt: skip
        return {name: self._whole(*each) for name, each in made.items()}

    def _whole(self, layer: Any, inputs: Any, name: str = "kernel", outputs: Any = channels_last) -> Any:
        return layer, (inputs,), name, outputs

    def space(self, model: Any, filters: Any = None, include_frozen: bool = False) -> Any:
        return keras_layers.parameter_space(model, keras_layers.moved_variables(model, include_frozen), filters)

    def values(self, model: Any) -> dict[str, np.ndarray]:
        names = keras_layers.names_of(model)
        return {names[id(v)]: v.numpy() for v in keras_layers.moved_variables(model)}

    def drawn(self, model: Any, *inputs: np.ndarray) -> Any:
        if inputs:
            model(*inputs)
        for variable in model.trainable_variables:
            variable.assign(drawn(*variable.shape))
        return model

    def units(self, model: Any, name: str, inputs: Any, outputs: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """What the units of a layer give, as a function of one of its parameters."""
        names = keras_layers.names_of(model)
        variable = next(v for v in keras_layers.moved_variables(model) if names[id(v)] == name)

        def outcome(weight: Any) -> Any:
            with keras.StatelessScope([(variable, tf.cast(weight, variable.dtype))]):
                return outputs(tf.cast(model(*map(tf.constant, inputs)), tf.float64))

        return outcome

    def slopes(self, units: Callable[[Any], Any], weight: np.ndarray) -> np.ndarray:
        """(u, numbers)."""
        at = tf.constant(weight, tf.float64)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(at)
            found = tf.unstack(units(at))
        return np.stack([tf.convert_to_tensor(tape.gradient(unit, at)).numpy().reshape(-1) for unit in found])

    def array(self, outputs: Any) -> np.ndarray:
        return outputs.numpy()

    def raw(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """A layer of one's own with such variables."""
        return self.drawn(RawKeras(shapes))

    def usual(self) -> Any:
        return keras.Sequential([
            keras.Input((6, 6, 1)), layers.Conv2D(2, 3), layers.BatchNormalization(), layers.Reshape((16, 2)),
            layers.LSTM(2), layers.Dense(2),
        ])  # fmt: skip

    def two(self, first: bool = True) -> Any:
        """Two dense layers, 4 to 3 to 2, and the names of what they have; the first may be frozen."""
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="first"), layers.Dense(2, name="last")])
        model.layers[0].trainable = first
        return model, ["first/kernel", "first/bias", "last/kernel", "last/bias"]

    def no_shapes(self) -> list[Any]:
        return [keras.Sequential([layers.Dense(3)]), tf.Module()]

    def complex(self) -> Any:
        module = tf.Module()
        module.w = tf.Variable(tf.zeros((2, 2), tf.complex64))
        return module


KINDS: dict[str, Any] = {"torch": Torch(), "keras": Keras()}
