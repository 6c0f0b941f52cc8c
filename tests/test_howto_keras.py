"""The how-to for Keras: its page runs as it is; one process does all commands of a block: TensorFlow starts slowly."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import gradvis
from tests.launch import PYTHON, run
from tests.test_keras_commands import MANY

PAGE = (Path(__file__).parent.parent / "notebooks" / "howto" / "keras.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder after all the blocks, from top to bottom."""
    place = tmp_path_factory.mktemp("keras")
    for language, block in BLOCKS:
        if language == "python":
            (place / re.match(r"# (\w+\.py)\n", block)[1]).write_text(block)
            continue
        lines = block.splitlines()
        scripts = [line for line in lines if line.startswith("python ")]
        ours = [line for line in lines if line.startswith("gradvis-")]
        assert lines == [*scripts, *ours]
        for line in scripts:
            done = run(PYTHON, *line.split()[1:], cwd=place, timeout=120)
            assert done.returncode == 0, done.stderr
        done = run(PYTHON, "-c", MANY, *[line.removeprefix("gradvis-") for line in ours], cwd=place, timeout=240)
        assert done.returncode == 0, done.stderr
        assert [status for status, *_ in json.loads(done.stdout)["found"]] == [0] * len(ours), done.stdout
    return place


@pytest.mark.slow
def test_the_page_gives_what_keras_itself_measures(folder):
    import keras

    model = keras.models.load_model(folder / "model.keras")
    for name, samples in (("model", "train"), ("test", "test")):
        center = gradvis.open(folder / f"{name}.surface.zarr").center
        with np.load(folder / f"{samples}.npz") as data:
            wanted = model.evaluate(data["inputs"], data["targets"], verbose=0, return_dict=True)
        assert center["loss"] + center["regularisation"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert center["accuracy"] == pytest.approx(wanted["accuracy"], rel=1e-5)
    spectrum = gradvis.open(folder / "model.spectrum.zarr")
    assert spectrum.pairs.converged.all()
    assert gradvis.open(folder / f"{folder.name}.trajectory.zarr").tracks[0].steps.tolist() == [0, 1, 2]
    assert len(list(folder.glob("*.png"))) == 3
