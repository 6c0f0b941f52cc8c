"""Records training while it goes on: which steps, whose loss, and a ring of the latest for when it diverges.

A framework's backend subclasses `Recorder`: it takes the rows, and calls `stepped` after each optimizer step.
"""

from __future__ import annotations

import atexit
import os
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import isfinite, nan
from types import TracebackType
from typing import Any, Self

import numpy as np

from gradvis.arrays import Vector
from gradvis.notes import note
from gradvis.rows import Plan, Row, Rows, begin
from gradvis.stream import Stream, reason


@dataclass(frozen=True)
class Options:
    """How training is recorded; see `gradvis.record`.

    Attributes:
        out: The folder of the recording.
        every_n_steps: How many optimizer steps lie between two recorded ones.
        disk_budget: Bytes that the recording may take.
        total_steps: How many steps training will have taken at its end, if that is known.
        ring: How many of the latest steps are kept in memory, to be written when training diverges.
        ring_memory: Bytes that they may take there.
        objective: The objective that the recording names, `FILE.py:NAME`.
        step: From which training step an earlier recording is continued.
        fresh: Move an earlier recording aside.
    """

    out: str | os.PathLike[str]
    every_n_steps: int = 20
    disk_budget: int = 10 * 10**9
    total_steps: int | None = None
    ring: int = 50
    ring_memory: int = 256 * 2**20
    objective: str | None = None
    step: int | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        least = {"every_n_steps": 1, "disk_budget": 1, "total_steps": 1, "ring": 0, "ring_memory": 0, "step": 0}
        for name, bound in least.items():
            if (value := getattr(self, name)) is not None and value < bound:
                raise ValueError(f"{name} must be {bound} or more, but {value} came; leave it out for the default")


