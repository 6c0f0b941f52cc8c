"""What every rank does in tests/mpi/test_ranks.py: `mpirun -n 3 python scenarios.py NAME [ARGUMENT]`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import NoReturn

import numpy as np
import pytest

import gradvis
from gradvis.backends.analytic import Quadratic
from gradvis.plane import Plane
from gradvis.schedule import LaunchError, Scheduler, Serial, TaskError, default_scheduler, launcher_rank, together


class Stubborn(Exception):  # noqa: N818
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Chatty(Exception):  # noqa: N818
    def __init__(self, text):
        super().__init__(f"chat: {text}")


def say(text: object) -> None:
    sys.stdout.write(f"{text}\n")  # one write: lines of several ranks stay whole


def ranks() -> Scheduler:
    from gradvis.mpi import world

    return world()


def complete(s: Scheduler) -> None:
    for count in (0, 1, 2, 5, 40, 1, 0, 40):
        seen: list[int] = []
        assert s.map(lambda i: {"square": i * i}, count, seen.append) == [{"square": i * i} for i in range(count)]
        assert seen == (list(range(1, count + 1)) if s.is_root else [])


def everybody(s: Scheduler) -> None:
    seen: list[int] = []
    done = s.map(lambda i: (time.sleep(0.1), i, s.rank)[1:], 5 * s.size, seen.append)
    assert [index for index, _ in done] == list(range(5 * s.size))
    assert {rank for _, rank in done} == set(range(s.size))
    assert seen == (list(range(1, 5 * s.size + 1)) if s.is_root else [])


def dynamic(s: Scheduler) -> None:
    who = s.map(lambda i: (time.sleep(2.0 if i == 0 else 0.01), s.rank)[1], 30)
    assert s.size == 1 or who.count(who[0]) < 30 // s.size, who  # fewer than its share, were they shared out beforehand


def big(s: Scheduler) -> None:
    blobs = s.map(lambda i: bytes([i]) * 300_000, 6)
    assert [(blob[0], len(blob)) for blob in blobs] == [(i, 300_000) for i in range(6)]


def share(s: Scheduler) -> None:
    calls: list[int] = []
    assert s.share(lambda: calls.append(s.rank) or {"made on": s.rank, "big": b"x" * 10**6}) == {
        "made on": 0,
        "big": b"x" * 10**6,
    }
    assert calls == ([0] if s.is_root else [])


def share_raises(s: Scheduler) -> None:
    for kind, error, text in (
        (ValueError, ValueError("wanted a, came b"), "wanted a, came b"),
        (FileNotFoundError, FileNotFoundError(2, "no such file", "model.pt"), "[Errno 2] no such file: 'model.pt'"),
        (TaskError, TaskError("task 5"), "task 5"),
        (None, Stubborn("one", "two"), "one and two"),
        (None, Chatty("hello"), "chat: hello"),
    ):
        caught = shared_error(s, error)
        assert str(caught) in (text, f"{type(error).__name__}: {text}")
        assert type(caught) is (kind or (type(error) if s.is_root else RuntimeError))
    with pytest.raises(TypeError, match="cannot pickle"):
        s.share(threading.Lock)
    assert s.share(lambda: "and on") == "and on"


def shared_error(s: Scheduler, error: Exception) -> Exception:
    def make() -> NoReturn:
        raise error

    with pytest.raises(Exception, match=r".") as caught:
        s.share(make)
    return caught.value


def agree(s: Scheduler) -> None:
    s.agree({})
    s.agree({"data": "abc", "parameters": "def"})
    if s.size == 1:
        return
    last = s.size - 1
    with pytest.raises(
        ValueError, match=rf"^all ranks .* same parameters, but rank {last} has others than rank 0: seed"
    ):
        s.agree({"data": "abc", "parameters": str(s.rank == last)})
    others = {2: "rank 1 has", 3: "ranks 1, 2 have", 8: "ranks 1, 2, 3, 4, 5, ... have"}[s.size]
    with pytest.raises(ValueError, match=rf"^all ranks must work on the same data, but {others} others .*: seed what"):
        s.agree({"data": "abc"} if s.rank else {})


def local(s: Scheduler) -> None:
    say(f"rank {s.rank} local {s.local_rank} of {s.local_size} on {s.host}")


def patient(s: Scheduler) -> None:
    before = time.process_time()
    s.share(lambda: time.sleep(1.5))
    s.map(lambda i: time.sleep(1.5), 1)
    spent = time.process_time() - before
    assert spent < 0.5, f"{spent} s of CPU time for waiting"


def sharers(s: Scheduler) -> None:
    say(f"rank {s.rank} shares with {s.cpu_sharers}")


def raising(s: Scheduler, who: str) -> None:
    """`who` raises; all must say the same, and the scheduler must still work."""
    tried = 0

    def task(index: int) -> None:
        nonlocal tried
        tried += 1
        time.sleep(0.05)
        if s.rank == int(who):
            raise KeyError("boom")

    with pytest.raises(TaskError) as caught:
        s.map(task, 1000)
    assert s.map(lambda i: i, 7) == list(range(7))
    assert tried < 100
    assert 'raise KeyError("boom")' in "".join(caught.value.__notes__)
    say(f"{s.rank} got: {caught.value}")
    s.fail(f"scenarios: error: {caught.value}", 1)


def raising_all(s: Scheduler) -> None:
    try:
        s.map(lambda i: 1 // 0, 100)
    except TaskError as error:
        say(f"raising_all got: {error}")


def unpicklable(s: Scheduler) -> None:
    try:
        s.map(lambda i: threading.Lock(), 3)
    except TaskError as error:
        say(f"unpicklable got: {error}")


def progress(s: Scheduler) -> None:
    def broken(done: int) -> None:
        if done == 3:
            raise OSError("no terminal")

    try:
        s.map(lambda i: time.sleep(0.02), 1000, broken)
    except TaskError as error:
        say(f"progress got: {error}")


def long(s: Scheduler, who: str) -> None:
    """`who` raises at once while the others are in a task that does not end."""
    from gradvis.mpi import desk

    desk.GRACE = 1.0

    def task(index: int) -> None:
        if s.rank == int(who):
            time.sleep(0.3)
            raise ValueError("boom")
        time.sleep(300)

    s.map(task, 50)


def killed(s: Scheduler, who: str) -> None:
    def task(index: int) -> None:
        time.sleep(0.05)
        if s.rank == int(who):
            os.kill(os.getpid(), signal.SIGKILL)

    s.map(task, 20_000)


def stopped(s: Scheduler, how: str) -> None:
    """The last rank is stopped by something that is no Exception."""

    def task(index: int) -> None:
        time.sleep(0.05)
        if s.rank == s.size - 1:
            if how == "interrupt":
                signal.raise_signal(signal.SIGINT)
            sys.exit(int(how))

    s.map(task, 20_000)


def interrupted(s: Scheduler) -> None:
    """Ctrl-C at the launcher reaches all ranks."""
    say("ready")
    try:
        s.map(lambda i: time.sleep(0.05), 5000)
    except KeyboardInterrupt:
        s.fail("scenarios: interrupted", 130)


def uncaught(s: Scheduler, who: str) -> None:
    if who == "all" or s.rank == int(who):
        raise ValueError(f"nobody catches this: {who}")
    s.map(lambda i: time.sleep(0.05), 5000)


def failing(s: Scheduler, who: str) -> None:
    if who == "all" or s.rank == int(who):
        s.fail("scenarios: error: failed", 2)
    s.share(lambda: None)


def failing_some(s: Scheduler) -> None:
    if s.rank:
        s.fail("scenarios: error: failed", 2)
    time.sleep(300)


def gather(s: Scheduler) -> None:
    assert s.gather((s.rank, "x" * s.rank)) == [(rank, "x" * rank) for rank in range(s.size)]


def trajectory(s: Scheduler, folder: str) -> None:
    """A path measured by all ranks, kept and gone on with, is that of one process."""
    made = Quadratic(np.linspace(1, 5, 40), rotate_seed=0)
    rows = np.random.default_rng(0).normal(size=(13, 40)).cumsum(axis=0)
    plane = Plane(rows[3], rows[5:7])
    for number, on in enumerate((None, plane)):
        alone = gradvis.project_trajectory(made, rows, on, scheduler=Serial())
        for _ in range(2):
            found = gradvis.project_trajectory(made, rows, on, scheduler=s, out=f"{folder}/{number}.zarr")
            for name, values in alone.dataset.variables.items():
                assert found.dataset[name].values.tobytes() == values.values.tobytes(), name
            assert found.plane.directions.tobytes() == alone.plane.directions.tobytes()
    bad = [*rows, np.ones(39)]
    with pytest.raises(ValueError, match="40 parameters"):
        gradvis.project_trajectory(made, bad, scheduler=s)


def add(s: Scheduler) -> None:
    """In the order of the ranks, and the same bits everywhere."""
    rows = np.random.default_rng(0).normal(size=(s.size, 3, 50))
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    found = s.add(rows[s.rank])
    assert found.tobytes() == total.tobytes()
    assert s.add(rows[s.rank][::-1, ::2]).tobytes() == np.ascontiguousarray(total[::-1, ::2]).tobytes()


def split(s: Scheduler) -> None:
    for groups in range(1, s.size + 1):
        with s.split(groups) as group:
            mates = [rank for rank in range(s.size) if rank * groups // s.size == s.rank * groups // s.size]
            assert group.gather(s.rank) == mates
            assert group.rank == mates.index(s.rank)


def splits(s: Scheduler) -> None:
    """More often than there are communicators (some two thousand in MPICH)."""
    for _ in range(800):
        with s.split(1) as group:
            assert group.size == s.size


def helped(s: Scheduler) -> None:
    """One rank works with products to which all add, and what fails is told to all."""

    def doubled(vectors: np.ndarray) -> np.ndarray:
        if vectors[0, 0] == 7.0:
            raise ValueError(f"seven on {s.rank}")
        return vectors * (s.rank + 1)

    total = s.size * (s.size + 1) // 2
    assert together(doubled, lambda product: product(product(np.ones((2, 3)))).sum(), s) == 6 * total**2
    assert together(doubled, lambda product: s.rank, s) == 0
    wanted = "product failed on rank 0" if s.size > 1 else "seven on 0"
    with pytest.raises((TaskError, ValueError), match=wanted):
        together(doubled, lambda product: product(np.full((1, 1), 7.0)), s)
    with pytest.raises(KeyError, match="lost"):
        together(doubled, lambda product: {}["lost"], s)


def spectra(s: Scheduler, folder: str) -> None:
    """With fewer probes than ranks, and with more: the numbers of one process, kept and gone on with."""
    values = np.concatenate([np.linspace(-1, 1, 50), [5.0, 9.0]])
    made = Quadratic(values, minimum=np.ones(52), rotate_seed=0)
    for probes in (1, 2, 7):
        alone = gradvis.hessian_spectrum(made, probes, 20, top=2, tol=1e-9, scheduler=Serial())
        for place in (None, f"{folder}/{probes}.zarr", f"{folder}/{probes}.zarr"):
            found = gradvis.hessian_spectrum(made, probes, 20, top=2, tol=1e-9, scheduler=s, out=place)
            x = np.linspace(-1, 9, 50)
            for name in ("trace", "frobenius"):
                assert abs(getattr(found, name) - getattr(alone, name)) < 1e-9 * np.linalg.norm(values)
            np.testing.assert_allclose(found.density(x), alone.density(x), atol=1e-8 * alone.density(x).max())
            np.testing.assert_allclose(found.pairs.values, [9.0, 5.0], atol=1e-8)
            assert found.pairs.converged.all()


def spectrum_fails(s: Scheduler) -> None:
    """A product that raises on one rank raises on all."""

    class Failing(Quadratic):
        def hvp(self, theta, vectors, operator="hessian"):
            if s.rank == s.size - 1:
                raise RuntimeError("no such luck")
            return super().hvp(theta, vectors, operator)

    with pytest.raises(TaskError, match=f"rank {s.size - 1} "):
        gradvis.hessian_eigenpairs(Failing(np.arange(1.0, 9.0)), 2, scheduler=s)


def launched() -> Scheduler:
    """As a command does it: one line from the launcher's first rank."""
    try:
        return default_scheduler()
    except LaunchError as error:
        if launcher_rank() == 0:
            sys.stderr.write(f"scenarios: error: {error}\n")
        sys.exit(2)


def main() -> None:
    names = sys.argv[1].split(",")
    if names == ["sharers"]:
        os.sched_setaffinity(0, {int(os.environ["PMI_RANK"]) % 2})
    s = launched() if names == ["launched"] else ranks()
    for name in names if names != ["launched"] else []:
        globals()[name](s, *sys.argv[2:])
    say(f"rank {s.rank} of {s.size} is through")


if __name__ == "__main__":
    main()
