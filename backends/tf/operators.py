"""Hessian, generalised Gauss-Newton and empirical Fisher: which there are of a loss, and how much goes at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from gradvis.backends.tf.products import TOGETHER, Products

Tensor = Any
OPERATORS = ("hessian", "ggn", "fisher")
DOUBLE = "double backward"


@dataclass(frozen=True)
class Chosen:
    """How products are computed.

    Attributes:
        way: `double backward`: TensorFlow has no other that is right and faster.
        micro: The most samples at once. None: by the rule.
    """

    way: str = DOUBLE
    micro: int | None = None

    def again(self, how: Mapping[str, Any]) -> Chosen:
        """As an earlier run did it, where that says so."""
        return replace(self, micro=how.get("product_micro_batch") or self.micro)


def check(operator: str, sees_outputs: bool, per_sample: bool) -> None:
    """See that there is such an operator of the loss.

    Args:
        operator: Its name.
        sees_outputs: Whether the loss is one of outputs and targets.
        per_sample: Whether it gives a value a sample.

    Raises:
        ValueError: If there is not.
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(OPERATORS)}, but {operator!r} came")
    if operator != "hessian" and not sees_outputs:
        raise ValueError(
            f"operator={operator!r} needs the model's outputs, but batch_loss hides them; give loss=f(outputs, "
            "targets), or take operator='hessian'"
        )
    if operator == "fisher" and not per_sample:
        raise ValueError(
            "operator='fisher' needs the loss of each sample, but the loss gives the mean of its batch; let it "
            "return a value a sample"
        )


def samples_at_once(sample_bytes: int, vectors: int, room: int) -> int:
    """How many samples a product takes at once: a power of two.

    Only memory counts: with fewer samples than a bare forward pass takes at once, TensorFlow's products were slower.

    Args:
        sample_bytes: Activations of one sample, summed over the layers.
        vectors: How many go along.
        room: Bytes that may be taken in all.

    >>> samples_at_once(85_000, 10, 1 << 30)
    256
    """
    work = sample_bytes * (min(vectors, TOGETHER) + 1)
    most = max(room // max(4 * work, 1), 1)  # values and gradients, and the derivatives of both
    return int(1 << (most.bit_length() - 1))


def product(
    products: Products,
    chosen: Chosen,
    operator: str,
    theta: Tensor,
    vectors: Tensor,
    rest: Sequence[Tensor],
    batches: Iterable[tuple[int, Any]],
    counts: tuple[float, float] | None = None,
    micro: int | None = None,
) -> tuple[Tensor, Chosen]:
    """The mean over the data of an operator's products.

    Args:
        products: The graphs.
        chosen: How.
        operator: Its name.
        theta: Where, (d,).
        vectors: What is multiplied, (r, d).
        rest: The weights that are not moved.
        batches: On the device, with their numbers.
        counts: Samples and units of the whole, where the batches are a shard of it.
        micro: The most samples at once that the rule gives; None where batches must stay whole.

    Returns:
        mean: (r, d) in float64.
        chosen: As it came.
    """
    at_once = None if micro is None else min(chosen.micro or micro, micro)
    total, summed = products.summed(operator, theta, vectors, rest, batches, at_once)
    return mean(operator, total, summed if counts is None else tf.constant(counts, tf.float64)), chosen


def mean(operator: str, total: Tensor, counts: Tensor) -> Tensor:
    """Of the sums of products over the data, (r, d), from how many samples and units there are, (2,).

    The empirical Fisher is the mean over samples of g g'. A sample is an item of a batch, with all its tokens or
    pixels, and its own loss is such that the mean of them is the loss: the sum over its units, in units of the mean
    number (or weight) of units.
    """
    samples, units = tf.unstack(counts)
    return total * (samples / units**2) if operator == "fisher" else total / units
