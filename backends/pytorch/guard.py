"""Leaves everything of the user's as it was found: modes, random generators, precision flags, threads."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Without gradients, nn.TransformerEncoder goes over nested tensors, which makes zeros of what stands at padded
# places; with gradients it does not. Off, there is one function, the one that was trained.
_OFF = ("training", "use_nested_tensor")


@contextmanager
def untouched(model: nn.Module, threads: int | None) -> Iterator[None]:
    """Inside: evaluation mode, IEEE float32, deterministic kernels; afterwards, also after an exception: as found."""
    modes = {(layer, name): getattr(layer, name) for layer in model.modules() for name in _OFF if hasattr(layer, name)}
    put_back = remembered(model)
    count = torch.get_num_threads()
    try:
        with generators_kept(), _exact():
            for layer, name in modes:
                setattr(layer, name, False)
            if threads is not None:
                torch.set_num_threads(threads)
            yield
    finally:
        for (layer, name), mode in modes.items():
            setattr(layer, name, mode)
        put_back()
        if threads is not None:
            torch.set_num_threads(count)


def remembered(model: nn.Module) -> Callable[[], None]:
    """A function that undoes what forward passes did since to the attributes of layers.

    They assign states that they carry on, masks that they keep, buffers that they compute anew, and the
    weight of old-style weight norm; and they draw from generators of their own. What lists and dicts hold,
    and what is written into a tensor, is not looked at.
    """
    tables: list[dict[str, Any]] = [
        table for layer in model.modules() for table in (vars(layer), layer._parameters, layer._buffers)
    ]
    found = [table.copy() for table in tables]
    rewinds = [back for table in tables for value in table.values() if (back := _rewind(value))]

    def put_back() -> None:
        for rewind in rewinds:
            rewind()
        for now, before in zip(tables, found, strict=True):
            if len(now) == len(before) and all(map(is_, now.values(), before.values())):
                continue
            for name in {name for table in (now, before) for name, value in table.items() if isinstance(value, Tensor)}:
                if name in before:
                    now[name] = before[name]
                else:
                    del now[name]

    return put_back


def _rewind(value: Any) -> Callable[[], Any] | None:
    """Puts a random generator back to where it is now; None for anything else."""
    if type(value) is torch.Generator:  # isinstance would ask its metaclass, for every attribute of every layer
        return partial(value.set_state, value.get_state())
    if type(value) is np.random.Generator:
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    return None


@contextmanager
def generators_kept() -> Iterator[None]:
    """The global random generators of Python, NumPy and torch are as found afterwards; loaders draw from them too."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is the user's, to be put back
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def _exact() -> Iterator[None]:
    """TF32 off, cuDNN deterministic and not timing its choices."""
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    found = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = False, True, False
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = found


def seed_forward(index: int, device: torch.device) -> None:
    """Before a batch: a model that draws random numbers in evaluation mode draws the same ones each time."""
    random.seed(index)
    np.random.seed(index)  # noqa: NPY002 - the model under test may use the global generator
    if device.type == "cpu":
        torch.default_generator.manual_seed(index)  # torch.manual_seed asks every accelerator first: 0.3 ms
    else:
        torch.manual_seed(index)
