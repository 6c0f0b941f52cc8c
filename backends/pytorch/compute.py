"""How the forward pass is run: how many samples at once, in which layout, compiled or not.

None of it is chosen by the clock: results differ in their last bits with these choices, so a fixed
rule of layer kinds and activation bytes makes them, and the result records what was used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gradvis.machine import memory
from gradvis.notes import note

# Ours, tuned with benchmarks/surface.py. On a CPU the activations of all layers together may take this
# much: each layer's then stays near the caches, and calls stay few. An accelerator only has to be filled.
_CACHE_BYTES = 64 << 20
_ACCELERATOR_BYTES = 1 << 30
_FEWEST, _MOST = 16, 1 << 16
POINTS, _VMAP_WORK = 32, 1 << 20

W = TypeVar("W")


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


def pays_together(weights: int, samples: int | None) -> bool:
    """Whether several points of a plane should go through a dense net at once, by vmap.

    They should where single operations are so small that starting them is most of the work: few weights on
    few samples. The bound is ours: up to it the time fell below 0.7 of the plain loop.
    """
    return samples is not None and weights * samples <= _VMAP_WORK


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
    """What it computes; when the device runs out of memory, again with half as many samples at once.

    Args:
        compute: May be called several times.
        device: That runs out.
        size: How many samples go through at once; None where batches cannot be cut.
        halve: Takes half of it, for good.

    Raises:
        RuntimeError: If not even one sample fits.
    """
    while True:
        try:
            return compute()
        except torch.OutOfMemoryError as error:
            samples = size()
            if samples is None or samples == 1:
                came = "batches that cannot be cut; pass smaller ones" if samples is None else "one sample at a time"
                raise RuntimeError(f"{device} has not the memory for {came}") from error
        halve(samples // 2)  # out of the handler, which holds the tensors of the failed call
        note(f"{device} ran out of memory: going on with {samples // 2} samples at once in place of {samples}")
        if device.type == "cuda":
            torch.cuda.empty_cache()


def fastest(ways: Sequence[W], run: Callable[[W], Any], times: int = 3) -> W:
    """Of several ways of running, by the best of some times after a first one that warms up."""

    def seconds(way: W) -> float:
        run(way)
        found = []
        for _ in range(times):
            start = time.perf_counter()
            run(way)  # what it returns is on the CPU: nothing is left to wait for
            found.append(time.perf_counter() - start)
        return min(found)

    return min(ways, key=seconds)


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
