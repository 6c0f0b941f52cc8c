"""What is measured on a batch: the loss and the metrics, from one forward pass, as sums over samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from gradvis.backends.given import each
from gradvis.backends.tf.batch import Tensor, size
from gradvis.backends.tf.checks import check_mean, check_outputs, check_targets
from gradvis.backends.tf.losses import summed
from gradvis.backends.tf.parts import Part, ends_linear, losses_of, metrics_of, output_names

Sums = tuple[Tensor, Tensor]


class Criterion:
    """Loss and metrics of a batch.

    The mean of each is that of the whole set: the sum of what `values` gives first by the sum of what it gives second.
    `keras.Model.evaluate` takes the mean of each batch and weighs it by how many samples the batch has. For losses
    that divide by the number of values (Keras' `sum_over_batch_size`, with sample weights or without) that is the
    same number. Where the mean goes over weights or masks (`mean_with_sample_weight`, `mask_zero`, `ignore_class`),
    Keras' number depends on how the samples were put into batches, and this one does not. Losses and metrics by the
    names that gradvis shares with PyTorch, and functions of outputs and targets, divide by the sum of the weights.

    Args:
        model: Brings its compiled loss, loss weights and metrics where none are given.
        loss: See `KerasObjective`; so are `batch_loss`, `weight` and `unit`. For several outputs one for all, a dict
            by their names, or a list in their order: the losses are added.
        metrics: More, from the same outputs; those the model was compiled with where they and the loss are None.
        batch_loss: Instead of a loss.
        weight: With it.
        unit: What the mean goes over, in words.

    Raises:
        ValueError: If there is not exactly one loss, or a name is unknown.

    Attributes:
        name: Of the loss.
        names: Of what is measured: `loss`, then with several losses `OUTPUT_loss` of each, then the metrics.
        unit: What the mean of the loss goes over: as it was given, else `sample` or `unit` once a batch was seen.
    """

    def __init__(
        self,
        model: Any,
        loss: Any,
        metrics: Any = None,
        batch_loss: Callable[[Any, Any], Any] | None = None,
        weight: Callable[[Any], Any] | None = None,
        unit: str | None = None,
    ) -> None:
        if batch_loss is not None and loss is not None:
            raise ValueError("one of loss and batch_loss was wanted, but both came; give loss='cross_entropy', say")
        if batch_loss is not None and metrics:
            raise ValueError("metrics are computed from the outputs, which batch_loss hides; leave one of them out")
        self._model, self._batch_loss, self._weight = model, batch_loss, weight
        self.unit, self._given_unit = unit or "sample", unit
        self._losses: list[Part] = []
        self._metrics: list[Part] = []
        self._seen: Any = None  # the outputs for one sample
        self.name, names = getattr(batch_loss, "__name__", "batch_loss"), ["loss"]
        if batch_loss is None:
            self._losses = losses_of(model, loss)
            self.name = " + ".join(dict.fromkeys(part.term.name for part in self._losses))
            names += [f"{part.output}_loss" for part in self._losses] if len(self._losses) > 1 else []
            if metrics is not None or loss is None:
                named = metrics_of(model, metrics, output_names(model, loss))
                self._metrics, names = [part for _, part in named], names + [name for name, _ in named]
        self.names = tuple(names)
        if len(set(names)) < len(names):
            raise ValueError(f"every metric needs a name of its own, but {', '.join(names)} came; name each once")

    @property
    def sees_outputs(self) -> bool:
        """Whether batches are (inputs, targets, weights), so that they can be cut and put together."""
        return self._batch_loss is None

    def values(self, outputs: Any, batch: Any) -> list[Sums]:
        """Of every term the summed values of each sample and what their mean divides by, (b,) each.

        To be called where the outputs were made: their mask, and the operation that made them, are read off them.

        Args:
            outputs: Of the model for the inputs of the batch.
            batch: (inputs, targets, weights).

        Returns:
            A pair for each of `names`; () each where a loss hides its samples: its mean times b, and b.
        """
        for leaf in tf.nest.flatten(outputs):
            if isinstance(leaf, tf.Tensor) and leaf.shape.rank and leaf.shape[0] is None:  # of layers that read texts
                leaf.set_shape((size(batch[1]), *leaf.shape[1:]))
        found = []
        for part in (*self._losses, *self._metrics):
            given, targets, weights = part.take(outputs, batch[1], batch[2])
            if not part.term.nested:
                check_outputs(part.term, given)
            found.append(part.term.sums(given, targets, weights))
        count = len(self._losses)
        if count == 1:
            (s, c), factor = found[0], self._losses[0].factor
            return [(s if factor == 1 else s * factor, c), *found[1:]]
        return [_added(found[:count], [part.factor for part in self._losses]), *found]

    def check(self, outputs: Any, batch: Any) -> None:
        """See on the first batch, outside of graphs, that the loss takes what the model gives.

        Raises:
            ValueError: If it does not: probabilities for logits, classes out of range, a sum for a mean.
        """
        self._seen = each(_one, outputs)
        linear = ends_linear(self._model)
        for part in self._losses:
            given, targets, _ = part.take(outputs, batch[1], batch[2])
            if part.term.nested:
                check_mean(part.term, given, targets)
                continue
            check_outputs(part.term, given, linear.get(part.output or "", False))
            check_targets(part.term, given, targets)
        values = self.values(outputs, batch)
        if len(self._losses) > 1 and np.isnan(values[0][0]).any() and not np.isnan([s for s, _ in values[1:]]).any():
            raise ValueError(
                "losses of several outputs are added sample by sample, but the means of these go over different "
                "weights or masks; pass batch_loss=f(model, batch)"
            )
        self._learn("sample" if values[0][0].shape.rank and np.all(values[0][1] == 1) else "unit")

    def check_batch(self, batch: Any) -> None:
        """See that the targets of any other batch fit the outputs that were seen first.

        Raises:
            ValueError: If they are out of range.
        """
        for part in self._losses:
            if not part.term.nested:
                check_targets(part.term, *part.take(self._seen, batch[1], None)[:2])

    def measured(self, model: Any, batch: Any) -> list[Sums]:
        """The same as `values` of what a batch_loss returned.

        Raises:
            ValueError: If it is a mean and nothing says over how many items.
        """
        assert self._batch_loss is not None
        result = self._batch_loss(model, batch)
        if isinstance(result, tuple):
            self._learn("unit")
            total, units = (tf.cast(each, tf.float64) for each in result)
            return [(total, tf.broadcast_to(units, total.shape))]
        if not isinstance(result, tf.Tensor) or result.shape.rank:
            shape: Any = getattr(result, "shape", ())
            count = int(shape[0]) if len(shape) else 0
            self._learn("sample" if len(shape) == 1 else "unit")
            return [summed(self.name, result, count, [], None, True)]
        if self._weight is None:
            raise ValueError("batch_loss returned a mean; say over how many items with weight=f(batch)")
        self._learn("unit")
        units = tf.cast(self._weight(batch), tf.float64)
        return [(tf.cast(result, tf.float64) * units, units)]

    def _learn(self, unit: str) -> None:
        self.unit = self._given_unit or unit


def _one(leaf: Any) -> Any:
    return leaf[:1] if isinstance(leaf, tf.Tensor) and leaf.shape.rank else leaf


def _added(losses: list[Sums], factors: list[float]) -> Sums:
    """The sum of the means of several outputs, sample by sample; NaN where these go over different weights."""
    if any(s.shape.rank == 0 for s, _ in losses):
        count = tf.reduce_max([tf.cast(tf.reduce_sum(c), tf.float64) for _, c in losses])
        shares = [factor * tf.reduce_sum(s) / tf.reduce_sum(c) for (s, c), factor in zip(losses, factors, strict=True)]
        return tf.add_n(shares) * count, count
    first = losses[0][1]
    total = tf.zeros_like(first)
    for (s, c), factor in zip(losses, factors, strict=True):
        apart = tf.abs(c * tf.reduce_sum(first) - first * tf.reduce_sum(c)) > 1e-9 * tf.reduce_sum(first) * c
        share = factor * tf.math.divide_no_nan(s, c) * first
        total += tf.where(apart, tf.constant(np.nan, tf.float64), share)
    return total, first
