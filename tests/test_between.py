"""Planes through checkpoints: where the checkpoints lie, and whose tensors the points between them have."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradvis
from gradvis.cli.surface import surface
from gradvis.grid import grid_on
from gradvis.plane import Plane
from gradvis.schedule import Serial

pytestmark = pytest.mark.filterwarnings("ignore::gradvis.notes.Note")


class Scaled(nn.Module):
    """A frozen layer and integer buffers: what is in no vector must come from somewhere."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.frozen = nn.Linear(4, 3), nn.Linear(3, 3).requires_grad_(False)
        self.register_buffer("power", torch.tensor(seed))
        self.register_buffer("order", torch.tensor([seed % 3, (seed + 1) % 3, (seed + 2) % 3]))

    def forward(self, x):
        return self.frozen(torch.tanh(self.first(x)))[:, self.order] * self.power


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


def test_the_first_checkpoint_lies_at_zero_itself_and_not_beside_it():
    """Plain linspace gives 5.6e-17 there."""
    (alpha,) = grid_on(Plane(np.zeros(3), np.eye(3)[:1]), (-0.3, 0.7), 11).values()

    assert 0 < abs(np.linspace(-0.3, 0.7, 11)[3]) < 1e-15
    assert alpha[3] == 0


def test_what_is_no_parameter_stays_that_of_the_first_checkpoint(pair):
    """Points at 1 have the second's parameters with the first's frozen layer and integer buffer."""
    first, second = nets(1, 2)
    made = gradvis.objective(first, pair, "cross_entropy")
    mixed = copy.deepcopy(first)
    mixed.first.load_state_dict(second.first.state_dict())

    found = gradvis.loss_surface(made, gradvis.plane_between(made, first, second), span=(0.0, 1.0), resolution=2)

    np.testing.assert_allclose(found.dataset["loss"], [direct(first, pair), direct(mixed, pair)], rtol=1e-12)
    own = [mark.own["loss"] for mark in found.checkpoints]
    np.testing.assert_allclose(own, [direct(first, pair), direct(second, pair)], rtol=1e-12)
    assert [mark.plane["loss"] for mark in found.checkpoints] == pytest.approx(
        [direct(first, pair), direct(mixed, pair)], rel=1e-12
    )


def test_a_restricted_plane_moves_its_part_and_holds_the_rest(pair):
    first, second = (nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double() for _ in range(2))
    part = gradvis.objective(first, pair, "cross_entropy").restrict("0.*")
    mixed = copy.deepcopy(first)
    mixed[0].load_state_dict(second[0].state_dict())

    found = gradvis.loss_surface(part, gradvis.plane_between(part, first, second), span=(0.0, 1.0), resolution=2)

    assert found.plane.d == 15
    np.testing.assert_allclose(found.dataset["loss"], [direct(first, pair), direct(mixed, pair)], rtol=1e-12)
    assert found.checkpoints[1].own["loss"] == pytest.approx(direct(second, pair), rel=1e-12)
    assert found.checkpoints[1].coords == pytest.approx((1.0,), abs=1e-12)


def test_a_surface_between_checkpoints_is_gone_on_with_to_the_last_bit(pair, tmp_path, monkeypatch):
    models = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).eval() for _ in range(2)]
    x, y = pair
    made = gradvis.objective(models[0], (x.astype(np.float32), y), "cross_entropy", batch_size=4)
    line = gradvis.plane_between(made, *models)
    whole = gradvis.loss_surface(made, line, resolution=9, out=tmp_path / "whole.zarr")
    write, written = gradvis.store.Store.write, []

    def tired(store, tile, values):
        if len(written) == 4:
            raise KeyboardInterrupt("enough")
        written.append(tile)
        write(store, tile, values)

    monkeypatch.setattr("gradvis.store.Store.write", tired)
    with pytest.raises(KeyboardInterrupt, match="enough"):
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


# ---------------------------------------------------------------------- the command

