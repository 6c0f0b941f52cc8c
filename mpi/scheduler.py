"""Tasks over the ranks of an MPI communicator.

Rank 0 hands out task numbers from a thread while its main thread computes like everybody
else's. Whoever waits looks, sleeps half a millisecond and looks again: MPI's own waiting
keeps a core busy that another rank may be computing on.
"""

from __future__ import annotations

import pickle
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
from mpi4py import MPI

from gradvis import machine
from gradvis.arrays import Matrix
from gradvis.mpi.desk import STOP, Desk, remember
from gradvis.schedule import Progress, TaskError, describe, ending

T = TypeVar("T")

PAUSE = 0.0005
"""Seconds between two looks; requests are then answered in about a millisecond."""

TOGETHER = 3.0
"""Seconds within which an error of all ranks reaches all ranks."""

TURN = 0.5
"""Seconds by which a rank waits longer than the one before: the first of those that failed speaks, and ends all."""

LAST_WORDS = 0.2
"""Seconds for the launcher to pass on what was printed: some is lost if an abort follows at once [seen: MPICH 5.0]."""

_REQUEST, _ANSWER, _SUM = 1, 2, 3
_ADVICE = {"data": "seed what draws or shuffles the samples, or read them from one file in a fixed order"}


class Ranks:
    """A Scheduler over the ranks of a communicator; see `gradvis.schedule.Scheduler` for its methods.

    Args:
        comm: Whose ranks these are. It is duplicated, so that nothing of the caller's is in the way.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm, self._failed, self._ended = comm.Dup(), comm.Dup(), comm.Dup()
        self.rank, self.size = comm.rank, comm.size
        self.is_root = self.rank == 0
        self.host = socket.gethostname()
        local = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = local.rank, local.size
        mine = machine.affinity()
        self.cpu_sharers = sum(bool(mine & theirs) for theirs in local.allgather(mine))
        local.Free()

    def share(self, make: Callable[[], T]) -> T:
        """What `make` returns on the root, on every rank; if it raises there, it raises everywhere."""
        with self._all_end():
            if self.is_root:
                return self._publish(make)
            made, value = pickle.loads(self._broadcast(b""))
            if made:
                shared: T = value
                return shared
            raise value

    def agree(self, facts: Mapping[str, str]) -> None:
        """Raise ValueError on every rank if these facts are not the same on all of them.

        Raises:
            ValueError: The same line everywhere: which fact differs, and between which ranks.
        """
        every = self.gather(dict(facts))
        for name in sorted(set().union(*every)):
            others = [rank for rank, theirs in enumerate(every) if theirs.get(name) != every[0].get(name)]
            if others:
                raise ValueError(
                    f"all ranks must work on the same {name}, but {_have(others)} others than rank 0: "
                    f"{_ADVICE.get(name, 'seed the objective (torch.manual_seed) or load a checkpoint')}"
                )

    def gather(self, mine: T) -> list[T]:
        """What every rank brings, in their order, on every rank; small and picklable."""
        with self._all_end():
            return self._gather(mine)

    def map(self, task: Callable[[int], T], count: int, progress: Progress | None = None) -> list[T]:
        """`[task(0), ..., task(count - 1)]` on every rank; see `Scheduler.map`.

        Results travel pickled and are the same bytes on every rank, the one that made them included.

        Raises:
            TaskError: On every rank, if a task raises on one.
        """
        with self._all_end():
            if self.is_root:
                desk = Desk(count, progress)
                with self._open(desk):
                    done = self._work(task, desk.next)
                every = self._gather((done, desk.failure))
            else:
                every = self._gather((self._work(task, self._ask), None))
        failure = every[0][1]
        if failure is not None:
            raise failure
        results = dict(pair for done, _ in every for pair in done)
        return [pickle.loads(results[index]) for index in sorted(results)]

    def add(self, mine: Matrix) -> Matrix:
        """The sum of what every rank brings, added in their order, the same bits on every rank."""
        with self._all_end():
            total = np.array(mine, order="C")
            _poll(self._comm.Ibarrier().Test)
            if self.is_root:
                other = np.empty_like(total)
                for rank in range(1, self.size):
                    self._comm.Recv(other, rank, _SUM)
                    total += other
            else:
                self._comm.Send(total, 0, _SUM)
            self._comm.Bcast(total)
            return total

    @contextmanager
    def split(self, groups: int) -> Iterator[Ranks]:
        """The ranks in so many groups, neighbours together; inside, this rank's group. All come to its end together."""
        part = MPI.Intracomm(self._comm.Split(self.rank * groups // self.size, self.rank))
        group = Ranks(part)
        yield group
        # Not after an error, which others may not have: to free is for all at once, too.
        for comm in (part, group._comm, group._failed, group._ended):
            comm.Free()

    def together(self, seconds: float = TOGETHER) -> bool:
        """Whether every rank calls this within some seconds: then an error is everybody's, and the root speaks.

        After a no, `abort` is all that is left: the others' next calls would meet this one's.
        """
        return _poll(self._failed.Ibarrier().Test, seconds + TURN * min(self.rank, 4))

    def fail(self, line: str, code: int) -> NoReturn:
        """End the job with one line on standard error, whether one rank calls this or all do.

        Raises:
            SystemExit: If all do; otherwise every rank is ended at once.
        """
        everybody = self.together()
        if self.is_root or not everybody:
            print(line, file=sys.stderr, flush=True)
        if everybody:
            raise SystemExit(code)
        self.abort(code)

    def abort(self, code: int) -> NoReturn:
        """End every rank at once.

        Raises:
            SystemExit: Never: MPI does not return.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(LAST_WORDS)
        MPI.COMM_WORLD.Abort(code)
        raise SystemExit(code)

    def leave(self) -> None:
        """Wait for the end of all ranks, as MPI_Finalize would, but without a busy core."""
        _poll(self._ended.Ibarrier().Test)

    def _work(self, task: Callable[[int], T], ask: Callable[[TaskError | bool], int]) -> list[tuple[int, bytes]]:
        """Compute what is handed out until there is no more: numbers and pickled results."""
        done: list[tuple[int, bytes]] = []
        outcome: TaskError | bool = False
        while (index := ask(outcome)) != STOP:
            try:
                done.append((index, pickle.dumps(task(index))))
                outcome = True
            except Exception as error:
                outcome = remember(describe(index, self.rank, error))
        return done

    def _ask(self, outcome: TaskError | bool) -> int:
        """What `Desk.next` says on the root."""
        self._comm.send(outcome, 0, _REQUEST)
        _poll(lambda: self._comm.Iprobe(0, _ANSWER))
        index: int = self._comm.recv(source=0, tag=_ANSWER)
        return index

    @contextmanager
    def _open(self, desk: Desk) -> Iterator[None]:
        """Serve the other ranks while the body runs, and then until all have been told to stop."""
        closed = threading.Event()
        server = threading.Thread(target=self._serve, args=(desk, closed), name="gradvis-desk", daemon=True)
        server.start()
        try:
            yield
            server.join()
        finally:
            closed.set()
            server.join()

    def _serve(self, desk: Desk, closed: threading.Event) -> None:
        status = MPI.Status()
        try:
            while desk.stopped < self.size and not closed.is_set():
                if self._comm.Iprobe(MPI.ANY_SOURCE, _REQUEST, status):
                    outcome = self._comm.recv(source=status.source, tag=_REQUEST)
                    self._comm.send(desk.next(outcome), status.source, _ANSWER)
                elif desk.overdue():
                    self._say(
                        f"{desk.failure} (and {self.size - desk.stopped} of {self.size} ranks did not stop in time)"
                    )
                    self.abort(1)
                else:
                    time.sleep(PAUSE)
        except BaseException:
            traceback.print_exc()  # ours to mend: a rank that waits for an answer would wait for ever
            self.abort(1)

    def _publish(self, make: Callable[[], T]) -> T:
        """The root's part of `share`."""
        try:
            value = make()
            message = pickle.dumps((True, value))
        except Exception as error:
            self._broadcast(pickle.dumps((False, _portable(error))))
            raise
        self._broadcast(message)
        return value

    def _broadcast(self, message: bytes) -> bytes:
        _poll(self._comm.Ibarrier().Test)
        heard: bytes = self._comm.bcast(message)
        return heard

    def _gather(self, mine: T) -> list[T]:
        _poll(self._comm.Ibarrier().Test)
        every: list[T] = self._comm.allgather(mine)
        return every

    @contextmanager
    def _all_end(self) -> Iterator[None]:
        """End all ranks where one is stopped (Ctrl-C, sys.exit); if all are, each goes its own way out."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) or self.together():
                raise
            how, status = ending(error) or (f"stopped by {error!r}", _status(error))
            self._say(f"rank {self.rank} (host {self.host}) was {how}, and not all ranks could be told in time")
            self.abort(status)

    def _say(self, text: str) -> None:
        print(f"{Path(sys.argv[0]).name}: error: {text}", file=sys.stderr, flush=True)


def _poll(ready: Callable[[], bool], seconds: float = float("inf")) -> bool:
    """Look until it is ready; whether it was, in time."""
    last, pause = time.monotonic() + seconds, PAUSE / 16
    while not ready():
        if time.monotonic() > last:
            return False
        time.sleep(pause)
        pause = min(2 * pause, PAUSE)
    return True


def _have(ranks: list[int]) -> str:
    """The subject of a sentence: some ranks, the first five by number."""
    if len(ranks) == 1:
        return f"rank {ranks[0]} has"
    return f"ranks {', '.join(map(str, ranks[:5]))}{', ...' if len(ranks) > 5 else ''} have"


def _portable(error: Exception) -> Exception:
    """The error itself where it survives the journey, else what it said."""
    with suppress(Exception):  # one with arguments of its own may fail here, or come out as another
        again = pickle.loads(pickle.dumps(error))
        if type(again) is type(error) and str(again) == str(error):
            return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _status(error: BaseException) -> int:
    """The exit status for what stopped a rank; never 0: the work is not done."""
    code = error.code if isinstance(error, SystemExit) else 1
    return code if isinstance(code, int) and code else 1
