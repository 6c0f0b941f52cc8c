"""The scheduler over MPI, on 1, 2, 3 and 8 ranks under a real launcher."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.launch import MPICH, MPIRUN, OPENMPI, PYTHON, Launcher, descendants, mpirun, run, started, until

SCENARIOS = Path(__file__).with_name("scenarios.py")
RIGHT = "complete,everybody,dynamic,big,share,share_raises,agree,gather,local,add,split,helped"


def scenario(
    ranks: int, *words: str, timeout: float = 60, launcher: Launcher = MPICH
) -> subprocess.CompletedProcess[str]:
    return mpirun(ranks, PYTHON, SCENARIOS, *words, timeout=timeout, launcher=launcher)


def passed(done: subprocess.CompletedProcess[str], ranks: int) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert sorted(re.findall(r"rank (\d+) of \d+ is through", done.stdout)) == [str(rank) for rank in range(ranks)]


def ours(done: subprocess.CompletedProcess[str], program: str = "scenarios") -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith(program)]


@pytest.fixture(scope="module")
def three():
    """One job for all that comes to its end: most of a job's time is its start."""
    return scenario(3, "patient,spectrum_fails,raising_all,unpicklable,progress")


@pytest.mark.parametrize(
    ("ranks", "launcher"),
    [(1, MPICH), (2, MPICH), (3, MPICH), (8, MPICH), (2, OPENMPI)],
)
def test_ranks_work_together(ranks, launcher):
    done = scenario(ranks, RIGHT, launcher=launcher)

    passed(done, ranks)
    places = sorted(re.findall(r"rank (\d+) local (\d+) of (\d+)", done.stdout))
    assert places == [(str(rank), str(rank), str(ranks)) for rank in range(ranks)]


def test_groups_of_ranks_can_be_made_as_often_as_one_likes():
    passed(scenario(2, "splits"), 2)


def test_a_trajectory_is_the_same_on_several_ranks(tmp_path):
    done = scenario(3, "trajectory", str(tmp_path))

    passed(done, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.zarr", "1.zarr"]


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_spectrum_is_the_same_on_several_ranks(tmp_path, ranks):
    passed(scenario(ranks, "spectra", str(tmp_path)), ranks)


def test_a_product_that_fails_on_one_rank_ends_the_call_on_all(three):
    passed(three, 3)


def test_waiting_ranks_leave_the_cores_alone(three):
    passed(three, 3)


@pytest.mark.skipif(len(os.sched_getaffinity(0) & {0, 1}) < 2, reason="pins ranks to CPUs 0 and 1")
def test_sharers_are_those_with_common_cpus():
    done = scenario(3, "sharers")

    passed(done, 3)
    assert sorted(re.findall(r"rank (\d) shares with (\d)", done.stdout)) == [("0", "2"), ("1", "1"), ("2", "2")]


@pytest.mark.parametrize(
    ("ranks", "who", "launcher"),
    [(1, 0, MPICH), (3, 0, MPICH), (3, 1, MPICH), (3, 2, MPICH), (8, 7, MPICH), (3, 2, OPENMPI)],
)
def test_a_raising_task_ends_the_call_on_all_ranks(ranks, who, launcher):
    done = scenario(ranks, "raising", str(who), launcher=launcher)

    assert done.returncode == 1
    told = dict(re.findall(r"(\d) got: (.*)", done.stdout))
    assert sorted(told) == [str(rank) for rank in range(ranks)]
    (text,) = set(told.values())
    assert re.fullmatch(rf"task \d+ failed on rank {who} \(host \S+\): KeyError: 'boom'", text)
    assert ours(done) == [f"scenarios: error: {text}"]


@pytest.mark.parametrize("ranks", [1, 3])
def test_other_failures_are_told_everywhere(three, ranks):
    done = three if ranks == 3 else scenario(ranks, "raising_all,unpicklable,progress")

    passed(done, ranks)
    for name, text in {
        "raising_all": r"task \d+ failed on rank \d \(host \S+\): ZeroDivisionError: .* by zero",
        "unpicklable": r"task \d+ failed on rank \d \(host \S+\): TypeError: cannot pickle .*lock.*",
        "progress": r"the progress callback failed on rank 0 \(host \S+\): OSError: no terminal",
    }.items():
        told = re.findall(rf"{name} got: (.*)", done.stdout)
        assert len(told) == ranks
        assert len(set(told)) == 1
        assert re.fullmatch(text, told[0])


@pytest.mark.parametrize("who", ["0", "1"])
def test_a_rank_in_an_endless_task_is_not_waited_for(who):
    done = scenario(3, "long", who, timeout=30)

    assert done.returncode == 1
    (line,) = ours(done)
    assert re.match(rf"scenarios.py: error: task \d failed on rank {who} \(host \S+\): boom", line)


@pytest.mark.parametrize("who", ["0", "1"])
def test_a_killed_rank_ends_the_job(who):
    done = scenario(3, "killed", who, timeout=30)  # the tasks would take minutes

    assert done.returncode == 9
    assert "is through" not in done.stdout


@pytest.mark.parametrize(("how", "status"), [("interrupt", 130), ("7", 7), ("0", 1)])
def test_a_stopped_rank_ends_the_job(how, status):
    done = scenario(3, "stopped", how)

    assert done.returncode == status
    assert "is through" not in done.stdout
    (line,) = ours(done)
    assert line.startswith("scenarios.py: error: rank 2 (host ")


@pytest.mark.parametrize("who", ["2", "all"])
def test_an_uncaught_error_ends_the_job_and_is_told_once(who):
    done = scenario(3, "uncaught", who)

    assert done.returncode == 1
    assert done.stderr.count(f"ValueError: nobody catches this: {who}") == 1


@pytest.mark.parametrize(
    ("who", "launcher"),
    [("2", MPICH), ("all", MPICH), ("2", OPENMPI)],
)
def test_fail_says_its_line_once(who, launcher):
    done = scenario(3, "failing", who, launcher=launcher)

    assert done.returncode == 2
    assert ours(done) == ["scenarios: error: failed"]
    assert "is through" not in done.stdout


def test_several_ranks_that_fail_without_the_others_say_one_line():
    done = scenario(3, "failing_some")

    assert done.returncode == 2
    assert ours(done) == ["scenarios: error: failed"]


def test_an_interrupt_of_the_launcher_reaches_everybody():
    with started(MPIRUN, "-n", "3", PYTHON, str(SCENARIOS), "interrupted") as (process, out, err):
        until(lambda: out.read_text().count("ready") == 3)
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert err.read_text().count("scenarios: interrupted\n") == 1
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))


