"""What this process may use of its machine: CPUs, memory and threads, as affinity and control groups limit them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path("/")


def affinity() -> frozenset[int]:
    """The numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpus(root: Path = ROOT) -> int:
    """How many CPUs' worth of time this process may use: its affinity, capped by the quota of its control groups.

    Args:
        root: Where `proc` and `sys` are.
    """
    return max(1, int(min([len(affinity()), *_quotas(root)])))


def memory(root: Path = ROOT) -> int:
    """Bytes that this process may still use: what the system has left, capped by what its control groups have left.

    Where the system does not say what is left (macOS), all of its memory counts.
    """
    return max(0, min([_system_memory(root), *_allowances(root)]))


def threads(sharers: int = 1, environ: Mapping[str, str] = os.environ, root: Path = ROOT) -> int:
    """How many threads this process should compute with.

    Args:
        sharers: How many processes of the job share this one's CPUs (`Scheduler.cpu_sharers`).
        environ: Where OMP_NUM_THREADS is honoured if it is set.
        root: See `cpus`.

    >>> threads(8, {"OMP_NUM_THREADS": "3"}), threads(10**6, {})
    (3, 1)
    """
    asked = environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": a number for each level of nesting
    if asked.isdigit() and int(asked):
        return int(asked)
    return max(1, cpus(root) // sharers)


def _quotas(root: Path) -> Iterator[float]:
    """CPUs allowed by each control group around this process (kernel documentation: cgroup-v2, sched-bwc)."""
    for group in _groups(root, ""):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        if quota.isdigit():
            yield int(quota) / int(period)
    for group in _groups(root, "cpu"):
        allowed, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        if allowed.isdigit() and period.isdigit():  # -1: no limit
            yield int(allowed) / int(period)


def _allowances(root: Path) -> Iterator[int]:
    """Bytes left in each control group around this process; the file cache counts as left, the kernel gives it back."""
    for controller, limit, usage, cache in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in _groups(root, controller):
            most, used = _text(group / limit), _text(group / usage)
            if most.isdigit() and used.isdigit():
                yield int(most) - int(used) + _table(group / "memory.stat").get(cache, 0)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that hold this process, innermost first; version 2 where no controller."""
    mount = root / "sys/fs/cgroup" / controller
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            inside = Path(path.lstrip("/"))
            yield from (mount / folder for folder in (inside, *inside.parents) if (mount / folder).is_dir())


def _system_memory(root: Path) -> int:
    """Bytes left on the whole machine."""
    available = _table(root / "proc/meminfo", scale=1024).get("MemAvailable:")
    if available is not None:
        return available
    sysconf: Callable[[str], int] | None = getattr(os, "sysconf", None)
    return sysconf("SC_PHYS_PAGES") * sysconf("SC_PAGE_SIZE") if sysconf else 4 * 2**30


def _table(path: Path, scale: int = 1) -> dict[str, int]:
    """Lines of a name and a number."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) * scale for row in rows if len(row) > 1 and row[1].isdigit()}


def _text(path: Path) -> str:
    """A file's text without the line end; nothing if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
