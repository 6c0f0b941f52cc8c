"""Recording of PyTorch training loops: `gradvis.record`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import nan
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from gradvis.arrays import Vector
from gradvis.backends.formats import check_named
from gradvis.backends.pytorch.snapshot import Snapshots
from gradvis.recorder import Options, Recorder
from gradvis.rows import Row
from gradvis.schedule import launcher_rank


def record(
    model: nn.Module,
    optimizer: Any = None,
    *,
    out: str | os.PathLike[str],
    every_n_steps: int = 20,
    parameters: str | Iterable[str] = "*",
    dtype: str | torch.dtype | None = None,
    disk_budget: int = 10 * 10**9,
    total_steps: int | None = None,
    ring: int = 50,
    ring_memory: int = 256 * 2**20,
    objective: str | None = None,
    step: int | None = None,
    fresh: bool = False,
) -> TorchRecorder:
    """Record where training goes; see `gradvis.record`.

    Args:
        model: What is trained. Wrappers such as DDP and torch.compile are looked through.
        optimizer: Whose steps count; of several, the first. Without one, call `save`.
        out: The folder of the recording.
        every_n_steps: How many optimizer steps lie between two recorded ones.
        parameters: A glob, or several: which parameters are recorded. Buffers always are.
        dtype: `float16`, `float32` or `float64`: how parameters are stored. By default as they are; what NumPy
            does not have (bfloat16) as float32, which is exact.
        disk_budget: Bytes that the recording may take.
        total_steps: How many steps training will have taken at its end; if they do not fit, it is said at the start.
        ring: How many of the latest steps are kept in memory, to be written when training diverges.
        ring_memory: Bytes that they may take there.
        objective: `FILE.py:NAME`, a function that returns the Objective, so that commands need nothing else.
        step: From which training step an earlier recording is continued; what it had from there on does not count.
        fresh: Move an earlier recording aside.

    Returns:
        A context manager with `log(loss=...)`, `save()` and `close()`.

    Raises:
        ValueError: If an option is wrong, `out` is there already, or what is to be recorded does not fit.
        TypeError: If the optimizer is none.
    """
    check_named(objective)
    options = Options(out, every_n_steps, disk_budget, total_steps, ring, ring_memory, objective, step, fresh)
    patterns = [parameters] if isinstance(parameters, str) else list(parameters)
    return TorchRecorder(Snapshots(model, patterns, dtype), _innermost(optimizer), options)


class TorchRecorder(Recorder):
    """Records a module; a hook of its optimizer tells of steps. Of several processes, global rank 0 alone records."""

    def __init__(self, snapshots: Snapshots, optimizer: Optimizer | None, options: Options) -> None:
        self._snapshots = snapshots
        self._groups: list[dict[str, Any]] = [{}] if optimizer is None else optimizer.param_groups
        self._plan = snapshots.plan(len(self._groups))
        self._hook: Any = None
        super().__init__(self._plan, options, active=_rank() == 0, counting=optimizer is not None)
        if optimizer is not None and self.active:
            self._hook = optimizer.register_step_post_hook(lambda *_: self.stepped())

    def _detach(self) -> None:
        if self._hook is not None:
            self._hook.remove()

    @torch.no_grad()
    def _take(self, spare: Vector | None = None) -> Row:
        rates = [float(group.get("lr", nan)) for group in self._groups] + [nan] * self._plan.groups
        return Row(self.step, *self._snapshots.take(spare), np.array(rates[: self._plan.groups]))


def _innermost(optimizer: Any) -> Optimizer | None:
    """The first of several, without what trainers wrap around it: only its own hooks are called.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(optimizer, (list, tuple)) and optimizer:
        optimizer = optimizer[0]
    if isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        return _innermost(inner)
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, but {type(optimizer).__name__} came; or leave it out"
        )
    return optimizer


def _rank() -> int:
    """Which of the processes that train together this is."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return launcher_rank()
