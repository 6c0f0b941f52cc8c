"""What a few samples tell of a model before anything is measured: columns, layout, what a sample costs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradvis.backends.columns import columns
from gradvis.backends.pytorch.compute import activation_bytes, images_last, is_dense
from gradvis.backends.pytorch.criterion import Criterion
from gradvis.backends.pytorch.data import sample_count
from gradvis.backends.pytorch.layers import convolves_images
from gradvis.backends.pytorch.state import State
from gradvis.space import ParameterSpace

_UNKNOWN = 1 << 16  # bytes of activations a sample, where no layer is seen: scripts and exported programs


@dataclass(frozen=True)
class FirstLook:
    """What was found.

    Attributes:
        metrics: The columns of `evaluate`: a term with no per-sample values has no standard error.
        unit: Over what the mean goes: `sample`, or `unit` (a token, a pixel, a class weight).
        sample_bytes: Activations of one sample, summed over the layers.
        images: Whether inputs go channels last.
        together: Whether several points can go through at once.
    """

    metrics: tuple[str, ...]
    unit: str
    sample_bytes: int
    images: bool
    together: bool


def first_look(state: State, criterion: Criterion, batch: Any, threads: int | None, free: bool) -> FirstLook:
    """Run the model on a few samples.

    Args:
        state: The model.
        criterion: What is measured; sees that the outputs fit.
        batch: A few samples, placed.
        threads: Of torch.
        free: Whether the layout and the number of points that go together may be chosen: a pair of tensors that is
            not compiled for.
    """
    probe = partial(_probe, state, criterion, threads)
    with activation_bytes(sample_count(batch)) as cost:
        sums = probe(batch)
    return FirstLook(
        metrics=columns(criterion.names, sums[:, 0, 0].tolist()),
        unit="sample" if sums[0, 0, 0] == sums[0, 0, 1] else "unit",
        sample_bytes=cost() or _UNKNOWN,
        images=free and convolves_images(state.model) and _takes_channels_last(probe, batch),
        together=free and criterion.is_plain and is_dense(state.model) and _agrees(state, criterion, threads, batch),
    )


def _probe(state: State, criterion: Criterion, threads: int | None, batch: Any) -> Tensor:
    with torch.no_grad():
        return state.inside(state.flat(), lambda model, _: criterion.sums(model, 0, batch, first=True), threads)


def _takes_channels_last(probe: Callable[[Any], Tensor], batch: Any) -> bool:
    """Code such as x.view(len(x), -1) takes only contiguous images."""
    try:
        probe(images_last(batch))
    except (RuntimeError, ValueError):
        return False
    return True


def functional(
    model: nn.Module, space: ParameterSpace, criterion: Criterion, index: int = 0
) -> Callable[[Tensor, Any], Tensor]:
    """The sums over a batch as a function of parameters, (d,), and the batch, without writing to the model's own."""

    def measure(flat: Tensor, batch: Any) -> Tensor:
        views = {block.name: flat[block.slice].view(block.shape) for block in space}
        forward = partial(torch.func.functional_call, model, views)
        return criterion.sums(model, index, batch, lambda inputs: forward((inputs,)))

    return measure


def _agrees(state: State, criterion: Criterion, threads: int | None, batch: Any) -> bool:
    """Whether vmap runs the model without falling back to a loop, and finds the same; nothing random is in it."""
    flat = state.flat()

    def both(model: nn.Module, _: Callable[[], None]) -> Tensor:
        each, seeded = (functional(model, state.space, criterion, index) for index in (0, 1))
        together = torch.func.vmap(each, (0, None))(flat[None], batch)[0]
        return torch.stack([together, each(flat, batch), seeded(flat, batch)])

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns where it falls back
            together, once, again = state.inside(flat, both, threads)
    except (RuntimeError, ValueError, UserWarning):
        return False
    return torch.equal(once, again) and torch.allclose(together, once, rtol=1e-4)