FILE = """
import gradvis, numpy as np, torch
from torch import nn

def network(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double().eval()
    model[1].running_mean += seed
    return model

def data(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(11, 4)), rng.integers(0, 3, 11)

def train():
    return gradvis.objective(network(9), data(0), "cross_entropy", batch_size=6)

def test():
    return gradvis.objective(network(9), data(1), "cross_entropy", batch_size=6)
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`gradvis-surface` in this process, in a folder with nets.py, a.pt and b.pt; and what nets.py holds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FILE)
    held: dict[str, Any] = {}
    exec(FILE, held)
    for seed, name in enumerate("ab"):
        gradvis.save_checkpoint(f"{name}.pt", held["network"](seed), objective="nets.py:train")

    def run(*words):
        surface.main([*words, "--plot", "none", "--quiet"], obj=Serial(), standalone_mode=False)

    return run, held


def test_a_line_between_files_and_the_same_line_with_other_data(command):
    run, held = command
    first, second = map(held["network"], range(2))

    run("a.pt", "--plane", "between", "--through", "b.pt", "--span", "-0.3:1.7", "--resolution", "5")
    line = gradvis.open("a.surface.zarr")
    run("b.pt", "--plane", "a.surface.zarr", "--through", "a.pt", "--objective", "nets.py:test", "--out", "test.zarr")
    test = gradvis.open("test.zarr")

    assert line.dataset["alpha"].values.tolist() == pytest.approx([-0.3, 0.2, 0.7, 1.2, 1.7])
    assert test.dataset["alpha"].values.tobytes() == line.dataset["alpha"].values.tobytes()
    assert test.plane.directions.tobytes() == line.plane.directions.tobytes()
    assert line.about["objective"]["batch_norm"] == test.about["objective"]["batch_norm"] == "recalibrate"
    assert {mark.name: mark.own["loss"] for mark in line.checkpoints} == {
        "a.pt": pytest.approx(direct(first, held["data"](0))),
        "b.pt": pytest.approx(direct(second, held["data"](0))),
    }
    assert [(mark.name, mark.own["loss"]) for mark in test.checkpoints] == [
        ("a.pt", pytest.approx(direct(first, held["data"](1))))
    ]
    for seed, result in enumerate((line, test)):
        twin = copy.deepcopy(first)
        with torch.no_grad():
            for moved, goal in zip(twin.parameters(), second.parameters(), strict=True):
                moved.lerp_(goal, 0.7)
        inputs = torch.tensor(held["data"](seed)[0])
        sums = [twin[0](part) for part in inputs.split(6)]
        with torch.no_grad():
            twin[1].running_mean[:] = sum(len(part) * part.mean(0) for part in sums) / 11
            twin[1].running_var[:] = sum(len(part) * part.var(0) for part in sums) / 11
        assert float(result.dataset["loss"][2]) == pytest.approx(direct(twin, held["data"](seed)), rel=1e-10)


def test_a_plane_of_other_dimensions_or_another_space_is_refused(command):
    run, _ = command
    run("a.pt", "--dims", "1", "--resolution", "3")
    torch.save(nn.Linear(4, 3).state_dict(), "small.pt")
    torch.save({f"1.{name}": value for name, value in torch.load("a.pt")["state_dict"].items()}, "same_size.pt")
    Path("small.py").write_text(
        FILE + "\ndef small():\n    return gradvis.objective(nn.Linear(4, 3), data(0), 'cross_entropy')\n"
        "\ndef other():\n    model = nn.Sequential(nn.Identity(), network(0))\n"
        "    return gradvis.objective(model, data(0), 'cross_entropy')\n"
    )

    with pytest.raises(ValueError, match="the plane of a.surface.zarr .* 1, but 2 came; leave it out"):
        run("a.pt", "--plane", "a.surface.zarr", "--dims", "2", "--out", "other.zarr")
    with pytest.raises(ValueError, match="33 parameters, but MODEL has 15; take a result of the same architecture"):
        run("small.pt", "--plane", "a.surface.zarr", "--objective", "small.py:small")
    with pytest.raises(ValueError, match="other layers, though with as many parameters as MODEL"):
        run("same_size.pt", "--plane", "a.surface.zarr", "--objective", "small.py:other")
