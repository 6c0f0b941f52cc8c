"""`gradvis demo`: a network trained on real data in seconds, and the main jobs on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

import click

_RANKS = 2
_JOBS = (
    ("gradvis-surface", "model.pt"),
    ("gradvis-trajectory", "run.recording", "--surface", "--resolution", "21"),
)
_NEEDED = {"torch": "torch", "sklearn": "scikit-learn", "matplotlib": "matplotlib", "plotly": "plotly"}


@click.command(
    short_help="A small network on real data, trained and drawn.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("folder", default="gradvis-demo", type=click.Path(path_type=Path))
def demo(folder: Path) -> None:
    """Train a small network on real data, draw its loss surface and its training, all in FOLDER (or gradvis-demo)."""  # noqa: DOC501 - this is what --help prints
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ValueError(f'the demo needs {", ".join(missing)}; install them with: pip install "gradvis[demo]"')
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "lenet.py").exists():  # else it may be edited: it is the user's
        with as_file(files("gradvis.cli") / "examples" / "lenet.py") as script:
            shutil.copyfile(script, folder / "lenet.py")
    _run(folder, "python lenet.py", [sys.executable, "lenet.py"])
    launcher = _launcher()
    for words in _JOBS:
        command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
        if launcher:
            _run(folder, " ".join(["mpirun -n", str(_RANKS), *words]), [launcher, "-n", str(_RANKS), *command])
        else:
            _run(folder, " ".join(words), command)
    prefix = f"mpirun -n {_RANKS} " if launcher else ""
    click.echo(
        f"\nAll of it is in {folder}; open {folder / 'model.surface.html'} and {folder / 'run.trajectory.html'} in a "
        f"browser. Try next:\n  {_entering(folder)} && {prefix}gradvis-surface model.pt --normalize layer --out "
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
