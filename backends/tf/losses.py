"""Losses and metrics by name or callable, all reduced to sums over samples.

Every one of them becomes a `Term`: a function of outputs and targets that gives a value a sample, or several (tokens,
pixels), or one value that is already the mean of its batch. Classes lie along the last axis of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from gradvis.backends.rows import describe
from gradvis.backends.tf.batch import Tensor, size

IGNORED = -100  # a class that does not count, as it is in PyTorch


@dataclass(frozen=True)
class Term:
    """One loss or metric.

    Attributes:
        name: Its column, or what the loss is called.
        values: Of outputs and targets: (b, ...), or the mean of a batch, (); with a mask of those that count, (b, ...),
            as `_keras_mask` where only some do.
        takes: What its outputs must be: `logits`, `probabilities`, or anything.
        targets: What its targets must be: `classes`, `shares` (0 to 1), or anything.
        ignored: The class that does not count.
        by_weight: Whether the mean divides by the sample weights, not by the number of values that count.
        weighted: Whether sample weights are heeded.
        nested: Whether it takes all outputs of a model at once.
    """

    name: str
    values: Callable[[Any, Any], Tensor]
    takes: str = ""
    targets: str = ""
    ignored: int | None = None
    by_weight: bool = True
    weighted: bool = True
    nested: bool = False

    def sums(self, outputs: Any, targets: Any, weights: Any) -> tuple[Tensor, Tensor]:
        """The values of each sample summed, and what their mean divides by: (b,) each, or () where it hides them.

        Raises:
            TypeError: If the values are no tensor.
            ValueError: If they are neither one a sample nor one in all, or hide what is weighted.
        """
        values = self.values(outputs, targets)
        masks = [mask for each in (outputs, values) if (mask := getattr(each, "_keras_mask", None)) is not None]
        return summed(self.name, values, size(targets), masks, weights if self.weighted else None, self.by_weight)


def summed(
    name: str, values: Any, count: int, masks: list[Tensor], weights: Tensor | None, by_weight: bool
) -> tuple[Tensor, Tensor]:
    """The values of each sample summed, and the number of them that count, or their weight: see `Term.sums`.

    Raises:
        TypeError: If the values are no tensor.
        ValueError: If they are neither one a sample nor one in all, or hide what is weighted.
    """
    if not isinstance(values, tf.Tensor):
        came = type(values).__name__
        raise TypeError(
            f"a loss or metric returns a tensor, a value a sample or one mean, but a {came} came; let it return one"
        )
    wide = tf.cast(values, tf.float64)
    if wide.shape.rank == 0:
        if weights is not None or masks:
            raise ValueError(
                f"{name} gives one mean a batch, but the samples of the data have weights or masks of their own; "
                "return a value a sample"
            )
        return wide * count, tf.constant(count, tf.float64)
    if wide.shape[0] != count:
        raise ValueError(
            f"a loss or metric returns one value a sample, ({count}, ...), or one mean, (), but shape "
            f"{tuple(wide.shape)} came; reduce over the other axes only"
        )
    units = tf.ones_like(wide)
    for mask in masks:
        kept = spread(name, mask, wide)
        wide, units = tf.where(kept, wide, 0), tf.where(kept, units, 0)
    if weights is not None:
        factors = tf.cast(spread(name, weights, wide), tf.float64)
        wide, units = wide * factors, units * factors if by_weight else units
    return tuple(tf.reduce_sum(tf.reshape(each, (count, -1)), 1) for each in (wide, units))


def spread(name: str, weights: Tensor, values: Tensor) -> Tensor:
    """Weights or a mask, (b,), (b, 1) or (b, ...), in the shape of the values, (b, ...).

    Raises:
        ValueError: If they do not belong to them.
    """
    fitting = weights
    while fitting.shape.rank > values.shape.rank and fitting.shape[-1] == 1:
        fitting = tf.squeeze(fitting, -1)
    rank = fitting.shape.rank
    if not 1 <= rank <= values.shape.rank or any(
        mine not in {1, None, theirs} and theirs is not None
        for mine, theirs in zip(fitting.shape, values.shape, strict=False)
    ):
        raise ValueError(
            f"sample weights and masks belong to the values of the loss, and {name} has {tuple(values.shape)} of "
            f"them, but {tuple(weights.shape)} came; give one a sample, or one for each of them"
        )
    for _ in range(values.shape.rank - rank):
        fitting = fitting[..., None]
    return tf.broadcast_to(fitting, tf.shape(values))


def moments(s: Tensor, c: Tensor, n: int) -> Tensor:
    """Sums over the samples of a batch, (6,) in float64: see `gradvis.objective.summarise`.

    Of a mean that hides its samples no sample is counted, so that no standard error comes of it.

    Args:
        s: Summed values, (b,), or of the whole batch, ().
        c: Units or weights of each sample, (b,), or of the whole batch, ().
        n: How many samples the batch has, b.
    """
    s, c = tf.cast(s, tf.float64), tf.cast(c, tf.float64)
    if s.shape.rank == 0:
        none = tf.zeros_like(s)
        return tf.stack([none, c, s, none, none, none])
    return tf.stack([
        tf.constant(n, tf.float64), tf.reduce_sum(c), tf.reduce_sum(s),
        tf.reduce_sum(s * s), tf.reduce_sum(s * c), tf.reduce_sum(c * c),
    ])  # fmt: skip


# ---------------------------------------------------------------------------------------------- by name


def _same_shape(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """The targets in the dtype of the outputs.

    Raises:
        ValueError: If the shapes differ.
    """
    if not outputs.shape.is_compatible_with(targets.shape):
        raise ValueError(
            f"{name} wants outputs and targets of one shape, but {tuple(outputs.shape)} and {tuple(targets.shape)} "
            "came; they would be broadcast against each other: reshape the targets"
        )
    return tf.cast(targets, outputs.dtype)


def _elementwise(name: str, function: Callable[[Tensor, Tensor], Tensor], **kind: str) -> Term:
    return Term(name, lambda outputs, targets: function(outputs, _same_shape(name, outputs, targets)), **kind)  # type: ignore[arg-type]


def _huber(outputs: Tensor, targets: Tensor) -> Tensor:
    """Quadratic up to 1, then linear, as torch's smooth_l1 and huber are where no more is said."""
    off = outputs - targets
    return tf.where(tf.abs(off) < 1, 0.5 * off * off, tf.abs(off) - 0.5)


