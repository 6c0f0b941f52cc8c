"""How the suite is shared out among processes (`make test`; `pytest FILE` runs in one), and what files leave behind."""

from __future__ import annotations

import os
import sys

import pytest

from gradvis import machine

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # said before a test imports a framework
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ.setdefault(name, str(max(1, machine.cpus() // workers)))

WORKER = 4 * 2**30  # bytes: both frameworks and their graphs, and the ranks that its tests start
# Pieces of the suite that stay together; they take longest, so that they come first.
ROOMS = {
    # jobs that are killed and waited for follow one another: few ranks share the CPUs
    "ranks": (
        "tests/mpi/", "tests/test_commands.py", "tests/test_ends.py", "tests/test_spectrum_command.py",
        "tests/test_trajectory_command.py",
    ),
    "laws": ("tests/contract/test_contract.py", "tests/contract/test_curvature.py"),  # they share traced graphs
    "notebooks": ("tests/test_notebooks.py",),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_modules(tmp_path_factory):
    """What a file imports from folders that it makes goes with them: the next one has a net.py of its own."""
    yield
    made = str(tmp_path_factory.getbasetemp())
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(made):
            del sys.modules[name]


def room(nodeid):
    """Tests of one room run in one process; any other file is a room of its own, and shares what its fixtures make."""
    return next((name for name, files in ROOMS.items() if nodeid.startswith(files)), nodeid.partition("::")[0])


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(ROOMS)}
    items.sort(key=lambda item: places.get(room(item.nodeid), len(ROOMS)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    return max(1, min(machine.cpus(), machine.memory() // WORKER, 8))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Rooms(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return room(nodeid)

    config.option.loadscopereorder = False
    return Rooms(config, log)
