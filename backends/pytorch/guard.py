"""Leaves everything of the user's as it was found: modes, random generators, precision flags, threads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def untouched(model: nn.Module, threads: int | None) -> Iterator[None]:
    """Inside: evaluation mode, IEEE float32, deterministic kernels; afterwards, also after an exception: as found."""
    modes = {layer: layer.training for layer in model.modules()}
    count = torch.get_num_threads()
    try:
        with generators_kept(), _exact():
            for layer in modes:
                layer.training = False
            if threads is not None:
                torch.set_num_threads(threads)
            yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
        if threads is not None:
            torch.set_num_threads(count)


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
