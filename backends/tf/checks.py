"""What a loss wants of outputs and targets, and that what is called a mean is one: a sentence in place of a number."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from gradvis.backends.given import each
from gradvis.backends.tf.batch import Tensor
from gradvis.backends.tf.losses import Term, made_by

PROBABILITIES = (
    "{} takes logits, but the model gives probabilities; leave out its last activation, or pass a keras.losses object "
    "with from_logits=False"
)
LOGITS = (
    "{} takes probabilities, but the model gives logits; pass a keras.losses object with from_logits=True, or "
    "loss='cross_entropy'"
)


def check_outputs(term: Term, outputs: Tensor, linear: bool = False) -> None:
    """See that a loss of logits gets logits, and one of probabilities probabilities.

    Inside a graph the operation that made the outputs tells, outside it their values.

    Args:
        term: The loss or metric.
        outputs: Of the model.
        linear: Whether its last layer is known to have no activation.

    Raises:
        ValueError: If they are the other.
    """
    if term.takes == "logits":
        kind = made_by(outputs)
        if kind == "Softmax" or (kind == "Sigmoid" and term.targets == "shares"):
            raise ValueError(PROBABILITIES.format(term.name))
        if tf.executing_eagerly() and term.targets != "shares" and _sums_to_one(outputs):
            raise ValueError(PROBABILITIES.format(term.name))
    if term.takes == "probabilities" and (linear or (tf.executing_eagerly() and _leaves_unit(outputs))):
        raise ValueError(LOGITS.format(term.name))


def _sums_to_one(outputs: Tensor) -> bool:
    """Whether these can only be probabilities."""
    if outputs.shape.rank < 2 or outputs.shape[-1] < 2:
        return False
    sums = tf.reduce_sum(outputs, -1)
    return bool(tf.reduce_all(outputs >= 0)) and bool(tf.reduce_all(tf.abs(sums - 1) < 1e-2))


def _leaves_unit(outputs: Tensor) -> bool:
    """Whether these can be no probabilities; Keras itself divides those of classes by their sum."""
    above = outputs.shape.rank > 1 and outputs.shape[-1] > 1
    return bool(tf.reduce_any(outputs < 0)) or (not above and bool(tf.reduce_any(outputs > 1 + 1e-3)))


def check_targets(term: Term, outputs: Tensor, targets: Tensor) -> None:
    """See that classes are as many as the outputs tell apart, and shares from 0 to 1.

    Args:
        term: The loss.
        outputs: Of the model, (b, ..., classes).
        targets: Of any batch.

    Raises:
        ValueError: If they are out of range.
    """
    if not isinstance(targets, tf.Tensor) or targets.shape.num_elements() == 0:
        return
    if term.targets == "shares":
        low, high = float(tf.reduce_min(targets)), float(tf.reduce_max(targets))
        if low < 0 or high > 1:
            raise ValueError(f"{term.name} wants targets from 0 to 1, but they go from {low:g} to {high:g}; scale them")
    if term.targets == "classes" and targets.shape[1:] != outputs.shape[1:] and outputs.shape[-1] > 1:
        _check_classes(term, int(outputs.shape[-1]), targets)


def _check_classes(term: Term, classes: int, targets: Tensor) -> None:
    """See that every class is one of those that the outputs tell apart.

    Raises:
        ValueError: If it is not.
    """
    counted = targets if term.ignored is None else targets[targets != tf.cast(term.ignored, targets.dtype)]
    if counted.shape.num_elements() == 0:
        return
    low, high = int(tf.reduce_min(counted)), int(tf.reduce_max(counted))
    if low < 0 or high >= classes:
        hint = "give all classes an output"
        if low == 1 and high == classes:
            hint = "subtract 1 from them"
        elif term.ignored is not None:
            hint = f"{term.ignored} marks those that do not count"
        raise ValueError(
            f"{term.name} wants classes 0 to {classes - 1}, as many as the model has outputs, but the targets hold "
            f"{low if low < 0 else high}; {hint}"
        )


def check_mean(term: Term, outputs: Any, targets: Any) -> None:
    """See that a loss of one number a batch does not add its samples up: twice the batch must not double it.

    What neither stays nor doubles (a contrast of samples within the batch, say) is left alone.

    Args:
        term: Of a function as the user gave it.
        outputs: Of the model, (b, ...).
        targets: Of the same samples.

    Raises:
        ValueError: If it does.
    """
    try:
        one, both = (term.values(each(double, outputs), each(double, targets)) for double in (tf.identity, _twice))
    except Exception:  # one that knows its batch size, say; what else is wrong shows when it is used
        return
    if not all(isinstance(value, tf.Tensor) and value.shape.rank == 0 for value in (one, both)):
        return
    first, second = float(one), float(both)
    if first and abs(second - 2 * first) < 1e-3 * abs(first):
        raise ValueError(
            f"a loss that is the mean of its batch was wanted, but {term.name} adds its samples up: the same batch "
            "twice gives twice as much; take the mean, or return a value a sample"
        )


def _twice(leaf: Tensor) -> Tensor:
    return tf.concat([leaf, leaf], 0) if leaf.shape.rank else leaf
