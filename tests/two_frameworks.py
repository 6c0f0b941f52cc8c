"""The same networks in PyTorch and Keras, with the same weights, and the map between their flat vectors.

The two store the same numbers in another order: a dense kernel is (out, in) in PyTorch and (in, out) in Keras, images
have their channels first or last, and PyTorch packs query, key and value of an attention into one array. So the map is
a permutation, found by carrying the numbers 0 ... d - 1 through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import keras
import numpy as np
import torch
from torch import nn

import gradvis
from gradvis.backends.pytorch import layers as torch_layers
from gradvis.backends.tf import layers as keras_layers
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.space import ParameterSpace

Move = tuple[str, Callable[[np.ndarray], np.ndarray]]
"""A parameter of PyTorch, and what makes a variable of Keras of it."""

SAMPLES, CLASSES = 12, 3
WIDTH, HEADS = 8, 2  # four units a head, whose root Keras takes exactly


def layout(source: ParameterSpace, target: ParameterSpace, moves: Mapping[str, Move]) -> np.ndarray:
    """The permutation that makes a Keras vector of a PyTorch vector: `keras = torch[order]`, (d,).

    Args:
        source: PyTorch's blocks.
        target: Keras' blocks.
        moves: For each variable of Keras, where its numbers come from.
    """
    numbers = source.split(np.arange(source.d))
    parts = []
    for block in target:
        name, move = moves[block.name]
        part = move(numbers[name])
        assert part.shape == block.shape, f"{name} became {part.shape}, but {block.name} has {block.shape}"
        parts.append(part.reshape(-1))
    order = np.concatenate(parts)
    assert np.array_equal(np.sort(order), np.arange(source.d)), "every number has one place"
    return order


def same(values: np.ndarray) -> np.ndarray:
    return values


def dense(values: np.ndarray) -> np.ndarray:
    """(out, in) to (in, out)."""
    return values.T


def conv(values: np.ndarray) -> np.ndarray:
    """(out, in, height, width) to (height, width, in, out)."""
    return values.transpose(2, 3, 1, 0)


def after_flatten(channels: int, side: int) -> Callable[[np.ndarray], np.ndarray]:
    """(out, channels * side * side) to (side * side * channels, out): what is flattened has its channels last."""

    def move(values: np.ndarray) -> np.ndarray:
        images = values.reshape(-1, channels, side, side)
        return images.transpose(2, 3, 1, 0).reshape(-1, len(values))

    return move


def packed(part: int) -> Callable[[np.ndarray], np.ndarray]:
    """A third of `in_proj`, (3 * heads * units, in), to (in, heads, units); of its bias, to (heads, units)."""

    def move(values: np.ndarray) -> np.ndarray:
        rows = np.split(values, 3)[part]
        heads = rows.reshape(HEADS, -1, *rows.shape[1:])
        return np.moveaxis(heads, 2, 0) if heads.ndim == 3 else heads

    return move


def out_of_heads(values: np.ndarray) -> np.ndarray:
    """(out, heads * units) to (heads, units, out)."""
    return values.T.reshape(HEADS, -1, len(values))


@dataclass(frozen=True)
class Pair:
    """One network in both frameworks.

    Attributes:
        torch: PyTorch's model.
        keras: Keras' model, with the same weights and statistics.
        inputs: Of PyTorch and of Keras.
        targets: Of both.
        order: The layout map, (d,).
    """

    torch: nn.Module
    keras: Any
    inputs: tuple[np.ndarray, np.ndarray]
    targets: np.ndarray
    order: np.ndarray

    def objectives(self, **options: Any) -> tuple[Objective, Objective]:
        """The same loss of the same data."""
        options = {"loss": "cross_entropy", "metrics": ["accuracy"], "batch_size": 6} | options
        models = self.torch, self.keras
        one, other = (
            gradvis.objective(model, (inputs, self.targets), **options)
            for model, inputs in zip(models, self.inputs, strict=True)
        )
        return one, other

    def to_keras(self, vectors: np.ndarray) -> np.ndarray:
        """(..., d) in the order of PyTorch to that of Keras."""
        return vectors[..., self.order]

    def to_torch(self, vectors: np.ndarray) -> np.ndarray:
        """(..., d) in the order of Keras to that of PyTorch."""
        return vectors[..., np.argsort(self.order)]

    def plane(self, plane: Plane) -> Plane:
        """A plane of PyTorch's in Keras' order: the same points, under the same coordinates."""
        return Plane(self.to_keras(plane.origin), self.to_keras(plane.directions), plane.about)

    def weights(self, state: Mapping[str, torch.Tensor]) -> list[np.ndarray]:
        """A state dict of PyTorch's as a list for Keras' `set_weights`."""
        vector = np.concatenate([state[name].detach().numpy().reshape(-1) for name, _ in self.torch.named_parameters()])
        statistics = iter(
            value.numpy() for name, value in state.items() if name.endswith(("running_mean", "running_var"))
        )
        moved, start, found = self.to_keras(vector), 0, []
        for variable in self.keras.weights:
            if not variable.trainable:
                found.append(next(statistics))
                continue
            found.append(moved[start : start + int(np.prod(variable.shape))].reshape(variable.shape))
            start += found[-1].size
        return found


def paired(model: nn.Module, twin: Any, inputs: tuple[np.ndarray, np.ndarray], moves: Mapping[str, Move]) -> Pair:
    """The two, with the weights of PyTorch's in both."""
    targets = np.random.default_rng(4).integers(0, CLASSES, SAMPLES)
    spaces = torch_layers.parameter_space(model), keras_layers.parameter_space(twin, keras_layers.moved_variables(twin))
    pair = Pair(model.eval(), twin, inputs, targets, layout(*spaces, moves))
    twin.set_weights(pair.weights(model.state_dict()))
    return pair


