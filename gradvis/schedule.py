"""Runs independent tasks, here or on many ranks; every rank makes the same calls and gets the same answers."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, NoReturn, Protocol, TypeVar

from gradvis.arrays import Matrix

T = TypeVar("T")
Progress = Callable[[int], None]


class TaskError(RuntimeError):
    """A task raised: which one, on which rank and host, and what it said. The same on every rank."""


class LaunchError(ValueError):
    """The launcher and the MPI library do not fit: more ranks were announced than MPI shows."""


class Terminated(BaseException):
    """SIGTERM, as an exception, so that files and MPI are left in order."""


_ENDINGS = ((KeyboardInterrupt, "interrupted", 130), (Terminated, "terminated", 143))


def ending(error: BaseException) -> tuple[str, int] | None:
    """The word and the exit status for a signal that ended the work; None if it was none.

    >>> ending(KeyboardInterrupt()), ending(ValueError())
    (('interrupted', 130), None)
    """
    return next(((word, status) for kind, word, status in _ENDINGS if isinstance(error, kind)), None)


def describe(index: int, rank: int, error: BaseException) -> str:
    """What a TaskError says: the context is added here, once."""
    name = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
    return f"task {index} failed on rank {rank} (host {socket.gethostname()}): {name}{str(error) or 'no message'}"


@dataclass(frozen=True)
class Cost:
    """What a job will take.

    Attributes:
        points: Evaluations of the whole data, or products with it.
        seconds: Wall-clock time on these ranks, from one that was timed.
        memory: Bytes a rank.
        files: How many lie in the result while it grows; some 40 remain.
    """

    points: int
    seconds: float
    memory: int
    files: int


class Scheduler(Protocol):
    """What a job needs of the machines it runs on.

    Attributes:
        rank: Which of the job's processes this is, from 0.
        size: How many there are.
        local_rank: Which of the processes on this machine, from 0.
        local_size: How many there are on this machine.
        cpu_sharers: How many of those may use some of the CPUs that this one may use, itself included.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    cpu_sharers: int

    @property
    def is_root(self) -> bool:
        """Whether this rank speaks for all: files are made, progress is shown and pictures are drawn here."""

    @property
    def host(self) -> str:
        """The name of this machine."""

    def share(self, make: Callable[[], T]) -> T:
        """What `make` returns on the root, on every rank; if it raises there, it raises everywhere."""

    def agree(self, facts: Mapping[str, str]) -> None:
        """Raise ValueError on every rank if these facts are not the same on all of them."""

    def gather(self, mine: T) -> list[T]:
        """What every rank brings, in their order, on every rank."""

    def map(self, task: Callable[[int], T], count: int, progress: Progress | None = None) -> list[T]:
        """`[task(0), ..., task(count - 1)]` on every rank; a rank that is free takes the next.

        Args:
            task: A number to a small picklable result.
            count: How many tasks there are.
            progress: Called on the root alone, with the number of tasks finished so far.

        Raises:
            TaskError: On every rank, if a task raises on one.
        """

    def add(self, mine: Matrix) -> Matrix:
        """The sum of what every rank brings, added in their order, the same bits on every rank."""

    def split(self, groups: int) -> AbstractContextManager[Scheduler]:
        """The ranks in so many groups, neighbours together; inside, this rank's group. All come to its end together."""

    def fail(self, line: str, code: int) -> NoReturn:
        """End the job with one line on standard error, whether one rank calls this or all do."""

    def abort(self, code: int) -> NoReturn:
        """End every rank at once."""


