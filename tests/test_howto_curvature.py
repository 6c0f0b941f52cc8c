"""The how-to for curvature: its page runs as it is, and its numbers are those of plain PyTorch's Hessian."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy

import gradvis
from tests.test_howto import typed

PAGE = (Path(__file__).parent.parent / "notebooks" / "howto" / "curvature.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder after all the blocks, from top to bottom."""
    place, before = tmp_path_factory.mktemp("curvature"), Path.cwd()
    os.chdir(place)
    try:
        for language, block in BLOCKS:
            if language == "python":
                (place / re.match(r"# (\w+\.py)\n", block)[1]).write_text(block)
            else:
                statuses = {line: typed(line) for line in block.splitlines()}
                assert set(statuses.values()) == {0}, statuses
        yield place
    finally:
        os.chdir(before)


def dense(folder, checkpoint):
    """The whole Hessian, and its last layer, by torch.func in float64."""
    page = runpy.run_path(str(folder / "curve.py"))
    model, (inputs, targets) = page["network"]().double(), page["data"]()
    model.load_state_dict(torch.load(folder / checkpoint, weights_only=True)["state_dict"])
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    flat = torch.cat([value.detach().reshape(-1) for value in model.parameters()])

    def loss(flat):
        parts = zip(model.named_parameters(), flat.split(list(sizes.values())), strict=True)
        views = {name: part.view_as(value) for (name, value), part in parts}
        return cross_entropy(functional_call(model, views, inputs.double()), targets)

    whole = hessian(loss)(flat).numpy()
    first = sum(size for name, size in sizes.items() if name.startswith("0."))
    return whole, whole[first:, first:]


@pytest.mark.slow
def test_the_page_gives_the_eigenvalues_of_the_dense_hessian(folder):
    whole, last = (np.linalg.eigvalsh(matrix)[::-1] for matrix in dense(folder, "step-200.pt"))
    found = {name: gradvis.open(folder / f"{name}.spectrum.zarr") for name in ("step-200", "exact", "last")}

    np.testing.assert_allclose(found["step-200"].pairs.values, whole[:10], atol=1e-4 * whole[0])
    np.testing.assert_allclose(found["exact"].pairs.values, whole[:3], atol=1e-7 * whole[0])
    np.testing.assert_allclose(found["last"].pairs.values, last[:10], atol=1e-4 * last[0])
    assert abs(found["step-200"].trace - whole.sum()) < 5 * found["step-200"].trace_stderr
    assert (folder / "training.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_plane_of_the_page_is_that_of_the_sharpest_directions(folder):
    whole, _ = dense(folder, "step-200.pt")
    values, vectors = np.linalg.eigh(whole)
    plane = gradvis.open(folder / "step-200.surface.zarr").plane

    assert np.abs(plane.directions @ vectors[:, [-1, -2]]).diagonal().min() > 0.999
    assert values[-2] - values[-3] > 0.01 * values[-1]  # else there would be no second direction
