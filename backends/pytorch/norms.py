"""Batch norm under its three policies: stored statistics, those of each batch, or recalibrated at every point.

Recalibration is `torch.optim.swa_utils.update_bn` (Izmailov et al. 2018, "Averaging Weights Leads to Wider
Optima and Better Generalization", section 3.2) with each batch weighted by its samples: one pass over the
data in training mode, in which running mean and variance become averages over the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

POLICIES = ("eval", "batch", "recalibrate")
# Points made from several checkpoints have no statistics of their own.
SEVERAL = frozenset({"between", "pca"})


def chosen_policy(policy: str | None, layers: Sequence[Any], mixes: bool) -> str | None:
    """The policy of a model: the one asked for, else `eval`; None where it has no batch norm.

    Args:
        policy: The one that was asked for, if any.
        layers: The batch norms that keep running statistics.
        mixes: Whether there are others, which always take those of the batch.

    Raises:
        ValueError: If there is no such policy, or no statistics for it.
    """
    if policy is not None and policy not in POLICIES:
        raise ValueError(f"batch_norm must be one of {', '.join(POLICIES)}, but {policy!r} came")
    if layers:
        return policy or "eval"
    if mixes and policy in {"eval", "recalibrate"}:
        raise ValueError(
            f"batch_norm={policy!r} needs running statistics, but the batch norms of the model keep none "
            "(track_running_stats=False): leave the option out, or take 'batch'"
        )
    return "batch" if mixes else None


@contextmanager
def of_each_batch(layers: Sequence[Any]) -> Iterator[None]:
    """Inside, these layers normalise by the batch that they see; their running statistics stay still."""
    found = [(layer, layer.training, layer.track_running_stats) for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.track_running_stats = True, False
        with _alone():
            yield
    finally:
        for layer, training, track in found:
            layer.training, layer.track_running_stats = training, track


@contextmanager
def collecting(layers: Sequence[Any]) -> Iterator[Callable[[float], None]]:
    """Inside, these layers average their statistics over the batches that they see.

    Yields:
        A function to call before each batch: the weight of its statistics against all before it, 1 for the first.
    """
    found = [(layer, layer.training, layer.momentum) for layer in layers]

    def weigh(share: float) -> None:
        for layer in layers:
            layer.momentum = share

    try:
        for layer in layers:
            layer.training = True
        with _alone():
            yield weigh
    finally:
        for layer, training, momentum in found:
            layer.training, layer.momentum = training, momentum


@contextmanager
def _alone() -> Iterator[None]:
    """What torch says of a batch of one sample, with what to do.

    Raises:
        ValueError: That.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "batch norm wants batches of two samples at least, but one of a single sample came; take another batch "
            "size, so that the last batch has more, or batch_norm='eval'"
        ) from error


def statistics(layers: Sequence[nn.Module]) -> list[Tensor]:
    """Copies of their running means and variances."""
    return [buffer.clone() for buffer in _buffers(layers)]


def put(layers: Sequence[nn.Module], saved: Sequence[Tensor]) -> None:
    """Write running means and variances back."""
    for buffer, value in zip(_buffers(layers), saved, strict=True):
        buffer.copy_(value)


def _buffers(layers: Sequence[Any]) -> list[Tensor]:
    return [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
