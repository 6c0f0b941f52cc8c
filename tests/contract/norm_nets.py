"""One network with two batch norms in each framework, and its loss under every policy by hand in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, EPSILON = 3, 1e-3
SIZES = (6, 6, 5)  # of the batches: the last is ragged
SHAPES = [(2, 1, 3, 3), (2,), (2,), (2,), (CLASSES, 8), (CLASSES,), (CLASSES,), (CLASSES,)]
D = sum(int(np.prod(shape)) for shape in SHAPES)

_rng = np.random.default_rng(3)
IMAGES, TARGETS = _rng.normal(size=(sum(SIZES), 1, 4, 4)), _rng.integers(0, CLASSES, sum(SIZES))


class Torch:
    """In PyTorch. The dropout is in training mode, the rest is not."""

    first = "0.*"

    class Twice(nn.Module):
        """One batch norm that runs twice, without a momentum of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3, eps=EPSILON, momentum=None)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(3 * self.norm(x) + 1)

    def model(self, seed: int = 0) -> Any:
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, eps=EPSILON), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(8, CLASSES), nn.BatchNorm1d(CLASSES, eps=EPSILON),
        ).double().eval()  # fmt: skip
        model[4].train()
        rng = np.random.default_rng(seed)
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.tensor(rng.uniform(0.2, 1.5, value.shape)))
        return model

    def twice(self) -> Any:
        return self.Twice().double().eval()

    def images(self, images: np.ndarray) -> np.ndarray:
        return images

    def array(self, values: np.ndarray) -> Any:
        return torch.tensor(values)

    def parts(self, theta: Tensor) -> list[Tensor]:
        pieces = theta.split([int(np.prod(shape)) for shape in SHAPES])
        return [piece.view(shape) for piece, shape in zip(pieces, SHAPES, strict=True)]

    def stored(self, model: Any) -> list[tuple[Tensor, Tensor]]:
        return [(layer.running_mean.clone(), layer.running_var.clone()) for layer in (model[1], model[6])]

    def move(self, model: Any) -> None:
        with torch.no_grad():
            model[5].weight *= 2

    def snapshot(self, model: Any) -> Any:
        kept = [(layer.training, len(layer._forward_pre_hooks)) for layer in model.modules()]
        ways = [(layer.momentum, layer.track_running_stats) for layer in (model[1], model[6])]
        return kept, ways, [value.numpy().tobytes() for value in model.state_dict().values()]


class Keras:
    """In Keras, whose kernels have their outputs and whose images have their channels last."""

    first = "conv/*"

    def model(self, seed: int = 0) -> Any:
        wide = {"dtype": "float64"}
        model = keras.Sequential([
            keras.Input((4, 4, 1), **wide),
            keras.layers.Conv2D(2, 3, name="conv", **wide),
            keras.layers.BatchNormalization(epsilon=EPSILON, name="norm", **wide),
            keras.layers.Activation("tanh", **wide),
            keras.layers.Flatten(**wide),
            keras.layers.Dropout(0.5, **wide),
            keras.layers.Dense(CLASSES, name="last", **wide),
            keras.layers.BatchNormalization(epsilon=EPSILON, name="end", **wide),
        ])  # fmt: skip
        rng = np.random.default_rng(seed)
        model.set_weights([rng.uniform(0.2, 1.5, weight.shape) for weight in model.get_weights()])
        return model

    def twice(self) -> Any:
        inputs = keras.Input((3,), dtype="float64")
        norm = keras.layers.BatchNormalization(epsilon=EPSILON, dtype="float64")
        return keras.Model(inputs, norm(3 * norm(inputs) + 1))

    def images(self, images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))

    def array(self, values: np.ndarray) -> Any:
        return values

    def parts(self, theta: Tensor) -> list[Tensor]:
        kernel, bias, gamma, beta, last, *rest = theta.split([int(np.prod(shape)) for shape in SHAPES])
        kernel = kernel.view(3, 3, 1, 2).permute(3, 2, 0, 1)
        last = last.view(2, 2, 2, CLASSES).permute(3, 2, 0, 1).reshape(CLASSES, 8)
        return [kernel, bias, gamma, beta, last, *rest]

    def stored(self, model: Any) -> list[tuple[Tensor, Tensor]]:
        layers = model.get_layer("norm"), model.get_layer("end")
        return [tuple(torch.tensor(v.numpy()) for v in (each.moving_mean, each.moving_variance)) for each in layers]

    def move(self, model: Any) -> None:
        kernel = model.get_layer("last").kernel
        kernel.assign(2 * kernel)

    def snapshot(self, model: Any) -> Any:
        ways = [(getattr(layer, "momentum", None), "call" in vars(layer)) for layer in model.layers]
        return ways, [weight.tobytes() for weight in model.get_weights()]


