"""Checkpoints on a plane: their numbers against plain torch, what is told of them, and how they are kept."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradvis
from gradvis.backends.analytic import Quadratic
from gradvis.landmarks import Landmark, as_records, from_records, landmarks
from gradvis.notes import Note
from gradvis.plane import Plane
from gradvis.schedule import Serial


def mark(own: float, plane: float) -> Landmark:
    return Landmark("a.pt", (0.0,), 0.0, {"loss": own}, {"loss": plane})


@pytest.mark.parametrize(
    ("own", "plane", "apart"),
    [(2.0, 2.0, 0.0), (2.0, 2.5, 0.25), (2.0, 1.5, 0.25), (-2.0, -2.5, 0.25), (0.0, 0.0, 0.0), (0.0, 1e-9, np.inf),
     (1.0, np.nan, np.inf), (np.inf, 1.0, np.inf), (np.inf, np.inf, 0.0)],
)  # fmt: skip
def test_how_far_apart_is_a_share_of_the_own_loss(own, plane, apart):
    assert mark(own, plane).apart == apart


class Told(Quadratic):
    """At a checkpoint the loss is another by a factor: so much are the own loss and that of the plane apart."""

    factor = 1.0

    def at(self, checkpoint):
        other = Told(np.ones(2), offset=100.0)
        other.factor = checkpoint["factor"]
        return other

    def read(self, checkpoint):
        return np.asarray(checkpoint["theta"])

    def evaluate(self, plane, coords):
        return super().evaluate(plane, coords) * self.factor


@pytest.mark.parametrize(("factor", "told"), [(1.0, False), (1 / 1.009, False), (1 / 1.011, True), (1 / 0.989, True)])
def test_more_than_one_per_cent_is_told_and_no_less(factor, told):
    objective = Told(np.ones(2), offset=100.0)
    plane = Plane(np.zeros(2), np.eye(2)[:1], checkpoints={"b.pt": {"theta": [0.0, 0.0], "factor": factor}})

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        (found,) = landmarks(objective, plane, Serial())

    assert [issubclass(each.category, Note) for each in heard] == [True] * told
    assert found == Landmark("b.pt", (0.0,), 0.0, {"loss": pytest.approx(100 * factor)}, {"loss": 100.0})


def test_a_checkpoint_off_the_plane_is_dropped_onto_it():
    objective = Told(np.array([1.0, 4.0]), offset=100.0)
    directions = np.array([[2.0, 0.0]])
    plane = Plane(np.array([1.0, 0.0]), directions, checkpoints={"b.pt": {"theta": [7.0, -5.0], "factor": 1.0}})

    with pytest.warns(Note, match=r"b\.pt has the loss 137 .* but its place on the plane has 124\.5, 9% apart"):
        (found,) = landmarks(objective, plane, Serial())

    assert (found.name, found.coords, found.off_plane) == ("b.pt", (3.0,), 5.0)
    assert (found.own["loss"], found.plane["loss"]) == (137.0, 124.5)  # the latter of the point below it


def test_numbers_that_json_has_not_survive_the_disk():
    found = (
        Landmark("a", (0.5, -1.0), 0.25, {"loss": np.nan, "accuracy": 0.5}, {"loss": np.inf, "accuracy": -np.inf}),
        Landmark("b", (0.0, 1.0), 0.0, {"loss": 1 / 3, "accuracy": 1.0}, {"loss": 2 / 3, "accuracy": 0.0}),
    )

    back = from_records(json.loads(json.dumps(as_records(found), allow_nan=False)))

    assert repr(back) == repr(found)


class Net(nn.Module):
    """Batch norms in nested modules, one without affine parameters, one that averages over all it has seen."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head = nn.ModuleDict({"norm": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False))})
            self.tail = nn.ModuleList([nn.Linear(3, 5), nn.BatchNorm1d(5, momentum=None), nn.Linear(5, 3)])
        for buffer in (self.head["norm"][1].running_mean, self.tail[1].running_var):
            buffer += seed

    def forward(self, x):
        x = torch.tanh(self.head["norm"](x))
        for layer in self.tail:
            x = layer(x)
        return x


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
@pytest.mark.parametrize("policy", [None, "eval", "batch"])
@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 4.0]).double())])
def test_every_metric_of_a_checkpoint_is_that_of_plain_torch(policy, loss):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(13, 4)), rng.integers(0, 3, 13)
    models = [Net(seed).double().eval() for seed in (0, 1, 2)]
    made = gradvis.objective(models[0], (x, y), loss, metrics=["accuracy"], batch_size=5, batch_norm=policy)

    surface = gradvis.loss_surface(made, gradvis.plane_between(made, *models), resolution=2)

    weights = torch.ones(3).double() if loss == "cross_entropy" else loss.weight
    for found, model in zip(surface.checkpoints, models, strict=True):
        with torch.no_grad():
            outputs, targets = model(torch.tensor(x)), torch.tensor(y)
        hits = (outputs.argmax(1) == targets).double().numpy()
        assert found.own["loss"] == pytest.approx(F.cross_entropy(outputs, targets, weights).item(), rel=1e-12)
        assert found.own["accuracy"] == pytest.approx(hits.mean(), rel=1e-12)
        assert found.own["accuracy_stderr"] == pytest.approx(hits.std(ddof=1) / 13**0.5, rel=1e-9)
        assert tuple(found.own) == tuple(found.plane) == made.metrics