class Recorder(ABC):
    """Writes training to a recording; a context manager. Training itself goes on as if it were not there.

    It records where training stands when it is made, at every n-th optimizer step, and when it is closed. If
    writing fails, recording ends with a note, and training goes on.

    Attributes:
        options: How it records.
        step: How many optimizer steps have been taken.
        active: Whether it records: on rank 0, until it is closed.
    """

    def __init__(self, plan: Plan, options: Options, active: bool = True, counting: bool = True) -> None:
        self.options, self.active = options, False
        self.step = self._first = options.step or 0
        self._counting = counting  # whether steps are told by `stepped`
        self._before: bool | None = None  # whether losses are logged before their step; None until one is logged
        self._logged: list[Any] = []
        self._loss: float | None = None  # of the last step
        self._row: Row | None = None  # of the last step
        self._recorded: set[int] = set()
        self._full = self._diverged = False
        if active:
            self._begin(plan)

    def _begin(self, plan: Plan) -> None:
        options = self.options
        latest = min(options.ring, options.ring_memory // plan.row_bytes)
        self._ring = deque[Row](maxlen=latest)
        rows = begin(options.out, plan, options.objective, options.step, options.fresh, check=self._forecast)
        note(f"{rows.path.name}: {self._forecast(rows)}; {_kept(latest)}")
        self._stream = Stream(rows, options.disk_budget)
        weakref.finalize(self, self._stream.close).atexit = False  # see _close_at_exit
        self._keep(self._take())
        self.active = True
        _close_at_exit().add(self)

    def _forecast(self, rows: Rows) -> str:
        options = self.options
        return Stream(rows, options.disk_budget).forecast(options.every_n_steps, self._first, options.total_steps)

    @abstractmethod
    def _take(self, spare: Vector | None = None) -> Row:
        """Where training stands now; in memory that can be had again, if there is some: new memory takes longer."""

    def _detach(self) -> None:  # noqa: B027 - a loop without an optimizer has no hook
        """For backends: steps need not be told any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def log(self, loss: Any) -> None:
        """Tell the loss of a step: in each iteration once, before or after `optimizer.step()`, but always the same.

        Of several before a step, as where gradients are accumulated, the mean is taken; of several after it, the first.

        Args:
            loss: A number, or a tensor of one.

        Raises:
            TypeError: If it is something else.
        """
        count = loss.numel() if hasattr(loss, "numel") else np.size(loss)
        if count != 1 or isinstance(loss, (str, bytes)):
            raise TypeError(f"a loss is one number, but a {type(loss).__name__} of {count} came; log its mean")
        if self.active:
            if self._before is None:
                self._before = self.step == self._first
            self._logged.append(loss.detach().clone() if hasattr(loss, "detach") else loss)  # read when a GPU is done

    def save(self, step: int | None = None) -> None:
        """Record where training stands now.

        Args:
            step: How many steps training has taken. If not given: what the optimizer has taken, or, without an
                optimizer, one more than at the last call.

        Raises:
            ValueError: If steps go back.
        """
        now = self.step + (not self._counting) if step is None else step
        if now < self.step:
            raise ValueError(f"steps go up, but {now} came after {self.step}; to go back, record(..., step={now}) anew")
        self._guarded(lambda: self._advance(now, due=True) if now > self.step else self._again())

    def _again(self) -> None:
        self._row = self._take()
        self._label(self._row)
        self._keep(self._row)

    def _label(self, row: Row | None) -> None:
        if row is not None:
            row.loss = nan if self._loss is None else self._loss

    def stepped(self) -> None:
        """For backends: the optimizer has taken a step."""
        now = self.step + 1
        self._guarded(lambda: self._advance(now, due=now % self.options.every_n_steps == 0))

    def _advance(self, step: int, due: bool) -> None:
        self._settle()
        self.step = step
        self._loss = self._logged_loss() if self._before else None
        self._row = self._take(self._spare()) if (due and not self._full) or self._ring.maxlen else None
        self._label(self._row)
        if self._row is not None:
            self._ring.append(self._row)
            if due:
                self._keep(self._row)
        self._check()

    def _spare(self) -> Vector | None:
        """The memory of the row that leaves the ring, if it is not on its way to the disk."""
        if not self._ring.maxlen or len(self._ring) < self._ring.maxlen:
            return None
        oldest = self._ring.popleft()
        return None if oldest.step in self._recorded else oldest.parameters

    def _settle(self) -> None:
        """End the last step: what was logged after it is its loss, and its row is written."""
        if self._before is False and self._logged:
            self._loss = self._logged_loss()
            self._label(self._row)
            self._check()
        self._stream.release()

    def _logged_loss(self) -> float | None:
        """What was logged since the last step or, after it, first; None if nothing was."""
        logged = self._logged if self._before else self._logged[:1]
        self._logged = []
        return float(np.mean([float(loss) for loss in logged])) if logged else None

    def _keep(self, row: Row, last: bool = False) -> None:
        """Have a row written if there is room, with some left for the last one."""
        if self._stream.room() >= (1 if last else 2):
            self._stream.hold(row)
            self._recorded.add(row.step)
        elif not self._full:
            self._full, self._ring = True, deque(maxlen=0)
            note(f"{self._stream.limit()} is used up at step {row.step}: of the rest only the last step is recorded")

    def _check(self) -> None:
        """Write the ring when the loss, or without one the gradient, is not finite for the first time."""
        unlogged = self._before is None and self._row is not None and np.isinf(self._row.gradient_norm).any()
        if self._diverged or not (unlogged or (self._loss is not None and not isfinite(self._loss))):
            return
        self._diverged = True
        self._stream.release()
        missing = [row for row in self._ring if row.step not in self._recorded]
        rows = missing[max(0, len(missing) + 1 - self._stream.room()) :]
        self._ring = deque(maxlen=0)
        for row in rows:
            self._keep(row)
        self._stream.release()
        self._stream.say(first_nonfinite=self.step)
        what = "gradient" if unlogged else "loss"
        note(f"the {what} of step {self.step} is not finite: {len(rows)} more of the latest steps are recorded")

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something for the recording, which must not end training."""
        if not self.active:
            return
        try:
            action()
        except Exception as error:
            self._end(reason(error))
        else:
            if self._stream.failed:
                self._end()

    def close(self) -> None:
        """Record the last step if that is not done yet, and end. Training may go on, unrecorded."""
        self._guarded(self._finish)
        if self.active:
            self._end()

    def _finish(self) -> None:
        self._settle()
        if self.step not in self._recorded:
            row = self._take()
            self._label(row)
            self._keep(row, last=True)

    def _end(self, why: str = "") -> None:
        self.active = False
        self._detach()
        self._stream.close(complete=not why)
        self._ring.clear()
        if why := why or self._stream.failed:
            note(f"recording to {self._stream.name} has ended at step {self.step}, training goes on: {why}")


def _kept(latest: int) -> str:
    return f"the latest {latest} stay in memory for when training diverges" if latest else "no ring of the latest steps"


@cache
def _close_at_exit() -> weakref.WeakSet[Recorder]:
    """Recorders that will be closed when the program ends."""
    living, process = weakref.WeakSet[Recorder](), os.getpid()

    def close() -> None:
        for recorder in list(living) if os.getpid() == process else []:  # a worker of a DataLoader is another process
            recorder.close()

    atexit.register(close)
    return living
