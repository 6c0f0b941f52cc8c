"""Planes through checkpoints: where the checkpoints lie, and whose tensors the points between them have."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradvis
from gradvis.grid import grid_on
from gradvis.plane import Plane

pytestmark = pytest.mark.filterwarnings("ignore::gradvis.notes.Note")


class Scaled(nn.Module):
    """A frozen layer and an integer buffer: what is in no vector must come from somewhere."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.frozen = nn.Linear(4, 3), nn.Linear(3, 3).requires_grad_(False)
        self.register_buffer("power", torch.tensor(seed))

    def forward(self, x):
        return self.frozen(torch.tanh(self.first(x))) * self.power


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    return rng.normal(size=(11, 4)), rng.integers(0, 3, 11)


def direct(model, pair):
    x, y = map(torch.tensor, pair)
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item()


def nets(*seeds):
    return [Scaled(seed).double() for seed in seeds]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_checkpoints_are_the_corners_of_the_plane(pair, count):
    models = nets(1, 2, 3, 4)[:count]
    made = gradvis.objective(models[0], pair, "cross_entropy")
    plane = gradvis.plane_between(made, *models)

    thetas = np.stack([made.read(model) for model in models])
    coords, off = plane.project(thetas)

    corners = np.vstack([np.zeros(count - 1), np.eye(count - 1)])
    np.testing.assert_allclose(coords, corners, atol=1e-13)
    np.testing.assert_allclose(off, 0, atol=1e-13)
    np.testing.assert_array_equal(plane.origin, thetas[0])
    np.testing.assert_array_equal(plane.directions, thetas[1:] - thetas[0])
    assert plane.about == {"kind": "between", "checkpoints": [f"checkpoint {number + 1}" for number in range(count)]}
    assert {name: axis[[0, -1]].tolist() for name, axis in grid_on(plane, resolution=3).items()} == {
        name: [-0.5, 1.5] for name in ("alpha", "beta", "gamma")[: count - 1]
    }


def test_the_default_line_has_both_checkpoints_on_its_grid():
    plane = Plane(np.zeros(3), np.eye(3)[:1], {"kind": "between"})

    (alpha,) = grid_on(plane).values()

    assert len(alpha) == 201
    assert {0.0, 1.0} <= set(alpha.tolist())


def test_what_is_no_parameter_stays_that_of_the_first_checkpoint(pair):
    """Points at 1 have the second's parameters with the first's frozen layer and integer buffer."""
    first, second = nets(1, 2)
    made = gradvis.objective(first, pair, "cross_entropy")
    mixed = copy.deepcopy(first)
    mixed.first.load_state_dict(second.first.state_dict())

    surface = gradvis.loss_surface(made, gradvis.plane_between(made, first, second), span=(0.0, 1.0), resolution=2)

    np.testing.assert_allclose(surface.dataset["loss"], [direct(first, pair), direct(mixed, pair)], rtol=1e-12)
    own = [mark.own["loss"] for mark in surface.checkpoints]
    np.testing.assert_allclose(own, [direct(first, pair), direct(second, pair)], rtol=1e-12)
    assert [mark.plane["loss"] for mark in surface.checkpoints] == pytest.approx(
        [direct(first, pair), direct(mixed, pair)], rel=1e-12
    )


def test_a_restricted_plane_moves_its_part_and_holds_the_rest(pair):
    first, second = (nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double() for _ in range(2))
    part = gradvis.objective(first, pair, "cross_entropy").restrict("0.*")
    mixed = copy.deepcopy(first)
    mixed[0].load_state_dict(second[0].state_dict())

    surface = gradvis.loss_surface(part, gradvis.plane_between(part, first, second), span=(0.0, 1.0), resolution=2)

    assert surface.plane.d == 15
    np.testing.assert_allclose(surface.dataset["loss"], [direct(first, pair), direct(mixed, pair)], rtol=1e-12)
    assert surface.checkpoints[1].own["loss"] == pytest.approx(direct(second, pair), rel=1e-12)
    assert surface.checkpoints[1].coords == pytest.approx((1.0,), abs=1e-12)


def test_a_surface_between_checkpoints_is_gone_on_with_to_the_last_bit(pair, tmp_path, monkeypatch):
    models = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).eval() for _ in range(2)]
    x, y = pair
    made = gradvis.objective(models[0], (x.astype(np.float32), y), "cross_entropy", batch_size=4)
    line = gradvis.plane_between(made, *models)
    whole = gradvis.loss_surface(made, line, resolution=9, out=tmp_path / "whole.zarr")
    write, written = gradvis.store.Store.write, []

    def tired(store, tile, values):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(tile)
        write(store, tile, values)

    monkeypatch.setattr("gradvis.store.Store.write", tired)
    with pytest.raises(KeyboardInterrupt, match=""):
        gradvis.loss_surface(made, line, resolution=9, out=tmp_path / "run.zarr")
    monkeypatch.undo()
    assert gradvis.open(tmp_path / "run.zarr").done.sum() == 4

    resumed = gradvis.loss_surface(made, line, resolution=9, out=tmp_path / "run.zarr")

    assert resumed.about["objective"]["batch_norm"] == "recalibrate"
    assert resumed.dataset["loss"].values.tobytes() == whole.dataset["loss"].values.tobytes()
    assert resumed.checkpoints == whole.checkpoints


def test_the_paragraph_names_the_checkpoints_and_the_policy(pair):
    models = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double().eval() for _ in range(3)]
    made = gradvis.objective(models[0], pair, "cross_entropy", batch_size=11)
    plane = gradvis.plane_between(made, *models, names=["a.pt", "b.pt", "c.pt"])

    said = gradvis.loss_surface(made, plane, resolution=2).methods()

    assert "through a.pt, b.pt and c.pt, at 0 and at 1 of each axis, along their differences" in said
    assert "statistics of batch normalisation were computed anew at every point" in said
    assert f"b.pt has the loss {direct(models[1], pair):.6g} with its own" in said
    fixed = gradvis.objective(models[0], pair, "cross_entropy", batch_size=11, batch_norm="batch")
    assert "used the statistics of each batch" in gradvis.loss_surface(fixed, plane, resolution=2).methods()
