"""The notebooks run, at toy size, and those that are kept have their pictures.

`python tests/test_notebooks.py` runs them at full size and keeps what they show.
"""

from __future__ import annotations

import os
import re
import sys
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

KEPT = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
NAMES = [path.name for path in KEPT]
ABSOLUTE = re.compile(r"""(?<![\w./:<])(?:/[\w.-]+){2,}|\b[A-Z]:\\|file://""")


def run(path, folder):
    """A notebook with its outputs, computed in a folder; raises if a cell does."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def texts(output):
    """All that an output says in letters."""
    said = [output.get("text", ""), *output.get("traceback", [])]
    return "\n".join([*said, *(value for kind, value in output.get("data", {}).items() if kind.startswith("text/"))])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", KEPT, ids=NAMES)
def test_a_notebook_runs_and_its_claims_hold_at_toy_size(path, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADVIS_NOTEBOOK", "toy")
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())

    done = run(copy, tmp_path)

    assert [output for output in outputs(done) if output.output_type == "error"] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs(done)) >= 5
    assert list(tmp_path.iterdir()) == [copy]


@pytest.mark.parametrize("path", KEPT, ids=NAMES)
def test_a_kept_notebook_was_run_from_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [cell.source for cell in cells[1:] if not cell.outputs] == []  # the first one imports
    assert [each for each in outputs(notebook) if each.output_type == "error" or each.get("name") == "stderr"] == []


@pytest.mark.parametrize("path", KEPT, ids=NAMES)
def test_a_kept_notebook_is_small_and_names_no_place_of_this_machine(path):
    said = map(texts, outputs(nbformat.read(path, as_version=4)))

    assert [match[0] for text in said for match in ABSOLUTE.finditer(text)] == []
    assert path.stat().st_size < 1_000_000


def test_absolute_paths_are_found():
    assert ABSOLUTE.search("in /usr/lib/x.py:3")
    assert ABSOLUTE.search("file:///tmp")
    assert not ABSOLUTE.search("see https://docs.xarray.dev/en/stable, W1/W2, and howto/models.md")


def smaller(picture):
    """A PNG of 256 colours, base64 as notebooks have it: a third of the bytes, and no difference to the eye."""
    image, file = Image.open(BytesIO(b64decode(picture))).convert("RGB"), BytesIO()
    image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=0).save(file, "PNG", optimize=True)
    return b64encode(file.getvalue()).decode()


def keep(path):
    """Run a notebook at full size, and write it with what it shows."""
    notebook = run(path, path.parent)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    for output in outputs(notebook):
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = smaller(output.data["image/png"])
    nbformat.write(notebook, path)


if __name__ == "__main__":
    os.environ.pop("GRADVIS_NOTEBOOK", None)
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else KEPT:
        keep(path)