def _classes(name: str, outputs: Tensor, targets: Tensor) -> Tensor | None:
    """Integer classes (b, ...) if the targets are that, None if they are probabilities (b, ..., classes).

    Raises:
        ValueError: If they are neither.
    """
    if outputs.shape.rank < 2 or outputs.shape[-1] < 2:
        raise ValueError(
            f"{name} wants outputs of shape (samples, ..., classes), but {describe(outputs)} came; for one logit a "
            "sample take binary_cross_entropy"
        )
    if outputs.shape.is_compatible_with(targets.shape):
        return None
    column = targets.shape.is_compatible_with((*outputs.shape[:-1], 1))
    flat = tf.squeeze(targets, -1) if column else targets
    if not outputs.shape[:-1].is_compatible_with(flat.shape) or not flat.dtype.is_integer:
        raise ValueError(
            f"{name} wants classes as integers {tuple(outputs.shape[:-1])} or probabilities {tuple(outputs.shape)} for "
            f"outputs {describe(outputs)}, but {describe(targets)} came; reshape or cast the targets"
        )
    return tf.cast(flat, tf.int64)


def _counted(values: Tensor, classes: Tensor) -> Tensor:
    """The values with a mask of those whose class counts; a new tensor, for the mask is no part of the old."""
    made = tf.identity(values)
    made._keras_mask = classes != IGNORED
    return made


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    classes = _classes("cross_entropy", outputs, targets)
    if classes is None:
        return tf.nn.softmax_cross_entropy_with_logits(tf.cast(targets, outputs.dtype), outputs)
    shown = tf.where(classes == IGNORED, tf.zeros_like(classes), classes)
    return _counted(tf.nn.sparse_softmax_cross_entropy_with_logits(shown, outputs), classes)


def _nll(outputs: Tensor, targets: Tensor) -> Tensor:
    """Minus what the outputs, logarithms of probabilities, are for the target's class.

    Raises:
        ValueError: If the targets are no classes.
    """
    classes = _classes("nll", outputs, targets)
    if classes is None:
        raise ValueError(f"nll wants classes as integers, but {describe(targets)} came; take tf.argmax(targets, -1)")
    shown = tf.where(classes == IGNORED, tf.zeros_like(classes), classes)
    return _counted(-tf.gather(outputs, shown, batch_dims=classes.shape.rank), classes)


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the largest output is the target's, (b, ...); one output is a logit, unless a sigmoid made it.

    Raises:
        ValueError: If the targets are not of the outputs' shape, without its classes.
    """
    if outputs.shape.rank == 1 or outputs.shape[-1] == 1:
        flat = outputs if outputs.shape.rank == 1 else tf.squeeze(outputs, -1)
        if targets.shape.num_elements() != flat.shape.num_elements():
            _same_shape("accuracy", outputs, targets)
        likely = flat > (0.5 if made_by(outputs) == "Sigmoid" else 0)
        return likely == (tf.cast(tf.reshape(targets, flat.shape), flat.dtype) > 0.5)
    classes = _classes("accuracy", outputs, targets)
    found = tf.argmax(outputs, -1)
    return found == tf.argmax(targets, -1) if classes is None else _counted(found == classes, classes)


def _error(outputs: Tensor, targets: Tensor) -> Tensor:
    hits = _hits(outputs, targets)
    missed = tf.logical_not(hits)
    missed._keras_mask = getattr(hits, "_keras_mask", None)
    return missed


_THROUGH = {"Cast", "Identity", "Reshape", "Squeeze", "ExpandDims", "Transpose"}


def made_by(outputs: Tensor) -> str:
    """`Softmax` or `Sigmoid` where that made these outputs of a graph, whatever cast or reshaped them since."""
    operation = None if tf.executing_eagerly() else getattr(outputs, "op", None)
    while operation is not None and operation.type in _THROUGH:
        operation = operation.inputs[0].op
    kind = str(operation.type) if operation is not None else ""
    return kind if kind in {"Softmax", "Sigmoid"} else ""


LOSSES: Mapping[str, Term] = {
    "cross_entropy": Term("cross_entropy", _cross_entropy, "logits", "classes", IGNORED),
    "nll": Term("nll", _nll, "", "classes", IGNORED),
    "mse": _elementwise("mse", tf.math.squared_difference),
    "mae": _elementwise("mae", lambda outputs, targets: tf.abs(outputs - targets)),
    "smooth_l1": _elementwise("smooth_l1", _huber),
    "huber": _elementwise("huber", _huber),
    "binary_cross_entropy": _elementwise(
        "binary_cross_entropy",
        lambda outputs, targets: tf.nn.sigmoid_cross_entropy_with_logits(targets, outputs),
        takes="logits",
        targets="shares",
    ),
}
METRICS: Mapping[str, Term] = {**LOSSES, "accuracy": Term("accuracy", _hits), "error": Term("error", _error)}