NETS = {"torch": Torch(), "keras": Keras()}

# ---------------------------------------------------------------------- by hand

Statistics = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""Of the number of a batch norm and what it sees, to the mean and the variance that it takes."""


def _losses(net: Any, theta: Tensor, batch: tuple[Tensor, Tensor], statistics: Statistics) -> Tensor:
    """Of every sample of a batch, (b,)."""
    kernel, bias, gamma, beta, last, shift, scale, end = net.parts(theta)

    def normal(number: int, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        along = (1, -1, *[1] * (x.ndim - 2))
        mean, variance = (each.view(along) for each in statistics(number, x))
        return (x - mean) / (variance + EPSILON).sqrt() * gamma.view(along) + beta.view(along)

    x = torch.tanh(normal(0, F.conv2d(batch[0], kernel, bias), gamma, beta)).flatten(1)
    return F.cross_entropy(normal(1, x @ last.T + shift, scale, end), batch[1], reduction="none")


def _of_batch(_: int, x: Tensor, correction: int = 0) -> tuple[Tensor, Tensor]:
    channels = x.transpose(0, 1).flatten(1)
    return channels.mean(1), channels.var(1, correction=correction)


def batches(sizes: tuple[int, ...] = SIZES, chosen: Any = slice(None)) -> list[tuple[Tensor, Tensor]]:
    split = [torch.tensor(each[chosen]).split(list(sizes)) for each in (IMAGES, TARGETS)]
    return list(zip(*split, strict=True))


def by_hand(net: Any, policy: str, theta: Any, stored: Any, data: list[tuple[Tensor, Tensor]] | None = None) -> Any:
    """The mean loss of all samples at theta, (d,), as a tensor that can be differentiated."""
    data, theta = data or batches(), theta if isinstance(theta, Tensor) else torch.tensor(theta)
    total = sum(len(y) for _, y in data)

    def mean(statistics: Statistics) -> Tensor:
        return sum(_losses(net, theta, batch, statistics).sum() for batch in data) / total

    if policy == "eval":
        return mean(lambda number, _: stored[number])
    if policy == "batch":
        return mean(_of_batch)
    return mean(_averaged(net, theta, data, total))


def _averaged(net: Any, theta: Tensor, data: list[tuple[Tensor, Tensor]], total: int) -> Statistics:
    """Of one pass in which each batch is normalised by itself: means of what it saw, by its samples."""
    seen = [[torch.zeros(1).double()] * 2 for _ in range(2)]

    def see(number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        share = len(x) / total
        seen[number] = [old + share * new for old, new in zip(seen[number], _of_batch(number, x, 1), strict=True)]
        return _of_batch(number, x)

    for batch in data:
        _losses(net, theta, batch, see)
    return lambda number, _: tuple(seen[number])


def twice_by_hand(x: np.ndarray, targets: np.ndarray) -> float:
    """The recalibrated loss of `twice`, whose scale is one and whose shift is none: both times count alike."""
    first = (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON)
    uses = x, 3 * first + 1
    mean, variance = (sum(each) / 2 for each in zip(*((u.mean(0), u.var(0, ddof=1)) for u in uses), strict=True))
    for step in (lambda z: z, lambda z: 3 * z + 1):
        x = (step(x) - mean) / np.sqrt(variance + EPSILON)
    return (np.log(np.exp(x).sum(1)) - x[np.arange(len(x)), targets]).mean()
