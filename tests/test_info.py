"""`gradvis info`, alone and under both launchers."""

from __future__ import annotations

import importlib
import json
import platform
import re

import pytest

import gradvis
from gradvis.cli import info
from gradvis.schedule import Serial
from tests.launch import MPICH, OPENMPI, PYTHON, mpirun

INFO = (PYTHON, "-c", "from gradvis.cli.door import enter; from gradvis.cli.info import info; enter(info, 'gradvis')")


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    """What torch sees is asked in one test; elsewhere its import would take most of the time."""
    monkeypatch.setattr(info.importlib.util, "find_spec", lambda name: None)


def test_alone_it_tells_versions_and_this_rank_without_importing_tensorflow():
    done = mpirun(1, *INFO, "--json", launcher=MPICH)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["versions"]["gradvis"] == gradvis.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["tensorflow"] is not None
    assert found["mpi"].startswith("MPICH ")
    (rank,) = found["ranks"]
    assert (rank["rank"], rank["local rank"], rank["ranks on host"], rank["threads"]) == (0, 0, 1, 1)
    assert rank["host"] == platform.node()
    assert rank["torch for"] is not None


@pytest.mark.parametrize(("launcher", "mpi"), [(MPICH, "MPI: MPICH "), (OPENMPI, "MPI: Open MPI ")])
def test_under_a_launcher_each_rank_has_its_line(launcher, mpi, tmp_path):
    done = mpirun(2, *INFO, launcher=launcher, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert f"\n{mpi}" in done.stdout
    assert "launcher: announces 2, MPI shows 2\n" in done.stdout
    rows = re.findall(r"^(\d) +(\S+) +(\d/\d) +\d+ +(\d+) +[\d.]+ GiB  (\S+)", done.stdout, re.M)
    assert [row[:4] for row in rows] == [(str(r), platform.node(), f"{r}/2", "1") for r in (0, 1)]
    assert not re.search(r"(^|\s)[~/]\w", done.stdout)


def test_a_plain_run_neither_starts_mpi_nor_needs_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.import_module("gradvis.mpi.launch"), "library", lambda: None)

    text = info._page(info.collect(Serial()))

    assert "MPI: none that mpi4py can load\nlauncher: announces 1, MPI shows 1\n" in text
    assert "torch is built for: -\n" in text
    assert text.splitlines()[-2].split() == ["rank", "host", "local", "cpus", "threads", "memory", "takes", "devices"]


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(info, "_PACKAGES", {"numpy": ("numpy",), "nothing": ("no-such-thing", "nor-this")})

    text = info._page(info.collect(Serial()))

    assert ", numpy " in text.splitlines()[0]
    assert text.splitlines()[1] == "not installed: nothing"


def test_devices_are_counted_and_versions_that_differ_are_named(monkeypatch):
    first = info.collect(Serial())["ranks"][0] | {"devices": ["Big GPU", "Big GPU"], "takes": "cuda:0"}
    first["versions"] = {"torch": "2.13"}
    second = first | {"rank": 1, "versions": {"torch": "2.12"}}
    found = {"versions": first["versions"], "mpi": "MPICH 5", "announced ranks": 2, "ranks": [first, second]}

    lines = info._page(found).splitlines()

    assert "torch differs: 2.13 on rank 0, 2.12 on rank 1" in lines
    assert lines[-1].endswith("cuda:0  2 x Big GPU")


def test_gpus_of_torch_are_named(monkeypatch):
    import torch

    from gradvis.backends.pytorch import devices

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(devices, "find_device", lambda name, rank: f"{name}:{rank}")
    monkeypatch.setattr(torch.version, "hip", "6.4")

    assert devices.seen(1) == {"takes": "auto:1", "devices": ["GPU 0", "GPU 1"], "torch for": "ROCm 6.4"}
