"""How the forward pass is run: how many samples at once, in which layout, compiled or not.

None of it is chosen by the clock: results differ in their last bits with these choices, so a fixed
rule of layer kinds and activation bytes makes them, and the result records what was used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradvis.machine import memory

# Ours, tuned with benchmarks/surface.py. On a CPU the activations of all layers together may take this
# much: each layer's then stays near the caches, and calls stay few. An accelerator only has to be filled.
_CACHE_BYTES = 64 << 20
_ACCELERATOR_BYTES = 1 << 30
_FEWEST, _MOST = 16, 1 << 16


def find_device(name: str | torch.device, local_rank: int) -> torch.device:
    """The device of that name; `auto` and `cuda` take the local rank modulo the visible ones.

    Raises:
        ValueError: If there is none of that name here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and torch.cuda.is_available():
            device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"a device that is there was wanted, but {name} is not ({reason}); try --device cpu"
        ) from error
    return device


def free_memory(device: torch.device, ranks: int) -> int:
    """Bytes of it that one of so many ranks of this machine may count on."""
    if device.type != "cuda":
        return memory() // ranks
    sharing = -(-ranks // torch.cuda.device_count())
    return int(torch.cuda.mem_get_info(device)[0]) // sharing


def micro_batch(sample_bytes: int, device: torch.device) -> int:
    """How many samples go through the network at once: a power of two.

    Args:
        sample_bytes: Activations of one sample, summed over the layers.
        device: Where.

    >>> micro_batch(85_000, torch.device("cpu"))
    512
    """
    room = _CACHE_BYTES if device.type == "cpu" else _ACCELERATOR_BYTES
    fit = max(room // max(sample_bytes, 1), 1)
    return min(max(1 << (fit.bit_length() - 1), _FEWEST), _MOST)


@contextmanager
def activation_bytes(samples: int) -> Iterator[Callable[[], int]]:
    """Counts what layers without layers inside give out while it is open, in bytes a sample."""
    total = 0

    def count(layer: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, Tensor) and next(layer.children(), None) is None:
            total += output.nbytes

    handle = nn.modules.module.register_module_forward_hook(count)
    try:
        yield lambda: total // samples
    finally:
        handle.remove()


def channels_last(images: Any) -> Any:
    """Channels last in memory, (b, c, h, w), for a tensor of images; whatever else it is, it passes through.

    Strides are set by hand: for c = 1 torch leaves them, and then convolutions go the slow way.
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        return images
    _, c, h, w = images.shape
    out = torch.empty_strided(images.shape, (h * w * c, 1, w * c, c), dtype=images.dtype, device=images.device)
    return out.copy_(images)


def images_last(batch: Any) -> Any:
    """A pair with its inputs channels last."""
    return channels_last(batch[0]), batch[1]


def form(flat: Tensor, origin: Tensor, steps: list[Tensor], at: list[float]) -> None:
    """Set flat to origin + sum of at_i steps_i, in place."""
    flat.copy_(origin)
    for step, length in zip(steps, at, strict=True):
        flat.add_(step, alpha=length)


def derivative(value: Tensor, flat: Tensor, along: Tensor | None = None, **options: bool) -> Tensor:
    """Of a scalar, or of a vector along another; zero where the value does not depend on flat."""
    if not value.requires_grad:
        return torch.zeros_like(flat)
    return torch.autograd.grad(value, flat, along, materialize_grads=True, allow_unused=True, **options)[0]


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """`model(inputs)`; a tuple or list is spread over its arguments, a mapping over its keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


class Compiled:
    """A compiled forward pass that always sees one shape: a short batch is filled up and its surplus dropped."""

    def __init__(self, model: nn.Module, size: int) -> None:
        self.run, self.size = torch.compile(model, dynamic=False), size

    def __call__(self, inputs: Tensor) -> Any:
        """The outputs of the samples that came."""
        missing = self.size - len(inputs)
        if missing <= 0:
            return self.run(inputs)
        filled = _laid_out_like(torch.cat([inputs, inputs[:1].expand(missing, *inputs.shape[1:])]), inputs)
        return self.run(filled)[: len(inputs)]


def _laid_out_like(made: Tensor, like: Tensor) -> Tensor:
    """In the memory layout of another batch."""
    out = torch.empty_strided(made.shape, like.stride(), dtype=made.dtype, device=made.device)
    return out.copy_(made)
