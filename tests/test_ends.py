"""How a job ends when it cannot go on, under both launchers, and that the same command then goes on with it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import click
import numpy as np
import pytest

import gradvis
from gradvis.cli.door import enter
from gradvis.notes import note
from gradvis.schedule import Terminated
from tests.launch import LAUNCHERS, MPICH, MPIRUN, OPENMPI, PYTHON, descendants, mpirun, run, started, until

SURFACE = Path(sys.executable).with_name("gradvis-surface")

BOWL = """
import os, pathlib, signal, sys, time
import numpy as np
from gradvis.backends.analytic import Quadratic
from gradvis.schedule import launcher_rank

FATE, _, AFTER = os.environ.get("FATE", "").partition(":")
HERE = launcher_rank() == int(os.environ.get("ON", "1"))
write = pathlib.Path.open

def full(path, *mode):
    return write("/dev/full" if path.suffix == ".partial" else path, *mode)

class Bowl(Quadratic):
    "What happens to it is told by the environment."
    calls = 0

    def read(self, checkpoint):
        return np.load(checkpoint)

    def evaluate(self, plane, coords):
        Bowl.calls += 1
        if FATE and HERE and Bowl.calls > int(AFTER):
            suffer()
        time.sleep(float(os.environ.get("SLOWLY", "0")))
        return super().evaluate(plane, coords)

def suffer():
    if FATE == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if FATE == "raise":
        raise RuntimeError("no such luck")
    if FATE == "full":
        pathlib.Path.open = lambda path, *mode: full(path, *mode)
    if FATE == "hang":  # as a call into C that does not return: no handler of Python's runs
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        pathlib.Path("hangs").touch()
        time.sleep(600)

def objective():
    return Bowl(np.linspace(1, 2, 9), minimum=np.linspace(-1, 1, 9), rotate_seed=0)
"""
FEW = ("bowl.npy", "--objective", "bowl.py:objective", "--resolution", "33", "--plot", "none", "--quiet")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a checkpoint and the result of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "bowl.py").write_text(BOWL)
    np.save(folder / "bowl.npy", np.arange(9.0))
    done = run(SURFACE, *FEW, "--out", "whole.zarr", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    for name in ("bowl.py", "bowl.npy"):
        shutil.copy(whole / name, tmp_path)
    return tmp_path


def values(path):
    surface = gradvis.open(path)
    return {name: surface.dataset[name].values.tobytes() for name in (*surface.about["metrics"], "center")}


def done_points(path):
    return int(gradvis.open(path).done.sum()) if path.exists() else 0


def ours(stderr, name="gradvis-surface: "):
    return [line for line in stderr.splitlines() if line.startswith(name)]


def tiles(folder):
    return len(list((folder / "run.zarr" / "loss").glob("c*")))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def to_launcher(number):
    return lambda launcher: launcher.send_signal(number)


def to_ranks(launcher):
    """As srun does it."""
    for pid in descendants(launcher.pid):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if words[0].startswith(str(Path(PYTHON).parent)) and str(SURFACE) in words:
            os.kill(pid, signal.SIGTERM)


# What happens, on which rank, who is sent what; the statuses under MPICH and under Open MPI, and our line.
# Open MPI's mpirun ends with 1 when it is sent a signal itself, and passes on nobody's last words.
ENDS = [
    ("raise:5", "1", None, (1, 1), r"error: task \d+ failed on rank 1 \(host \S+\): RuntimeError: no such luck"),
    ("full:5", "1", None, (1, 1), r"error: task .*: cannot write run.zarr: No space left on device; what is done is"),
    ("die:5", "0", None, (MPICH.killed, OPENMPI.killed), None),
    ("", "1", to_launcher(signal.SIGINT), (130, 1), "interrupted; what is done is kept in run.zarr"),
    ("", "1", to_launcher(signal.SIGTERM), (143, 1), "terminated; what is done is kept in run.zarr"),
    ("hang:5", "1", to_launcher(signal.SIGTERM), (143, 1), r"error: rank 0 \(host \S+\) was terminated, and not all"),
    ("", "1", to_ranks, (143, 143), "terminated; what is done is kept in run.zarr"),
]


def end(command, folder, env, send):
    """The status and our lines of a command that does not come to its end; nothing of it is left running."""
    (folder / "hangs").unlink(missing_ok=True)
    before = tiles(folder)
    with started(*command, cwd=folder, env=env) as (process, _, err):
        until(lambda: (folder / "hangs").exists() or tiles(folder) > before + 4 or process.poll() is not None, 60)
        below = descendants(process.pid)
        if send is not None:
            until(lambda: (folder / "hangs").exists() or "hang" not in env["FATE"], 60)
            send(process)
        status = process.wait(30)
        until(lambda: not any(map(alive, below)), timeout=10)
        return status, err.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.name)
def test_a_result_survives_one_end_after_another_and_comes_out_the_same(whole, folder, launcher):
    command = (*launcher.command, "-n", "2", SURFACE, *FEW, "--out", "run.zarr")
    reached = 0
    for fate, on, send, statuses, line in ENDS:
        env = launcher.environ | {"FATE": fate, "ON": on, "SLOWLY": "0.04"}
        status, err = end(command, folder, env, send)
        assert status == statuses[LAUNCHERS.index(launcher)], (fate, err)
        if launcher is OPENMPI and send not in {None, to_ranks}:
            line = None
        assert len(ours(err)) == (line is not None), err
        assert line is None or re.match(f"gradvis-surface: {line}", ours(err)[0]), err
        before, reached = reached, int(gradvis.open(folder / "run.zarr").done.sum())
        assert before < reached < 33 * 33, (fate, err)

    finished = mpirun(2, SURFACE, *FEW, "--out", "run.zarr", cwd=folder, launcher=launcher)

    assert finished.returncode == 0, finished.stderr
    assert values(folder / "run.zarr") == values(whole / "whole.zarr")


ROOM = """
mount -t tmpfs -o size=300k tmpfs small || exit 99
"$@"; echo status $?
mount -o remount,size=20m small
"$@"; echo status $?
cp -r small/run.zarr run.zarr
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0,
    reason="no small disk can be mounted here",
)
def test_a_full_disk_is_told_and_with_more_room_the_same_command_goes_on(whole, folder):
    (folder / "small").mkdir()
    command = (MPIRUN, "-n", "2", SURFACE, *FEW, "--out", "small/run.zarr")

    done = run("unshare", "-rm", "sh", "-c", ROOM, "sh", *command, cwd=folder, timeout=60)

    assert done.stdout.count("status 1\n") == 1, done
    assert done.stdout.endswith("status 0\n"), done
    (line,) = ours(done.stderr)
    assert "cannot write run.zarr: No space left on device; what is done is kept: make room" in line
    assert values(folder / "run.zarr") == values(whole / "whole.zarr")


