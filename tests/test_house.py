"""The import arrows point up the list of CONTRIBUTING.md, and the core knows no framework."""

import ast
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A module imports, of ours, only from rooms named before it; the frameworks live in backends/ and mpi/ alone.
ORDER = [
    "arrays", "notes", "machine", "space", "plane", "provenance", "objective", "frameworks", "schedule", "tiles",
    "folder", "layout", "store", "claim", "krylov", "restart", "quadrature", "probing", "eigenpairs", "directions",
    "between", "grid", "landmarks", "tracks", "chunks", "recording", "rows", "stream", "recorder", "runs",
    "projection", "principal", "projected", "filling", "measurements", "probe_runs", "methods", "spectrum",
    "consistency", "surface", "trajectory", "results", "__init__", "callbacks", "plots", "backends", "mpi", "cli",
]  # fmt: skip
FRAMEWORKS = {"torch", "tensorflow", "keras", "mpi4py", "safetensors"}
PLOTTING = {"matplotlib", "plotly"}


def modules():
    found = [path for folder in ("gradvis", "backends", "mpi") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if "examples" not in path.parts]


def room(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "gradvis" else parts[1]


def imported(path):
    """Every module that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_up(path):
    here = ORDER.index(room(path))
    for name in imported(path):
        top, *rest = name.split(".")
        if top == "gradvis":
            there = rest[0] if rest and rest[0] in ORDER else "__init__"
            assert ORDER.index(there) <= here, f"{room(path)} imports {name}"
        assert top not in FRAMEWORKS or room(path) in {"backends", "mpi"}, f"{room(path)} imports {name}"
        assert top not in PLOTTING or room(path) == "plots", f"{room(path)} imports {name}"


def test_importing_gradvis_imports_no_framework_and_no_plotting():
    code = f"import sys, gradvis; print(sorted({FRAMEWORKS | PLOTTING} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("folder", ["backends", "mpi"])
def test_there_is_no_second_copy_of_a_package(folder):
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ImportError: import gradvis.{folder}" in done.stderr


def test_no_module_bears_the_name_of_a_framework():
    """A script started in its folder would import itself in place of the framework."""
    names = {path.stem for path in modules()} | {path.parent.name for path in modules()}
    assert not names & (FRAMEWORKS | PLOTTING | {"numpy", "xarray", "zarr"})


def test_the_wheel_has_every_module(tmp_path):
    """Installed in an environment of its own, which sees the dependencies of this one."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, tmp_path / "source"]
    ignore = ["--exclude=.venv", "--exclude=.git", "--exclude=build", "--exclude=*.egg-info", "--exclude=*.zarr"]
    (tmp_path / "source").mkdir()
    tar = subprocess.run(["tar", "-C", ROOT, *ignore, "-cf", "-", "."], capture_output=True, check=True)
    subprocess.run(["tar", "-C", tmp_path / "source", "-xf", "-"], input=tar.stdout, check=True)
    subprocess.run(build, capture_output=True, check=True)
    venv.create(tmp_path / "empty", with_pip=False)
    python = tmp_path / "empty" / "bin" / "python"
    (wheel,) = tmp_path.glob("*.whl")
    target = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(install, capture_output=True, check=True)
    names = [
        ".".join(part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__")
        for path in modules()
    ]
    names = [name if name.startswith("gradvis") else f"gradvis.{name}" for name in names]
    # The dependencies come after its own packages, without the path files that lead back to this checkout.
    site = [path for path in sys.path if path.endswith("site-packages")]
    code = (
        f"import sys; sys.path += {site!r}\n"
        f"import importlib\nfor name in {names!r}:\n"
        f"    module = importlib.import_module(name)\n"
        f"    assert module.__file__.startswith({str(target)!r}), module.__file__\n"
        f"from importlib.resources import files\n"
        f"assert (files('gradvis.cli') / 'examples' / 'lenet.py').is_file()\n"
        f"assert (files('gradvis') / 'py.typed').is_file()"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ""}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
