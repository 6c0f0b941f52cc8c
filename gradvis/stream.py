"""Rows on their way into a recording: written by one thread, while no more than a few wait, within a disk budget."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from math import ceil
from queue import SimpleQueue
from typing import Any

from gradvis.rows import Row, Rows

_WAITING = 2  # rows: memory stays bounded
_SPARE = 2**24  # bytes of the disk that stay free


class Stream:
    """Writes rows in the background; what fails there is told by `failed`, never raised.

    Attributes:
        name: What messages call the recording.
        failed: Why writing ended; empty if it did not.
    """

    def __init__(self, rows: Rows, budget: int) -> None:
        self.name, self.failed = rows.path.name, ""
        self._rows, self._budget, self._left = rows, budget, budget - rows.used
        self._held: Row | None = None
        self._todo: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._free = threading.Semaphore(_WAITING)
        self._process, self._closed = os.getpid(), False
        self._thread = threading.Thread(target=self._write, name="gradvis recorder", daemon=True)

    def room(self) -> int:
        """How many more rows the budget and the disk hold."""
        return min(self._left, self._disk()) // self._rows.row_bytes - (self._held is not None)

    def _disk(self) -> int:
        return shutil.disk_usage(self._rows.path).free - _SPARE - (_WAITING + 1) * self._rows.row_bytes

    def limit(self) -> str:
        """What sets the room, in words."""
        disk = self._disk()
        return f"disk_budget ({size(self._budget)})" if self._left <= disk else f"the disk ({size(max(disk, 0))} free)"

    def forecast(self, every: int, first: int, total: int | None) -> str:
        """What recording will take, in a sentence.

        Args:
            every: How many steps lie between two recorded ones.
            first: The step from which it records.
            total: How many steps training will have taken; None if nobody knows.

        Raises:
            ValueError: If it does not fit.
        """
        rows, each = self.room(), size(self._rows.row_bytes)
        if rows < 2:
            raise ValueError(
                f"two recorded steps at least must fit, but a step takes {each} and {self.limit()} holds "
                f"{max(rows, 0)}; raise it, or record fewer parameters, or dtype='float16'"
            )
        start = f"a recorded step takes {each}"
        if total is None:
            steps = _about((rows - 1) * every)
            return f"{start}, and {self.limit()} holds {_about(rows - 1)} of them: {steps} training steps"
        wanted = total // every - first // every + 1 + bool(total % every)
        if wanted > rows:
            fits = ceil((total - first) / (rows - 2)) if rows > 2 else total
            raise ValueError(
                f"{wanted} recorded steps of {each} must fit, but {self.limit()} holds {rows}; give "
                f"every_n_steps={fits} or more, or raise it"
            )
        return f"{start}, all {wanted} of them {size(wanted * self._rows.row_bytes)}; {self.limit()} holds {rows}"

    def hold(self, row: Row) -> None:
        """Take a row to be written; its loss may still be set until `release`."""
        if self._held is not None and self._held.step != row.step:
            self.release()
        self._held = row
        if not self._thread.is_alive():
            self._thread.start()

    def release(self) -> None:
        """Send the row that is held on its way; waits while too many wait."""
        if self._held is not None:
            if threading.current_thread() is not self._thread:  # as happens if it collects garbage
                self._free.acquire()
            self._left -= self._rows.row_bytes
            self._todo.put(partial(self._append, self._held))
            self._held = None

    def _append(self, row: Row) -> None:
        try:
            self._rows.append(row)
        finally:
            self._free.release()

    def say(self, **facts: Any) -> None:
        """Add to what the recording says of itself, after the rows that wait."""
        self._todo.put(partial(self._rows.say, **facts))

    def close(self, complete: bool = True) -> None:
        """Write what waits, and end. Nothing happens in a process that was forked, nor a second time.

        Args:
            complete: Whether recording ends as it should.
        """
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        self.release()
        self.say(complete=complete)
        self._todo.put(None)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _write(self) -> None:
        while (task := self._todo.get()) is not None:
            try:
                if self.failed:
                    self._free.release()  # a row that waits is dropped
                else:
                    task()
            except Exception as error:
                self.failed = reason(error)


def reason(error: Exception) -> str:
    """Why, in one line, without the paths of a system's message."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    return f"{said or type(error).__name__:.200}"


def _about(count: int) -> str:
    """A whole number in words, three digits of it.

    >>> _about(658096), _about(123)
    ('658,000', '123')
    """
    return f"{int(float(f'{count:.3g}')):,}"


def size(count: float) -> str:
    """Bytes in words.

    >>> size(44_000_260), size(10 * 10**9), size(12)
    ('44 MB', '10 GB', '12 bytes')
    """
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{count} bytes"
