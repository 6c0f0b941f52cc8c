"""Products with the Hessian, the Gauss-Newton matrix and the empirical Fisher, mean over the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from gradvis.backends.operators import mean
from gradvis.backends.tf.products import Products

Tensor = Any
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


def product(
    products: Products,
    operator: str,
    theta: Tensor,
    vectors: Tensor,
    rest: Sequence[Tensor],
    batches: Iterable[tuple[int, Any]],
    counts: tuple[float, float] | None = None,
    micro: int | None = None,
) -> Tensor:
    """The mean over the data of an operator's products.

    Args:
        products: The graphs.
        operator: Its name.
        theta: Where, (d,).
        vectors: What is multiplied, (r, d).
        rest: The weights that are not moved.
        batches: On the device, with their numbers.
        counts: Samples and units of the whole, where the batches are a shard of it.
        micro: The most samples at once; None where batches must stay whole.

    Returns:
        (r, d), in float64.
    """
    total, summed = products.summed(operator, theta, vectors, rest, batches, micro)
    return mean(operator, total, summed if counts is None else tf.constant(counts, tf.float64))
