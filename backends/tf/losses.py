"""Losses and metrics by name or callable, reduced to sums over samples.

Every one of them is a `Term`: outputs and targets to per-sample values (b, ...), or to the mean of the batch, ().
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

Tensor = Any  # TensorFlow has no types of its own
Term = Callable[[Any, Any], Tensor]


def _same_shape(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """The targets in the dtype of the outputs.

    Raises:
        ValueError: If the shapes differ.
    """
    if outputs.shape != targets.shape:
        raise ValueError(
            f"{name} wants outputs and targets of one shape, but {tuple(outputs.shape)} and {tuple(targets.shape)} "
            "came; they would be broadcast against each other: reshape the targets"
        )
    return tf.cast(targets, outputs.dtype)


def _classes(outputs: Tensor, targets: Tensor) -> Tensor | None:
    """Integer classes (b, ...) if the targets are that, None if they are probabilities (b, ..., classes).

    Raises:
        ValueError: If they are neither.
    """
    if targets.shape == outputs.shape:
        return None
    if targets.shape == (*outputs.shape[:-1], 1):
        targets = tf.squeeze(targets, -1)
    if targets.shape != outputs.shape[:-1] or not targets.dtype.is_integer:
        raise ValueError(
            f"for outputs {tuple(outputs.shape)} the targets are integer classes {tuple(outputs.shape[:-1])} or "
            f"probabilities {tuple(outputs.shape)}, but {targets.dtype.name} {tuple(targets.shape)} came"
        )
    return tf.cast(targets, tf.int64)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    classes = _classes(outputs, targets)
    if classes is None:
        return tf.nn.softmax_cross_entropy_with_logits(tf.cast(targets, outputs.dtype), outputs)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(classes, outputs)


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return tf.square(outputs - _same_shape("mse", outputs, targets))


def _mae(outputs: Tensor, targets: Tensor) -> Tensor:
    return tf.abs(outputs - _same_shape("mae", outputs, targets))


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return tf.nn.sigmoid_cross_entropy_with_logits(_same_shape("binary_cross_entropy", outputs, targets), outputs)


def accuracy(threshold: float) -> Term:
    """Whether the largest output is the target's, (b, ...); a single output is compared with the threshold."""

    def hits(outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape[-1] == 1:
            return (outputs > threshold) == (tf.reshape(targets, outputs.shape) > 0)
        classes = _classes(outputs, targets)
        return tf.argmax(outputs, -1) == (tf.argmax(targets, -1) if classes is None else classes)

    return hits


LOSSES: Mapping[str, Term] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "mae": _mae,
    "binary_cross_entropy": _binary_cross_entropy,
}
PROBABILITIES = (
    "this loss takes logits, but the model gives probabilities; leave out its last activation, "
    "or pass a keras.losses object, which knows what it was made for"
)
_TAKES_LOGITS = {"softmax": "cross_entropy", "sigmoid": "binary_cross_entropy"}


def term(what: Any, activation: str, known: Mapping[str, Term] = LOSSES) -> tuple[str, Term]:
    """The name and the term of a loss or metric given by name, Keras loss or callable.

    Args:
        what: A name, `f(outputs, targets)`, or one of Keras' own, which take the targets first.
        activation: That of the model's last layer, to tell probabilities from logits.
        known: What there is by name.

    Raises:
        ValueError: If the name is unknown, or wants logits and the model gives probabilities.
        TypeError: If it cannot be called.
    """
    if isinstance(what, str) and what not in known:
        raise ValueError(
            f"{what!r} is no loss or metric by name; there are {', '.join(known)}, or any f(outputs, targets)"
        )
    if isinstance(what, str):
        if _TAKES_LOGITS.get(activation) == what:
            raise ValueError(PROBABILITIES)
        return what, known[what]
    if isinstance(what, keras.losses.Loss):  # `call` leaves out the reduction
        return what.name, lambda outputs, targets: what.call(targets, outputs)
    if not callable(what):
        raise TypeError(f"a loss is a name or a callable f(outputs, targets), but {type(what).__name__} came")
    name = getattr(what, "__name__", type(what).__name__)
    if str(getattr(what, "__module__", "")).startswith("keras."):
        return name, lambda outputs, targets: what(targets, outputs)
    return name, what


def compiled_loss(model: Any) -> Any:
    """The loss that `model.compile` was given.

    Raises:
        ValueError: If there is none, or one for each of several outputs.
    """
    loss = getattr(model, "loss", None)
    if isinstance(loss, str):
        return keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        return loss
    if callable(loss):  # Keras calls it with the targets first
        return _Swapped(loss)
    came = "it was not compiled with one" if loss is None else "it was compiled with several"
    raise ValueError(f"a loss was wanted, and the model brings no single one: {came}; pass loss='cross_entropy', say")


class _Swapped:
    def __init__(self, loss: Callable[[Any, Any], Any]) -> None:
        self.loss, self.__name__ = loss, getattr(loss, "__name__", "loss")

    def __call__(self, outputs: Any, targets: Any) -> Any:
        return self.loss(targets, outputs)


def moments(values: Tensor, size: int) -> Tensor:
    """Sums over the samples of a batch, (6,) in float64: see `gradvis.objective.summarise`.

    Of a mean that hides its samples no sample is counted, so that no standard error comes of it.

    Args:
        values: Per sample, (b, ...), or the mean of the batch, ().
        size: How many samples the batch has, b.

    Raises:
        ValueError: If the values are neither.
    """
    wide = tf.cast(values, tf.float64)
    n = tf.constant(size, tf.float64)
    if wide.shape.rank == 0:
        none = tf.zeros_like(wide)
        return tf.stack([none, n, wide * n, none, none, none])
    if wide.shape[0] != size:
        raise ValueError(
            f"a loss or metric returns one value a sample, ({size}, ...), or one mean, (), but shape "
            f"{tuple(wide.shape)} came"
        )
    each = tf.reduce_mean(tf.reshape(wide, (size, -1)), axis=1)
    total = tf.reduce_sum(each)
    return tf.stack([n, n, total, tf.reduce_sum(each * each), total, n])
