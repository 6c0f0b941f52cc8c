"""Callbacks for Lightning and transformers; each class is made from the framework's own when it is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from torch import Tensor, nn

from gradvis.backends.pytorch.record import TorchRecorder, record

_LIGHTNING = ("lightning.pytorch", "pytorch_lightning")  # two trees of one library; a trainer takes its own


class _Recording:
    """What both have: a recorder while training goes on, and the losses of the batches of a step."""

    def __init__(self, out: str | os.PathLike[str], every_n_steps: int = 20, **options: Any) -> None:
        super().__init__()
        self.options = {"out": out, "every_n_steps": every_n_steps, **options}
        self.recorder: TorchRecorder | None = None
        self._losses: list[Any] = []

    def _start(self, model: nn.Module, optimizer: Any, step: int, total: float) -> None:
        self._finish()
        known = {"total_steps": int(total)} if 0 < total < float("inf") else {}
        begun = {"step": step} if step else {}
        self.recorder = record(model, optimizer, **{**known, **begun, **self.options})

    def _log(self, combine: Callable[[Any], Any]) -> None:
        losses, self._losses = self._losses, []
        if self.recorder is not None and losses:
            self.recorder.log(loss=float(combine([float(loss) for loss in losses])))

    def _finish(self) -> None:
        if self.recorder is not None:
            self.recorder.close()
        self.recorder = None


class _Lightning(_Recording):
    """Records a fit of Lightning; see `gradvis.record` for the options.

    The loss of a step is the mean over its batches of what `training_step` returns. Of several optimizers, the
    steps of the first count. A fit that goes on from a checkpoint continues the recording that is there.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        optimizers = trainer.optimizers
        total = trainer.estimated_stepping_batches if len(optimizers) == 1 else 0
        self._steps = trainer.global_step
        self._start(pl_module, optimizers, trainer.global_step // max(1, len(optimizers)), total)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):  # in an automatic optimization it has been divided by the batches of a step
            self._losses.append(
                loss.detach().clone() * (trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1)
            )
        if trainer.global_step != self._steps:
            self._steps = trainer.global_step
            self._log(np.mean)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._finish()


class _Transformers(_Recording):
    """Records a training of transformers' Trainer; see `gradvis.record` for the options.

    The loss of a step is the one that the model returns, over all the batches of the step; a Trainer that computes
    its loss elsewhere may tell it by `callback.recorder.log`. Training that goes on from a checkpoint continues the
    recording that is there.
    """

    _hook: Any = None
    _summed = False  # whether the batches of a step are divided by the items of all of them, and so add up

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **_: Any
    ) -> None:
        self._start(model, optimizer, state.global_step, state.max_steps)
        self._hook = model.register_forward_hook(self._see, with_kwargs=True)

    def _see(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any], outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        if model.training and isinstance(loss, Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach().clone())
            self._summed = kwargs.get("num_items_in_batch") is not None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._log(np.sum if self._summed else np.mean)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        super()._finish()


def __getattr__(name: str) -> Any:
    if name == "LightningCallback":
        return _made(name, _Lightning, import_module(_tree()).Callback)
    if name == "TransformersCallback":
        return _made(name, _Transformers, _transformers().TrainerCallback)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _made(name: str, ours: type, theirs: type) -> type:
    words = {"__module__": "gradvis.callbacks", "__qualname__": name, "__doc__": ours.__doc__}
    return type(name, (ours, theirs), words)


def _tree() -> str:
    """Which Lightning: the one that is imported already, else the one that is installed.

    Raises:
        ImportError: If none is.
    """
    for there in (sys.modules.__contains__, _is_installed):
        if found := [name for name in _LIGHTNING if there(name)]:
            return found[0]
    raise ImportError("LightningCallback needs Lightning; install it with: pip install lightning")


def _is_installed(name: str) -> bool:
    return find_spec(name.partition(".")[0]) is not None


def _transformers() -> Any:
    """The library.

    Raises:
        ImportError: If it is not installed.
    """
    if not _is_installed("transformers"):
        raise ImportError("TransformersCallback needs transformers; install it with: pip install transformers")
    return import_module("transformers")