class Serial:
    """One rank: this process.

    >>> Serial().map(lambda i: i * i, 3)
    [0, 1, 4]
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    cpu_sharers = 1
    is_root = True

    @property
    def host(self) -> str:
        """The name of this machine."""
        return socket.gethostname()

    def share(self, make: Callable[[], T]) -> T:
        """What `make` returns."""
        return make()

    def agree(self, facts: Mapping[str, str]) -> None:
        """One rank agrees with itself."""

    def gather(self, mine: T) -> list[T]:
        """What this rank brings."""
        return [mine]

    def add(self, mine: Matrix) -> Matrix:
        """What this rank brings."""
        return mine

    def split(self, groups: int) -> AbstractContextManager[Serial]:
        """One rank is one group."""
        del groups
        return nullcontext(self)

    def map(self, task: Callable[[int], T], count: int, progress: Progress | None = None) -> list[T]:
        """The tasks in order; see `Scheduler.map`.

        Raises:
            TaskError: If a task raises.
        """
        results = []
        for index in range(count):
            try:
                results.append(task(index))
            except Exception as error:
                raise TaskError(describe(index, 0, error)) from error
            if progress is not None:
                progress(index + 1)
        return results

    def fail(self, line: str, code: int) -> NoReturn:
        """Print the line and leave."""
        print(line, file=sys.stderr, flush=True)
        self.abort(code)

    def abort(self, code: int) -> NoReturn:
        """Leave: there is nobody else to end.

        Raises:
            SystemExit: Always.
        """
        raise SystemExit(code)


def announced_ranks(environ: Mapping[str, str] = os.environ) -> int:
    """How many ranks the launcher says there are; 1 where nothing launched us.

    >>> announced_ranks({"PMI_SIZE": "4"}), announced_ranks({})
    (4, 1)
    """
    names = ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "WORLD_SIZE"]
    if "SLURM_STEP_ID" in environ:
        names.append("SLURM_STEP_NUM_TASKS")
    return max((int(environ[name]) for name in names if environ.get(name, "").isdigit()), default=1)


def launcher_rank(environ: Mapping[str, str] = os.environ) -> int:
    """Which rank the launcher takes this process for, from 0; 0 where it does not say.

    Where launcher and library do not fit, every process is rank 0 to MPI, and this tells who speaks.

    >>> launcher_rank({"OMPI_COMM_WORLD_RANK": "3"}), launcher_rank({"SLURM_PROCID": "2"})
    (3, 0)
    """
    names = ["PMI_RANK", "OMPI_COMM_WORLD_RANK"]
    if "SLURM_STEP_ID" in environ:
        names.append("SLURM_PROCID")
    names.append("RANK")
    return next((int(environ[name]) for name in names if environ.get(name, "").isdigit()), 0)


def together(
    product: Callable[[Matrix], Matrix], work: Callable[[Callable[[Matrix], Matrix]], T], scheduler: Scheduler
) -> T:
    """Work that one rank does with products to which every rank adds a share.

    The root alone decides what is multiplied and when it is enough, so that no rounding can make ranks disagree.

    Args:
        product: This rank's share of the product of several vectors, (r, d) to (r, d).
        work: Gets the product, the sum of the shares; called on the root.
        scheduler: Whose ranks these are.

    Returns:
        What `work` returns, on every rank.

    Raises:
        TaskError: On every rank, if a share fails on one.
    """

    def shares(vectors: Matrix) -> Matrix:
        part, failure = None, None
        try:
            part = product(vectors)
        except Exception as error:
            failure = f"a product failed on rank {scheduler.rank} (host {scheduler.host}): {error}"
        failures = [each for each in scheduler.gather(failure) if each]
        if part is None or failures:
            raise TaskError(failures[0])
        return scheduler.add(part)

    if scheduler.size == 1:
        return work(product)
    if scheduler.is_root:
        try:
            done = work(lambda vectors: shares(scheduler.share(lambda: vectors)))
        except TaskError:  # the others have it too
            raise
        except Exception as error:
            scheduler.share(partial(_raise, error))
        return scheduler.share(lambda: (done,))[0]
    while not isinstance(heard := scheduler.share(_silent), tuple):
        shares(heard)
    return heard[0]


def _raise(error: Exception) -> NoReturn:
    raise error


def _silent() -> Any:
    """What those give whom nobody asks."""


def default_scheduler() -> Scheduler:
    """MPI if we were launched with more than one rank, else serial; a plain notebook never starts MPI."""
    if announced_ranks() == 1:
        return Serial()
    scheduler: Scheduler = import_module("gradvis.mpi").world()
    return scheduler
