"""How the forward pass is run: where, in which layout, compiled or not; how much goes at once is in `backends.room`.

A fixed rule of layer kinds chooses the layout, not the clock: results differ in their last bits with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradvis.backends import room
from gradvis.machine import memory
from gradvis.notes import note


def find_device(name: str | torch.device, local_rank: int) -> torch.device:
    """The device of that name; `auto` and `cuda` take the local rank modulo the visible ones.

    AMD's are called `cuda` by torch; `rocm` and `rocm:N` mean the same here.

    Raises:
        ValueError: If there is none of that name here.
    """
    if not str(name) or str(name).startswith("meta"):
        raise ValueError(f"a device that computes was wanted, but {str(name)!r} came; try --device cpu")
    name = str(name).replace("rocm", "cuda") if torch.version.hip else name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and torch.cuda.is_available():
            device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"a device that is there was wanted, but {name} is not ({reason}); try --device cpu"
        ) from error
    return device


def free_memory(device: torch.device, ranks: int) -> int:
    """Bytes of it that one of so many ranks of this machine may count on."""
    if device.type != "cuda":
        return memory() // ranks
    sharing = -(-ranks // torch.cuda.device_count())
    if sharing > 1:
        note(f"{sharing} ranks share {device}: each takes its part of the memory")
    return int(torch.cuda.mem_get_info(device)[0]) // sharing


def is_dense(model: nn.Module) -> bool:
    """Whether vmap runs all its layers fast: dense ones, and what goes element by element."""
    return all(map(_is_dense, model.modules()))


def _is_dense(layer: nn.Module) -> bool:
    elementwise = type(layer).__module__ == "torch.nn.modules.activation" and not isinstance(
        layer, nn.MultiheadAttention
    )
    holds = next(layer.parameters(recurse=False), None) is None and next(layer.buffers(recurse=False), None) is None
    container = holds and next(layer.children(), None) is not None
    return elementwise or container or isinstance(layer, (nn.Linear, nn.Flatten, nn.Identity, nn.Dropout, nn.LayerNorm))


def with_room(
    compute: Callable[[], Tensor], device: torch.device, size: Callable[[], int | None], halve: Callable[[int], None]
) -> Tensor:
    """What it computes, with fewer samples at once when the device runs out of memory: see `backends.room`."""
    empty = torch.cuda.empty_cache if device.type == "cuda" else None
    return room.with_room(compute, str(device), size, halve, torch.OutOfMemoryError, empty)


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


def images_first(batch: Any) -> Any:
    """A pair with its inputs channels first: products, where vectors are channels too, take 0.8 of the time [CPU]."""
    return torch.empty(batch[0].shape, dtype=batch[0].dtype, device=batch[0].device).copy_(batch[0]), batch[1]


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """`model(inputs)`; a tuple or list is spread over its arguments, a mapping over its keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


class Compiled:
    """A compiled forward pass that always sees one shape: a short batch is filled up and its surplus dropped."""

    def __init__(self, model: nn.Module) -> None:
        self.run = torch.compile(model, dynamic=False)

    def __call__(self, inputs: Tensor, size: int) -> Any:
        """The outputs of the samples that came, of batches of so many."""
        missing = size - len(inputs)
        if missing <= 0:
            return self.run(inputs)
        filled = _laid_out_like(torch.cat([inputs, inputs[:1].expand(missing, *inputs.shape[1:])]), inputs)
        return self.run(filled)[: len(inputs)]


def _laid_out_like(made: Tensor, like: Tensor) -> Tensor:
    """In the memory layout of another batch."""
    out = torch.empty_strided(made.shape, like.stride(), dtype=made.dtype, device=made.device)
    return out.copy_(made)