@pytest.mark.parametrize(
    ("launcher", "libraries"), [(MPICH, OPENMPI), (OPENMPI, MPICH)], ids=["under mpich", "under openmpi"]
)
def test_the_mpirun_of_another_mpi_is_refused_with_the_path_of_the_right_one(folder, launcher, libraries):
    environ = {name: value for name, value in launcher.environ.items() if name != "MPI4PY_LIBMPI"} | libraries.environ

    done = mpirun(2, SURFACE, *FEW, cwd=folder, launcher=launcher._replace(environ=environ), timeout=30)

    assert done.returncode == 2
    (line,) = ours(done.stderr)
    assert line.startswith(
        "gradvis-surface: error: 2 ranks were announced by the launcher, but the MPI library of mpi4py"
    )
    assert line.endswith(f": use {libraries.command[0]} -n 2")
    assert "Warning" not in done.stderr
    assert not list(folder.glob("*.zarr"))


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.name)
def test_mpi4py_missing_under_mpirun_says_what_to_install(folder, launcher):
    (folder / "hidden" / "mpi4py").mkdir(parents=True)
    (folder / "hidden" / "mpi4py" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'mpi4py'\")")

    done = mpirun(
        2, SURFACE, *FEW, cwd=folder, launcher=launcher, env={"PYTHONPATH": str(folder / "hidden")}, timeout=30
    )

    assert done.returncode == 2
    (line,) = ours(done.stderr)
    assert "2 ranks were announced by the launcher, but mpi4py does not load (No module named 'mpi4py'): pip" in line
    assert "pip install 'gradvis[mpi]' with a cluster's own MPI, 'gradvis[mpich]' without" in line


def leave(callback, capsys, *argv):
    """The status and what a command of this body leaves on standard error."""
    with pytest.raises(SystemExit) as left:
        enter(click.Command("try", callback=callback, params=[click.Option(["--quiet"], is_flag=True)]), "try", [*argv])
    return left.value.code, capsys.readouterr().err


@pytest.fixture
def handlers():
    """Commands own the process; here it is the tests'."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("error", "status", "word"), [(KeyboardInterrupt(), 130, "interrupted"), (Terminated(), 143, "terminated")]
)
def test_going_on_is_promised_only_where_something_is_kept(capsys, handlers, error, status, word):
    def early(quiet):
        raise type(error)

    def late(quiet):
        error.add_note("what is done is kept in run.zarr")
        raise error

    assert leave(early, capsys) == (status, f"try: {word}\n")
    assert leave(late, capsys) == (status, f"try: {word}; what is done is kept in run.zarr\n")


def test_a_second_signal_does_not_disturb_a_rank_that_is_leaving(capsys, handlers):
    def twice(quiet):
        signal.raise_signal(signal.SIGTERM)

    assert leave(twice, capsys) == (143, "try: terminated\n")
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_pictures_that_find_no_room_say_so(capsys, handlers, tmp_path):
    def draw(quiet):
        with Path("/dev/full").open("w") as file:
            file.write("picture")

    def named(quiet):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "run.png"))

    told = "full (No space left on device); make room, and the same command goes on with what is done\n"
    assert leave(draw, capsys) == (1, f"try: error: cannot write pictures or output: the disk is {told}")
    assert leave(named, capsys) == (1, f"try: error: cannot write run.png: the disk of {tmp_path} is {told}")


def test_output_to_a_full_disk_is_an_error():
    done = run("sh", "-c", f"exec {SURFACE.with_name('gradvis')} --help > /dev/full")

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the disk is full" in done.stderr


def told_notes(quiet):
    for _ in range(2):
        note("a path was\nchanged")
    note("another")
    warnings.warn("a library's own", UserWarning, stacklevel=1)


def test_a_note_is_one_line_and_said_once(capsys, handlers):
    status, err = leave(told_notes, capsys)

    assert status == 0
    assert [line for line in err.splitlines() if "note" in line] == [
        "try: note: a path was changed",
        "try: note: another",
    ]


def test_quiet_keeps_notes_back(capsys, handlers):
    assert "note: " not in leave(told_notes, capsys, "--quiet")[1]


def test_warnings_come_from_one_rank_alone(capsys, handlers, monkeypatch):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert leave(told_notes, capsys) == (0, "try: note: a path was changed\ntry: note: another\n")
        assert [str(warning.message) for warning in told] == ["a library's own"]
        monkeypatch.setattr("gradvis.cli.door.launcher_rank", lambda: 1)
        assert leave(told_notes, capsys) == (0, "")
    assert len(told) == 1
