"""What a training step of `model.fit` shows beyond its logs: the loss of its batch, and the norms of its gradients.

Keras' logs hold the mean of an epoch up to now. So the function that `fit` calls for a step is made anew from the
model's own `train_step`, and gives one small tensor more: what the metric was told that the logs call `loss`, and how
far the optimizer is. Nothing that the weights are computed from is changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from keras.metrics import Mean, MeanMetricWrapper

from gradvis.arrays import Values

_KEY = "gradvis"
_ABSENT = object()


@dataclass
class _Step:
    """What one step shows while it is traced, or run eagerly.

    Attributes:
        told: Sum and count of each update, by the id of a metric.
        results: Results of metrics, each with the id of its metric.
        norms: Of gradients, by the id of their variable.
        applied: Whether the model's optimizer was given gradients.
    """

    told: dict[int, list[tuple[Any, Any]]] = field(default_factory=dict)
    results: list[tuple[Any, int]] = field(default_factory=list)
    norms: dict[int, Any] = field(default_factory=dict)
    applied: bool = False


class Watch:
    """A model's training step, and what it shows.

    Args:
        model: Compiled; its `train_step` may be the user's own.
        parameters: Whose gradients count; a function, for they are not there before a model is built.
        norms: Whether norms of gradients are taken, which costs the last bits of training: TensorFlow optimises a graph
            otherwise where gradients are read twice.
    """

    def __init__(self, model: Any, parameters: Callable[[], Sequence[Any]], norms: bool = False) -> None:
        self._model, self._parameters, self._norms = model, parameters, norms
        self._here = threading.local()  # replicas are traced in threads, by turns
        with _replaced(model, "train_step", self._watched(model.train_step)):
            model.make_train_function(force=True)
        self._function = model.train_function

    def run(self, iterator: Any) -> tuple[Any, Values | None]:
        """What `fit` runs, on its iterator.

        Returns:
            logs: As without a watch.
            seen: Sum of the loss over the batch and its count (both NaN where the logs have no `loss`); the
                optimizer's iterations (NaN where others are used); the norms of its gradients, NaN where there is
                none or none is taken, inf where one is not finite. None if the step has no logs.
        """
        model = self._model
        with ExitStack() as hooks:
            for metric in model.metrics:
                hooks.enter_context(_replaced(metric, "result", self._resulting(metric)))
                if isinstance(metric, Mean) and not isinstance(metric, MeanMetricWrapper):
                    hooks.enter_context(_replaced(metric, "update_state", self._telling(metric)))
            if model.optimizer is not None:
                hooks.enter_context(_replaced(model.optimizer, "apply", self._applying(model.optimizer)))
            logs = self._function(iterator)
        if not isinstance(logs, Mapping) or _KEY not in logs:
            return logs, None
        return {name: value for name, value in logs.items() if name != _KEY}, logs[_KEY].numpy()

    def _watched(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def watched(data: Any) -> Any:
            self._here.step = _Step()
            logs = step(data)
            return {**logs, _KEY: self._shown(logs)} if isinstance(logs, Mapping) else logs

        return watched

    def _shown(self, logs: Mapping[str, Any]) -> Any:
        step, nan = self._here.step, tf.constant(np.nan, tf.float64)
        sums = [tf.add_n(parts) for parts in zip(*_losses(step, logs.get("loss")), strict=True)] or [nan, nan]
        iterations = tf.cast(self._model.optimizer.iterations, tf.float64) if step.applied else nan
        return tf.stack([*sums, iterations, *(step.norms.get(id(v), nan) for v in self._parameters())])

    def _telling(self, metric: Any) -> Callable[..., Any]:
        update = metric.update_state

        def told(values: Any, sample_weight: Any = None) -> Any:
            self._here.step.told.setdefault(id(metric), []).append(_sums(values, sample_weight))
            return update(values, sample_weight=sample_weight)

        return told

    def _resulting(self, metric: Any) -> Callable[..., Any]:
        result = metric.result

        def asked() -> Any:
            value = result()
            self._here.step.results.append((value, id(metric)))
            return value

        return asked

    def _applying(self, optimizer: Any) -> Callable[..., Any]:
        apply = optimizer.apply

        def applied(grads: Any, trainable_variables: Any = None) -> Any:
            grads, step = list(grads), self._here.step
            variables = optimizer._trainable_variables if trainable_variables is None else list(trainable_variables)
            step.applied = True
            if (
                self._norms and tf.distribute.get_strategy().num_replicas_in_sync == 1
            ):  # else they are only a share of the gradients
                scale = tf.cast(optimizer.scale_loss(1.0), tf.float64)
                step.norms |= {id(v): _norm(g) / scale for g, v in zip(grads, variables, strict=True) if g is not None}
            return apply(grads, trainable_variables if trainable_variables is None else variables)

        return applied


def _losses(step: _Step, loss: Any) -> list[tuple[Any, Any]]:
    """What the logs call loss, of this batch alone: sums and counts; none if that cannot be seen."""
    for value, metric in step.results:
        if value is loss:
            return step.told.get(metric, [])
    return [_sums(loss, None)] if tf.is_tensor(loss) else []


def _sums(values: Any, weights: Any) -> tuple[Any, Any]:
    """As `keras.metrics.Mean` adds them, but in float64: sum and count."""
    values = tf.cast(values, tf.float64)
    if weights is None:
        count = tf.cast(tf.shape(values)[0] if values.shape.rank else 1, tf.float64)
        return tf.reduce_mean(values) * count, count
    weights = tf.cast(weights, tf.float64)
    values = tf.reduce_mean(values, axis=list(range(weights.shape.rank, max(values.shape.rank, weights.shape.rank))))
    weights = tf.broadcast_to(weights, tf.shape(values))
    return tf.reduce_sum(values * weights), tf.reduce_sum(weights)


def _norm(gradient: Any) -> Any:
    """In float32 at least: squares of float16 overflow."""
    values = _coalesced(gradient) if isinstance(gradient, tf.IndexedSlices) else tf.convert_to_tensor(gradient)
    norm = tf.cast(tf.norm(tf.cast(values, tf.float64 if values.dtype == tf.float64 else tf.float32)), tf.float64)
    return tf.where(tf.math.is_finite(norm), norm, tf.constant(np.inf, tf.float64))


def _coalesced(gradient: tf.IndexedSlices) -> Any:
    """Its rows, those of one index added: a batch may look a word up more than once."""
    order = tf.argsort(gradient.indices)
    indices = tf.gather(gradient.indices, order)
    first = tf.concat([tf.zeros(1, tf.int32), tf.cast(indices[1:] != indices[:-1], tf.int32)], 0)
    return tf.math.unsorted_segment_sum(tf.gather(gradient.values, order), tf.cumsum(first), tf.size(indices))


@contextmanager
def _replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, an object has another attribute; not by `setattr`, which Keras watches."""
    own = vars(thing)
    before = own.get(name, _ABSENT)
    own[name] = value
    try:
        yield
    finally:
        if before is _ABSENT:
            del own[name]
        else:
            own[name] = before
