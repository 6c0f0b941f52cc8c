from __future__ import annotations

import os

import pytest

from gradvis import machine
from tests.launch import PYTHON, run

GIB = 2**30


@pytest.fixture
def eight(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def write(root, **files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(root, path, **files):
    return write(root, **{"proc/self/cgroup": f"0::{path}\n"}, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()})


def test_without_groups_affinity_counts(tmp_path, eight):
    assert machine.cpus(tmp_path) == 8
    assert machine.affinity() == frozenset(range(8))


def test_affinity_of_a_pinned_process():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from gradvis import machine as m; "

    done = run(PYTHON, "-c", code + "print(len(m.affinity()), m.cpus(), m.threads(1, {}))")

    assert done.stdout == "1 1 1\n", done.stderr


def test_without_affinity_all_cpus_count(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)

    assert machine.affinity() == frozenset({0, 1, 2})


@pytest.mark.parametrize(
    ("quota", "cpus"), [("300000 100000", 3), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 8)]
)
def test_quota_of_version_2(tmp_path, eight, quota, cpus):
    v2(tmp_path, "/job/step", **{"job/step/cpu.max": quota})

    assert machine.cpus(tmp_path) == cpus


def test_the_tightest_group_around_counts(tmp_path, eight):
    v2(tmp_path, "/job/step", **{"job/step/cpu.max": "max 100000", "job/cpu.max": "200000 100000", "cpu.stat": ""})

    assert machine.cpus(tmp_path) == 2


@pytest.mark.parametrize(("quota", "cpus"), [("400000", 4), ("-1", 8)])
def test_quota_of_version_1(tmp_path, eight, quota, cpus):
    group = "sys/fs/cgroup/cpu/docker"
    files = {f"{group}/cpu.cfs_quota_us": f"{quota}\n", f"{group}/cpu.cfs_period_us": "100000\n"}
    write(tmp_path, **{"proc/self/cgroup": "4:cpu,cpuacct:/docker\n3:memory:/else\n"}, **files)

    assert machine.cpus(tmp_path) == cpus


def test_a_container_sees_its_group_at_the_root(tmp_path, eight):
    # version 1 in a container: the path is the host's, the folders are the container's
    files = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}
    write(tmp_path, **{"proc/self/cgroup": "4:cpu,cpuacct:/docker/0123\n"}, **files)

    assert machine.cpus(tmp_path) == 2


def test_memory_is_what_is_left(tmp_path):
    write(tmp_path, **{"proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemAvailable: {32 * 2**20} kB\n"})
    assert machine.memory(tmp_path) == 32 * GIB

    v2(
        tmp_path,
        "/job",
        **{
            "job/memory.max": str(8 * GIB),
            "job/memory.current": str(5 * GIB),
            "job/memory.stat": f"anon 1\ninactive_file {GIB}",
        },
    )
    assert machine.memory(tmp_path) == 4 * GIB


def test_memory_of_version_1(tmp_path):
    group = "sys/fs/cgroup/memory/job"
    write(
        tmp_path,
        **{
            "proc/meminfo": f"MemAvailable: {32 * 2**20} kB\n",
            "proc/self/cgroup": "4:memory:/job\n0::/\n",
            f"{group}/memory.limit_in_bytes": str(3 * GIB),
            f"{group}/memory.usage_in_bytes": str(2 * GIB),
            f"{group}/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB // 2}\n",
        },
    )

    assert machine.memory(tmp_path) == GIB + GIB // 2


def test_an_overdrawn_group_has_nothing_left(tmp_path):
    v2(tmp_path, "/job", **{"job/memory.max": str(GIB), "job/memory.current": str(2 * GIB)})

    assert machine.memory(tmp_path) == 0


def test_unlimited_memory_is_the_machines(tmp_path):
    write(tmp_path, **{"proc/meminfo": "MemAvailable: 1024 kB\n"})
    v2(tmp_path, "/job", **{"job/memory.max": "max", "job/memory.current": "5"})

    assert machine.memory(tmp_path) == 2**20


def test_this_machine_has_some_of_both():
    assert machine.cpus() >= 1
    assert machine.memory() > 2**20


@pytest.mark.parametrize(
    ("sharers", "environ", "threads"),
    [
        (1, {}, 8),
        (3, {}, 2),
        (16, {}, 1),
        (4, {"OMP_NUM_THREADS": "6"}, 6),
        (4, {"OMP_NUM_THREADS": "3,2"}, 3),
        (4, {"OMP_NUM_THREADS": ""}, 2),
        (4, {"OMP_NUM_THREADS": "0"}, 2),
        (4, {"OMP_NUM_THREADS": "all"}, 2),
    ],
)
def test_threads_divide_the_cpus(tmp_path, eight, sharers, environ, threads):
    assert machine.threads(sharers, environ, tmp_path) == threads
