"""Batch norm under its three policies: stored statistics, those of each batch, or recalibrated at every point.

Recalibration is one pass over the data with batch norms in training mode (dropout stays off), in which mean and
variance become averages over the batches, each weighted by its samples (Izmailov et al. 2018, "Averaging Weights
Leads to Wider Optima and Better Generalization", section 3.2). The variance is the unbiased one, as PyTorch stores
it, so that both frameworks give the same numbers. Layers with `trainable=False` keep the statistics that they have:
that is what Keras means by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import tensorflow as tf

from gradvis.backends.policies import too_few
from gradvis.backends.tf.data import size

Tensor = Any
Seen = dict[int, list[tuple[Tensor, Tensor]]]  # by the id of a layer, mean and variance of each time that it ran


@contextmanager
def of_each_batch(layers: Sequence[Any], policy: str) -> Iterator[Seen]:
    """Inside, these layers normalise by the batch that they see, as in training; for the time of tracing.

    Args:
        layers: The batch norms.
        policy: Named where a batch has no variance.

    Yields:
        What they have seen, filled as they run.
    """
    seen: Seen = {}
    found, graph = [(layer, layer.momentum) for layer in layers], tf.compat.v1.get_default_graph()
    try:
        for layer in layers:
            vars(layer)["call"] = _training(layer, layer.call, policy, seen, graph)
            vars(layer)["momentum"] = 0.0  # what it assigns to its statistics is then the batch's own
        yield seen
    finally:
        for layer, momentum in found:
            del vars(layer)["call"]
            vars(layer)["momentum"] = momentum


def _training(layer: Any, call: Callable[..., Tensor], policy: str, seen: Seen, graph: Any) -> Callable[..., Tensor]:
    def called(inputs: Tensor, *arguments: Any, **named: Any) -> Tensor:
        mask = named.get("mask")
        count = _values(inputs, mask, layer.axis)
        if layer.trainable and isinstance(count, int) and count < 2:
            raise _told(too_few(policy))
        if layer.trainable and policy == "recalibrate" and tf.compat.v1.get_default_graph() is not graph:
            raise _told(
                "batch norms outside of loops and branches were wanted, as batch_norm='recalibrate' takes their "
                f"statistics out, but {layer.name} runs inside one; build its RNN with unroll=True, or take "
                "batch_norm='eval'"
            )
        outputs = call(inputs, *arguments, **{**named, "training": True})
        if layer.trainable:
            mean, variance = (tf.cast(each.value, tf.float64) for each in (layer.moving_mean, layer.moving_variance))
            share = tf.cast(count, tf.float64)
            seen.setdefault(id(layer), []).append((mean, variance * share / (share - 1)))
        return outputs

    return called


def _told(sentence: str) -> ValueError:
    """What Keras would make many lines of, or go on."""
    error = ValueError(sentence)
    error._keras_call_info_injected = True  # type: ignore[attr-defined]  # what Keras itself looks at
    return error


def _values(inputs: Tensor, mask: Tensor | None, axis: int) -> int | Tensor:
    """Of how many values a channel's statistics are made."""
    if mask is not None:
        return tf.reduce_sum(tf.cast(mask, tf.float64))
    if None in inputs.shape:
        return tf.size(inputs) // tf.shape(inputs)[axis]
    return prod(inputs.shape) // inputs.shape[axis]


def statistics(layers: Sequence[Any], seen: Seen) -> list[tuple[Tensor, Tensor] | None]:
    """Mean and variance of each layer over all that it saw in one pass, in float64; None where it did not run."""

    def mean(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        means, variances = zip(*pairs, strict=True)
        return tf.add_n(means) / len(means), tf.add_n(variances) / len(variances)

    return [mean(seen[id(layer)]) if id(layer) in seen else None for layer in layers]


def in_company(batches: Iterable[Any]) -> Iterator[Any]:
    """The same batches, one of a single sample as part of the one before it."""
    before: Any = None
    for batch in batches:
        if before is None:
            before = batch
        elif size(batch) == 1:
            before = tf.nest.map_structure(_put_together, before, batch)
        else:
            yield before
            before = batch
    if before is not None:
        yield before


def _put_together(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else tf.concat([first, second], 0)


def weighted(
    layers: Sequence[Any], rest: Sequence[Any], values: Sequence[Tensor], seen: Sequence[tuple[int, Any]]
) -> list[Tensor]:
    """The buffers with the statistics that a pass has seen.

    Args:
        layers: The batch norms.
        rest: The variables that are buffers.
        values: What they hold.
        seen: Of each batch, how many samples it has and what `statistics` found.
    """
    total = sum(count for count, _ in seen)

    def mean(layer: int, which: int) -> Tensor:
        return tf.add_n([found[layer][which] * (count / total) for count, found in seen])

    new = {
        id(variable): mean(index, which)
        for index, layer in enumerate(layers)
        if seen[0][1][index] is not None
        for which, variable in enumerate((layer.moving_mean, layer.moving_variance))
    }
    return [tf.cast(new.get(id(v), value), value.dtype) for v, value in zip(rest, values, strict=True)]
