"""Batch norm under its three policies: stored statistics, those of each batch, or recalibrated at every point.

Recalibration is `torch.optim.swa_utils.update_bn` (Izmailov et al. 2018, "Averaging Weights Leads to Wider
Optima and Better Generalization", section 3.2) with each batch weighted by its samples: one pass over the
data with batch norms in training mode (dropout stays off), in which running mean and variance become averages
over the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gradvis.backends.policies import too_few

Seen = dict[nn.Module, int]  # by layer, how many samples its statistics come from


@contextmanager
def of_each_batch(layers: Sequence[Any]) -> Iterator[None]:
    """Inside, these layers normalise by the batch that they see; their running statistics stay still."""
    found = [(layer, layer.training, layer.track_running_stats) for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.track_running_stats = True, False
        with _told("batch"):
            yield
    finally:
        for layer, training, track in found:
            layer.training, layer.track_running_stats = training, track


@contextmanager
def collecting(layers: Sequence[Any]) -> Iterator[Callable[[int, Seen], None]]:
    """Inside, these layers average their statistics over all that they see, each batch weighted by its samples.

    A layer that runs several times in one forward pass averages over all of them, as in `update_bn`.

    Yields:
        A function to call before each batch, with its number of samples and with what each layer has seen before.
    """
    found = [(layer, layer.training, layer.track_running_stats, layer.momentum) for layer in layers]
    now: list[Any] = []

    def weigh(samples: int, seen: Seen) -> None:
        now[:] = samples, seen

    def see(layer: Any, _inputs: Any) -> None:
        samples, seen = now
        seen[layer] = seen.get(layer, 0) + samples
        layer.momentum = samples / seen[layer]

    handles = [layer.register_forward_pre_hook(see) for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.track_running_stats = True, True
        with _told("recalibrate"):
            yield weigh
    finally:
        for handle in handles:
            handle.remove()
        for layer, training, track, momentum in found:
            layer.training, layer.track_running_stats, layer.momentum = training, track, momentum


@contextmanager
def _told(policy: str) -> Iterator[None]:
    """A batch of one sample has no variance: torch says so, and not what to do.

    Raises:
        ValueError: That says it.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 " not in str(error):
            raise
        raise ValueError(too_few(policy)) from error


def statistics(layers: Sequence[nn.Module]) -> list[Tensor]:
    """Copies of their running means and variances."""
    return [buffer.clone() for buffer in _buffers(layers)]


def put(layers: Sequence[nn.Module], saved: Sequence[Tensor]) -> None:
    """Write running means and variances back."""
    for buffer, value in zip(_buffers(layers), saved, strict=True):
        buffer.copy_(value)


def _buffers(layers: Sequence[Any]) -> list[Tensor]:
    return [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
