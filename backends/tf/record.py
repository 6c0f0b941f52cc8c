"""Recording of TensorFlow training loops: `gradvis.record`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import isnan, nan
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gradvis.arrays import Values, Vector
from gradvis.backends.formats import check_named
from gradvis.backends.tf.snapshot import Snapshots
from gradvis.notes import note
from gradvis.recorder import Options, Recorder
from gradvis.rows import Row
from gradvis.schedule import launcher_rank


def record(
    model: Any,
    optimizer: Any = None,
    *,
    out: str | os.PathLike[str],
    every_n_steps: int = 20,
    parameters: str | Iterable[str] = "*",
    dtype: Any = None,
    disk_budget: int = 10 * 10**9,
    total_steps: int | None = None,
    ring: int = 50,
    ring_memory: int = 256 * 2**20,
    objective: str | None = None,
    step: int | None = None,
    fresh: bool = False,
) -> KerasRecorder:
    """Record where training goes; see `gradvis.record`.

    Args:
        model: What is trained: a built `keras.Model`, or a `tf.Module`.
        optimizer: Whose `iterations` count; of several, the first. They are looked at in `log`, `stepped` and `save`:
            call one of these once an iteration, right after the step where statistics move in a forward pass. Without
            an optimizer, call `save`.
        out: The folder of the recording.
        every_n_steps: How many optimizer steps lie between two recorded ones.
        parameters: A glob, or several: which parameters are recorded. Moving statistics always are.
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
        A context manager with `log(loss=...)`, `stepped()`, `save()` and `close()`.

    Raises:
        ValueError: If an option is wrong, `out` is there already, or what is to be recorded does not fit.
        TypeError: If the optimizer is none.
    """
    check_named(objective)
    options = Options(out, every_n_steps, disk_budget, total_steps, ring, ring_memory, objective, step, fresh)
    patterns = [parameters] if isinstance(parameters, str) else list(parameters)
    return KerasRecorder(Snapshots(model, patterns, dtype), innermost(optimizer), options, is_chief(model))


class KerasRecorder(Recorder):
    """Records a model; an optimizer's `iterations` tell of steps, and so not of those that a loss scale skips.

    Gradient norms are known in `model.fit` alone: a loop of the user's own keeps its gradients to itself.
    """

    def __init__(self, snapshots: Snapshots, optimizer: Any, options: Options, chief: bool = True) -> None:
        self._snapshots, self._optimizer = snapshots, optimizer
        self._plan = snapshots.plan(1)
        self._norms: Values | None = None  # of the last step's gradients
        self._start = 0 if optimizer is None else whole(optimizer._iterations)  # batches, where gradients accumulate
        self._schedule: tuple[Any, Any] = None, None
        self._blind = False  # whether a step has shown no loss
        self._late = False  # whether steps are seen one forward pass late, which has been said
        self._offset = (options.step or 0) - self._iterations()
        super().__init__(self._plan, options, active=chief, counting=optimizer is not None)

    @property
    def parameters(self) -> list[Any]:
        """The variables that are recorded as parameters."""
        return list(self._snapshots.parameters.values())

    def _iterations(self) -> int:
        return 0 if self._optimizer is None else whole(self._optimizer.iterations)

    def log(self, loss: Any) -> None:
        """See `Recorder.log`; where the optimizer has taken a step since the last call, it is recorded.

        Args:
            loss: A number, or a tensor of one.

        Raises:
            TypeError: If it is something else, or a tensor of a graph that is being traced.
        """
        if tf.is_tensor(loss) and not hasattr(loss, "numpy"):
            raise TypeError(
                "a loss is a number, but a tensor of a graph came; return it from the tf.function and log it there"
            )
        before = self.step
        self.stepped()
        if self._before and self.step > before and self._plan.buffers and not self._late:
            self._late = True
            note(
                "losses are logged before their step: each step is seen at the next log, with the moving statistics of "
                "one forward pass more; log after the step, or call stepped() right after it"
            )
        super().log(tf.convert_to_tensor(loss) if isinstance(loss, (tf.Variable, keras.Variable)) else loss)

    def stepped(self) -> None:
        """Look whether the optimizer has taken a step: once an iteration, where no loss is logged."""
        self._guarded(self._look)

    def save(self, step: int | None = None) -> None:
        """See `Recorder.save`."""
        self.stepped()
        super().save(step)
        self._offset = self.step - self._iterations()

    def seen(self, shown: Values | None, batches: int) -> None:
        """For the callback: what a training step showed.

        Args:
            shown: See `Watch.run`.
            batches: How many it went over.
        """
        total, count, iterations, *norms = [nan] * 3 if shown is None else shown.tolist()
        self._norms = np.array(norms) if norms else None
        if isnan(iterations):  # the step has optimizers of its own
            self._optimizer = None
        if isnan(count) and self.active and not self._blind:
            self._blind = True
            note("the training step shows no loss of its batch (as `loss` in its logs): the recording will have none")
        if self.active and not isnan(count):
            self._before = True
            self._logged.append(total / count if count else 0.0)
        now = self.step + batches if isnan(iterations) else self._offset + int(iterations)
        self._guarded(lambda: self._look(now))

    def _look(self, now: int | None = None) -> None:
        if now is None:
            now = self.step if self._optimizer is None else self._offset + self._iterations()
        if now < self.step:
            raise ValueError(f"the optimizer has gone back to step {now}; record(..., step={now}) anew")
        if now > self.step:
            every = self.options.every_n_steps
            self._advance(now, due=now // every > self.step // every)

    def _finish(self) -> None:
        self._look()
        super()._finish()

    def _take(self, spare: Vector | None = None) -> Row:
        theta, raw = self._snapshots.take(spare)
        norms = np.full(len(self._plan.parameters), nan) if self._norms is None else self._norms
        return Row(self.step, theta, raw, norms, np.array([self._rate()]))

    def _rate(self) -> float:
        """The learning rate of the last step, of the first one before it was taken; NaN without an optimizer."""
        if self._optimizer is None:
            return nan
        rate = self._optimizer._learning_rate
        if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return float(tf.convert_to_tensor(self._optimizer.learning_rate))
        batches = tf.constant(max(whole(self._optimizer._iterations) - 1, self._start), tf.int64)
        if not type(rate).__module__.startswith("keras."):
            return float(rate(batches))  # one that the user wrote may not be for a graph
        if rate is not self._schedule[0]:
            self._schedule = rate, tf.function(rate.__call__, autograph=False)  # milliseconds become microseconds
        return float(self._schedule[1](batches))


def whole(number: Any) -> int:
    """A variable's value, also of one that replicas share."""
    return int(tf.convert_to_tensor(number))


def innermost(optimizer: Any) -> Any:
    """The first of several, without the loss scale around it, whose skipped steps are none.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(optimizer, (list, tuple)) and optimizer:
        optimizer = optimizer[0]
    if isinstance(inner := getattr(optimizer, "inner_optimizer", None), keras.optimizers.Optimizer):
        return innermost(inner)
    if optimizer is not None and not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"optimizer must be a keras.optimizers.Optimizer, but {type(optimizer).__name__} came; or leave it out"
        )
    return optimizer


def is_chief(model: Any) -> bool:
    """Whether this is the one of the processes that train together which writes."""
    strategy = getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return launcher_rank() == 0
    has_chief = "chief" in resolver.cluster_spec().jobs
    return bool(resolver.task_type == "chief" if has_chief else (resolver.task_type, resolver.task_id) == ("worker", 0))
