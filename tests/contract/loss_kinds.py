"""Losses of every framework as functions of outputs and targets, and the six sums that come of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import torch
import torch.nn.functional as F
from torch import nn

from gradvis.backends.pytorch.criterion import Criterion as TorchCriterion
from gradvis.backends.pytorch.losses import LOSSES as TORCH_LOSSES
from gradvis.backends.pytorch.losses import METRICS as TORCH_METRICS
from gradvis.backends.tf.criterion import Criterion as KerasCriterion
from gradvis.backends.tf.losses import LOSSES as KERAS_LOSSES
from gradvis.backends.tf.losses import METRICS as KERAS_METRICS
from gradvis.backends.tf.losses import moments

CLASSES = 3
_SIX = np.array([(0, 0), (0, 1), (0, 2), (2, 2), (1, 2), (1, 1)]).T  # n, C, S, SS, SC, CC of the moments


class Torch:
    """In PyTorch, where classes lie along axis 1."""

    losses, metrics = TORCH_LOSSES, TORCH_METRICS

    def array(self, values: Any) -> Any:
        return torch.as_tensor(values)

    def outputs(self, values: np.ndarray) -> Any:
        return torch.as_tensor(np.moveaxis(values, -1, 1).copy() if values.ndim > 2 else values)

    def criterion(self, loss: Any, metrics: Any = (), **options: Any) -> TorchCriterion:
        known = {"batch_loss": None, "weight": None, **options}
        return TorchCriterion(
            loss, metrics=metrics, dtype=torch.float64, amp=False, device=torch.device("cpu"), **known
        )

    def sums(self, criterion: Any, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        made = self.outputs(outputs)
        return criterion.terms(made, (made, self.array(targets))).numpy()[:, *_SIX]

    def check(self, criterion: Any, outputs: np.ndarray, targets: np.ndarray) -> None:
        criterion.sums(nn.Identity(), 0, (self.outputs(outputs), self.array(targets)), first=True)

    def curvature(self, name: str) -> np.ndarray:
        """Of the sum of a loss of two outputs where these are zero, as are their targets: the sum of each row, (2,)."""
        loss = TORCH_LOSSES[name]
        return torch.autograd.functional.hessian(
            lambda x: loss(x, torch.zeros(2, 1).double())[0].sum(), torch.zeros(2, 1).double()
        ).reshape(2, 2).sum(0).numpy()  # fmt: skip

    def chances(self, logits: np.ndarray) -> np.ndarray:
        return torch.as_tensor(logits).softmax(1).numpy()

    def objects(self, classes: np.ndarray) -> dict[str, tuple[Any, np.ndarray]]:
        """Losses as the framework has them, each with its targets."""
        return {
            "plain": (nn.CrossEntropyLoss(), classes),
            "ignoring": (nn.CrossEntropyLoss(ignore_index=2), classes),
            "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.3), classes),
            "huber": (nn.HuberLoss(delta=0.5), np.eye(CLASSES)[classes]),
            "function": (F.l1_loss, np.eye(CLASSES)[classes]),
        }

    def ignoring(self, number: int) -> Any:
        return nn.CrossEntropyLoss(ignore_index=number)

    summed = nn.MSELoss(reduction="sum")
    kind = nn.MSELoss

    def total(self, values: Any, axis: int | None = None) -> Any:
        return values.sum() if axis is None else values.sum(axis)

    def square(self, outputs: Any) -> Any:
        return outputs @ outputs.T

    def ones(self, *shape: int) -> Any:
        return torch.ones(shape, dtype=torch.float64)


class Keras:
    """In Keras, where classes lie along the last axis."""

    losses, metrics = KERAS_LOSSES, KERAS_METRICS

    def array(self, values: Any) -> Any:
        return tf.convert_to_tensor(values)

    def outputs(self, values: np.ndarray) -> Any:
        return tf.constant(values)

    def criterion(self, loss: Any, metrics: Any = (), **options: Any) -> KerasCriterion:
        return KerasCriterion(None, loss, metrics, **options)

    def sums(self, criterion: Any, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        made = self.outputs(outputs)
        found = criterion.values(made, (made, self.array(targets), None))
        return np.stack([moments(s, c, len(targets)).numpy() for s, c in found])

    def check(self, criterion: Any, outputs: np.ndarray, targets: np.ndarray) -> None:
        made = self.outputs(outputs)
        criterion.check(made, (made, self.array(targets), None))

    def curvature(self, name: str) -> np.ndarray:
        """Of the sum of a loss of two outputs where these are zero, as are their targets: the sum of each row, (2,)."""
        zero = tf.zeros((2, 1), tf.float64)
        with tf.GradientTape() as outer:
            outer.watch(zero)
            with tf.GradientTape() as inner:
                inner.watch(zero)
                total = tf.reduce_sum(KERAS_LOSSES[name].sums(zero, tf.zeros((2, 1), tf.float64), None)[0])
            slope = inner.gradient(total, zero)
        return outer.gradient(slope, zero).numpy()[:, 0]

    def chances(self, logits: np.ndarray) -> np.ndarray:
        return tf.nn.softmax(logits).numpy()

    def objects(self, classes: np.ndarray) -> dict[str, tuple[Any, np.ndarray]]:
        """Losses as the framework has them, each with its targets."""
        one_hot = np.eye(CLASSES)[classes]
        sparse = keras.losses.SparseCategoricalCrossentropy
        return {
            "plain": (sparse(from_logits=True), classes),
            "ignoring": (sparse(from_logits=True, ignore_class=2), classes),
            "smoothed": (keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3), one_hot),
            "huber": (keras.losses.Huber(0.5), one_hot),
            "function": (keras.losses.mean_absolute_error, one_hot),
        }

    def ignoring(self, number: int) -> Any:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=number)

    summed = keras.losses.MeanSquaredError(reduction="sum")
    kind = keras.losses.MeanSquaredError

    def total(self, values: Any, axis: int | None = None) -> Any:
        return tf.reduce_sum(values, axis)

    def square(self, outputs: Any) -> Any:
        return outputs @ tf.transpose(outputs)

    def ones(self, *shape: int) -> Any:
        return tf.ones(shape, tf.float64)


KINDS = {"torch": Torch(), "keras": Keras()}
Loss = Callable[[Any, Any], Any]
