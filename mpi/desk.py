"""What is left to do, and who has been told: the root's side of one map over MPI."""

from __future__ import annotations

import socket
import threading
import time
import traceback

from gradvis.schedule import Progress, TaskError

STOP = -1

GRACE = 10.0
"""Seconds that a rank may go on computing after another's task has raised."""


class Desk:
    """Hands out the numbers of one map and counts what is done; lives on the root, used from two threads.

    Attributes:
        failure: Why no more tasks are handed out, if one failed.
        stopped: How many ranks have been told that there are no more.
    """

    def __init__(self, count: int, progress: Progress | None) -> None:
        self.count, self.progress = count, progress
        self.failure: TaskError | None = None
        self.stopped = 0
        self._given = self._finished = 0
        self._deadline = float("inf")
        self._lock = threading.Lock()

    def next(self, outcome: TaskError | bool) -> int:
        """The next number or STOP, in return for the outcome of the last one: finished, none yet, or an error."""
        with self._lock:
            if isinstance(outcome, TaskError):
                self._fail(outcome)
            elif outcome:
                self._count()
            if self.failure is not None or self._given >= self.count:
                self.stopped += 1
                return STOP
            self._given += 1
            return self._given - 1

    def overdue(self) -> bool:
        """Whether a task has failed so long ago that the ranks still missing are not worth waiting for."""
        return time.monotonic() > self._deadline

    def _count(self) -> None:
        self._finished += 1
        if self.progress is None or self.failure is not None:
            return
        try:
            self.progress(self._finished)
        except Exception as error:
            where = f"rank 0 (host {socket.gethostname()})"
            self._fail(remember(f"the progress callback failed on {where}: {type(error).__name__}: {error}"))

    def _fail(self, error: TaskError) -> None:
        if self.failure is None:  # the first one speaks for all
            self.failure, self._deadline = error, time.monotonic() + GRACE


def remember(text: str) -> TaskError:
    """The error for all ranks, with the traceback of the one that is being handled as its note."""
    error = TaskError(text)
    error.add_note(traceback.format_exc())
    return error