def mismatched(done: subprocess.CompletedProcess[str], ranks: int) -> None:
    assert "is through" not in done.stdout
    (line,) = ours(done)
    assert line.startswith(
        f"scenarios: error: {ranks} ranks were announced by the launcher, but the MPI library of mpi4py"
    )
    assert line.endswith(f": use {MPIRUN} -n {ranks}")


@pytest.mark.parametrize(
    ("announced", "ranks"),
    [
        ({"PMI_SIZE": "4"}, 4),
        ({"PMI_SIZE": "4", "PMI_RANK": "0"}, 4),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 2),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "0"}, 3),
        ({"OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "0"}, 2),
    ],
)
def test_a_launcher_that_mpi_does_not_see_is_named(announced, ranks):
    done = run(PYTHON, SCENARIOS, "launched", env=announced, timeout=20)

    mismatched(done, ranks)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_only_the_first_of_the_launchers_ranks_speaks():
    done = run(PYTHON, SCENARIOS, "launched", env={"WORLD_SIZE": "2", "RANK": "1"})

    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.skipif(shutil.which("mpirun.openmpi") is None, reason="Debian's Open MPI is not installed")
def test_the_launcher_of_another_mpi_is_told_apart():
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    launcher = Launcher("debian", (str(shutil.which("mpirun.openmpi")), "--oversubscribe"), {}, 137)

    done = mpirun(2, PYTHON, SCENARIOS, "launched", env=root, timeout=30, launcher=launcher)

    mismatched(done, 2)
    assert done.returncode == 2


def test_a_launcher_without_mpi4py_is_told():
    hidden = "import sys; sys.modules['mpi4py'] = None; from gradvis.schedule import default_scheduler as d; d()"

    done = run(PYTHON, "-c", hidden, env={"PMI_SIZE": "2"})

    assert done.returncode == 1
    assert "2 ranks were announced by the launcher, but mpi4py does not load" in done.stderr.splitlines()[-1]
    assert "pip install 'gradvis[mpi" in done.stderr


def test_mpirun_fits_its_library(tmp_path, monkeypatch):
    from gradvis.mpi import launch

    for folder, name, says in (
        ("venv", "python", ""),
        ("usr", "mpirun", "mpirun (Open MPI) 4.1.4"),
        ("usr", "mpiexec.mpich", "HYDRA build details:"),
    ):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(tmp_path / "venv/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "usr"))

    assert launch.mpirun("Open MPI v4.1.4, package: Debian") == str(tmp_path / "usr/mpirun")
    assert launch.mpirun("MPICH Version:      5.0.2") == str(tmp_path / "usr/mpiexec.mpich")
    assert launch.mpirun("Intel(R) MPI Library 2021.11") is None

    shutil.copy(tmp_path / "usr/mpiexec.mpich", tmp_path / "venv/mpirun")
    assert launch.mpirun("MPICH Version:      5.0.2") == str(tmp_path / "venv/mpirun")