def dense_pair(dtype: str) -> Pair:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)).to(getattr(torch, dtype))
    twin = keras.Sequential([
        keras.Input((4,), dtype=dtype),
        keras.layers.Dense(6, "tanh", name="first", dtype=dtype),
        keras.layers.Dense(CLASSES, name="last", dtype=dtype),
    ])  # fmt: skip
    moves = {f"{k}/kernel": (f"{t}.weight", dense) for k, t in {"first": 0, "last": 2}.items()}
    moves |= {f"{k}/bias": (f"{t}.bias", same) for k, t in {"first": 0, "last": 2}.items()}
    inputs = np.random.default_rng(3).normal(size=(SAMPLES, 4)).astype(dtype)
    return paired(model, twin, (inputs, inputs), moves)


def conv_pair(dtype: str) -> Pair:
    """With batch norm, whose statistics have moved, and a dense layer after the images are flattened."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, CLASSES)
    ).to(getattr(torch, dtype))
    twin = keras.Sequential([
        keras.Input((6, 6, 2), dtype=dtype),
        keras.layers.Conv2D(4, 3, name="conv", dtype=dtype),
        keras.layers.BatchNormalization(epsilon=1e-5, name="norm", dtype=dtype),
        keras.layers.ReLU(dtype=dtype),
        keras.layers.AveragePooling2D(2, dtype=dtype),
        keras.layers.Flatten(dtype=dtype),
        keras.layers.Dense(CLASSES, name="last", dtype=dtype),
    ])  # fmt: skip
    moves = {
        "conv/kernel": ("0.weight", conv), "conv/bias": ("0.bias", same),
        "norm/gamma": ("1.weight", same), "norm/beta": ("1.bias", same),
        "last/kernel": ("5.weight", after_flatten(4, 2)), "last/bias": ("5.bias", same),
    }  # fmt: skip
    images = np.random.default_rng(3).normal(size=(SAMPLES, 2, 6, 6)).astype(dtype)
    model.train()(2 * torch.tensor(images) + 1)
    with torch.no_grad():
        model[1].weight += torch.tensor([0.5, -0.2, 0.1, 0.3], dtype=model[1].weight.dtype)
        model[1].bias += torch.tensor([0.1, 0.2, -0.3, 0.0], dtype=model[1].bias.dtype)
    return paired(model, twin, (images, np.ascontiguousarray(images.transpose(0, 2, 3, 1))), moves)


class Attentive(nn.Module):
    """Words, one attention over them, a layer norm, and the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.words(words)
        return self.last(self.norm(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def attention_pair(dtype: str) -> Pair:
    torch.manual_seed(3)
    model = Attentive().to(getattr(torch, dtype))
    with torch.no_grad():
        for value in model.parameters():
            value += 0.1 * torch.randn(value.shape, dtype=value.dtype)  # biases are zero at the start
    words = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(5, WIDTH, name="words", dtype=dtype)(words)
    seen = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name="attention", dtype=dtype)(x, x)
    x = keras.layers.LayerNormalization(epsilon=1e-5, name="norm", dtype=dtype)(x + seen)
    x = keras.layers.GlobalAveragePooling1D(dtype=dtype)(x)
    twin = keras.Model(words, keras.layers.Dense(CLASSES, name="last", dtype=dtype)(x))
    moves: dict[str, Move] = {
        "words/embeddings": ("words.weight", same),
        "attention/attention_output/kernel": ("attention.out_proj.weight", out_of_heads),
        "attention/attention_output/bias": ("attention.out_proj.bias", same),
        "norm/gamma": ("norm.weight", same), "norm/beta": ("norm.bias", same),
        "last/kernel": ("last.weight", dense), "last/bias": ("last.bias", same),
    }  # fmt: skip
    for part, name in enumerate(("query", "key", "value")):
        moves[f"attention/{name}/kernel"] = "attention.in_proj_weight", packed(part)
        moves[f"attention/{name}/bias"] = "attention.in_proj_bias", packed(part)
    tokens = np.random.default_rng(3).integers(0, 5, (SAMPLES, 4))
    return paired(model, twin, (tokens, tokens), moves)


PAIRS = {"dense": dense_pair, "convolution": conv_pair, "attention": attention_pair}


@cache
def pair(name: str, dtype: str = "float64") -> Pair:
    """One of PAIRS; made once, and never changed."""
    return PAIRS[name](dtype)
