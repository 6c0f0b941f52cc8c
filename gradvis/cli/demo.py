"""`gradvis demo`: a network trained on real data in seconds, and the main jobs on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import click

_RANKS = 2
_TRAJECTORY = ("gradvis-trajectory", "run.recording", "--surface", "--resolution", "21")
_QUIETLY = """
import runpy, sys
from gradvis.cli.runtime import quiet
with quiet():
    runpy.run_path(sys.argv[1], run_name="__main__")
"""
_COMMON = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "plotly": "plotly"}


class _Framework(NamedTuple):
    """What differs between the frameworks.

    Attributes:
        folder: Where all is put.
        script: That which trains.
        model: What it writes.
        extra: That which installs what is needed.
        needed: Packages by their modules.
    """

    folder: str
    script: str
    model: str
    extra: str
    needed: dict[str, str]


_FRAMEWORKS = {
    "torch": _Framework("gradvis-demo", "lenet.py", "model.pt", "demo", {"torch": "torch"}),
    "tensorflow": _Framework(
        "gradvis-demo-tensorflow", "lenet_keras.py", "model.keras", "demo-tensorflow",
        {"tensorflow": "tensorflow", "keras": "keras"},
    ),
}  # fmt: skip


@click.command(
    short_help="A small network on real data, trained and drawn.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--framework", type=click.Choice([*_FRAMEWORKS]), help="PyTorch or Keras [default: torch if it is there]")
def demo(folder: Path | None, framework: str | None) -> None:
    """Train a small network on real data, draw its loss surface and its training, all in FOLDER (or gradvis-demo)."""  # noqa: DOC501 - this is what --help prints
    chosen = _FRAMEWORKS[framework or next(filter(find_spec, _FRAMEWORKS), "torch")]
    missing = [package for module, package in {**chosen.needed, **_COMMON}.items() if find_spec(module) is None]
    if missing:
        raise ValueError(
            f'the demo needs {", ".join(missing)}; install them with: pip install "gradvis[{chosen.extra}]"'
        )
    folder = folder or Path(chosen.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / chosen.script).exists():  # else it may be edited: it is the user's
        with as_file(files("gradvis.cli") / "examples" / chosen.script) as script:
            shutil.copyfile(script, folder / chosen.script)
    _run(folder, f"python {chosen.script}", [sys.executable, "-c", _QUIETLY, chosen.script])
    launcher = _launcher()
    for words in (("gradvis-surface", chosen.model), _TRAJECTORY):
        command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
        if launcher:
            _run(folder, " ".join(["mpirun -n", str(_RANKS), *words]), [launcher, "-n", str(_RANKS), *command])
        else:
            _run(folder, " ".join(words), command)
    prefix = f"mpirun -n {_RANKS} " if launcher else ""
    click.echo(
        f"\nAll of it is in {folder}; open {folder / 'model.surface.html'} and {folder / 'run.trajectory.html'} in a "
        f"browser. Try next:\n  {_entering(folder)} && {prefix}gradvis-surface {chosen.model} --normalize layer --out "
        "layer.surface.zarr"
    )


def _entering(folder: Path) -> str:
    """What to type before the commands of this environment work in the folder."""
    activate = Path(sys.executable).with_name("activate")
    here = shutil.which("gradvis-surface") == str(activate.with_name("gradvis-surface"))
    start = "" if here or not activate.exists() else f"source {os.path.relpath(activate)} && "
    return f"{start}cd {folder}"


def _launcher() -> str | None:
    """The mpirun of this environment, if it can start ranks."""
    if find_spec("mpi4py") is None:
        return None
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else shutil.which("mpirun")


def _run(folder: Path, shown: str, command: list[str]) -> None:
    click.echo(f"\n$ {shown}", color=True)
    status = subprocess.run(command, cwd=folder, check=False).returncode
    if status:
        raise click.exceptions.Exit(status)
