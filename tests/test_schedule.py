from __future__ import annotations

import pytest

from gradvis.schedule import Serial, TaskError, announced_ranks, default_scheduler, describe, launcher_rank
from tests.launch import PYTHON, run


def test_serial_maps_in_order_and_counts():
    seen = []

    assert Serial().map(lambda i: i * i, 4, seen.append) == [0, 1, 4, 9]
    assert seen == [1, 2, 3, 4]
    assert Serial().map(lambda i: i, 0) == []


def test_serial_names_the_task_that_raised():
    def task(index):
        if index == 2:
            raise KeyError("boom")
        return index

    seen = []
    with pytest.raises(TaskError, match=r"^task 2 failed on rank 0 \(host \S+\): KeyError: 'boom'$") as caught:
        Serial().map(task, 4, seen.append)
    assert isinstance(caught.value.__cause__, KeyError)
    assert seen == [1, 2]


def test_serial_is_alone():
    alone = Serial()

    assert (alone.rank, alone.size, alone.local_rank, alone.local_size, alone.cpu_sharers) == (0, 1, 0, 1, 1)
    assert alone.is_root
    assert alone.share(lambda: 7) == 7
    alone.agree({"data": "abc"})


def test_serial_fails_with_a_line_and_a_status(capsys):
    with pytest.raises(SystemExit, match="2"):
        Serial().fail("gradvis: error: no", 2)
    assert capsys.readouterr().err == "gradvis: error: no\n"


@pytest.mark.parametrize(
    ("error", "says"),
    [(ValueError("wanted a, came b"), "wanted a, came b"), (RuntimeError(), "RuntimeError: no message")],
)
def test_describe_adds_the_place(error, says):
    text = describe(5, 3, error)

    assert text.startswith("task 5 failed on rank 3 (host ")
    assert text.endswith(f"): {says}")


@pytest.mark.parametrize(
    ("environ", "ranks", "rank"),
    [
        ({}, 1, 0),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, 4, 3),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, 2, 1),
        ({"WORLD_SIZE": "8", "RANK": "7"}, 8, 7),
        ({"SLURM_STEP_NUM_TASKS": "5", "SLURM_PROCID": "4"}, 1, 0),  # inside sbatch: not launched by srun
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "5", "SLURM_PROCID": "4"}, 5, 4),
        ({"PMI_SIZE": "2", "PMI_RANK": "1", "RANK": "5"}, 2, 1),
        ({"WORLD_SIZE": "many", "RANK": ""}, 1, 0),
    ],
)
def test_launchers_announce_ranks(environ, ranks, rank):
    assert announced_ranks(environ) == ranks
    assert launcher_rank(environ) == rank


@pytest.mark.parametrize("name", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "WORLD_SIZE", "SLURM_STEP_ID"])
def test_one_rank_is_serial(monkeypatch, name):
    monkeypatch.setenv(name, "1")

    assert isinstance(default_scheduler(), Serial)


def test_mpi_is_not_touched_without_a_launcher():
    code = (
        "import sys; from gradvis.schedule import default_scheduler; default_scheduler(); import gradvis.mpi;"
        "print([name for name in sys.modules if name.startswith('mpi4py')])"
    )

    done = run(PYTHON, "-c", code)

    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
