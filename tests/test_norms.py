"""What only PyTorch's batch norms do: none kept, compiled passes, ranks. The policies are in tests/contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradvis
from tests.contract.norm_nets import EPSILON, IMAGES, NETS, TARGETS, batches, by_hand
from tests.launch import PYTHON, mpirun

NET = NETS["torch"]
PAIR = IMAGES, TARGETS


def objective(model, **options):
    return gradvis.objective(model, PAIR, "cross_entropy", **{"batch_size": 6} | options)


def wanted(model, policy):
    """By hand, where the model stands."""
    theta = nn.utils.parameters_to_vector(model.parameters()).detach()
    return pytest.approx(by_hand(NET, policy, theta, NET.stored(model)).item(), rel=1e-11)


def test_a_batch_norm_that_keeps_no_statistics_is_never_cut():
    model = NET.model().eval()
    model[1] = nn.BatchNorm2d(2, eps=EPSILON, track_running_stats=False).double()
    made = objective(model, micro_batch=2)

    found = made.measure(made.parameters())["loss"]

    with torch.no_grad():
        plain = sum(F.cross_entropy(model(x), y, reduction="sum") for x, y in batches()) / len(TARGETS)
    assert found == pytest.approx(float(plain), rel=1e-12)
    assert made.about["batch_norm"] == "eval"  # the other batch norm has statistics
    assert made.about["batches"] == "2 of 6, 1 of 5"


@pytest.mark.parametrize("policy", ["eval", "recalibrate"])
def test_without_any_statistics_there_are_only_those_of_the_batch(policy):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()

    assert objective(model).about["batch_norm"] == "batch"
    with pytest.raises(ValueError, match=f"batch_norm='{policy}' needs running statistics"):
        objective(model, batch_norm=policy)


@pytest.mark.parametrize("policy", ["batch", "recalibrate"])
def test_a_batch_norm_that_only_stopped_tracking_has_statistics_all_the_same(policy):
    model = NET.model()
    model[1].track_running_stats = False
    made = objective(model, batch_norm=policy)

    assert made.measure(made.parameters())["loss"] == wanted(model, policy)
    assert objective(model).about["batch_norm"] == "eval"
    assert model[1].track_running_stats is False


def test_recalibration_sees_no_sample_that_only_fills_a_compiled_batch_up(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    model = NET.model()
    made = objective(model, batch_norm="recalibrate", compile=True, micro_batch=17)

    found = made.measure(made.parameters())["loss"]

    assert made.how["micro_batch"] == 17  # whole batches are of 6
    assert found == wanted(model, "recalibrate")


SURFACES = """
import sys
import numpy as np, torch, gradvis
from torch import nn

def surfaces():
    rng = np.random.default_rng(3)
    pair = rng.normal(size=(17, 4)).astype(np.float32), rng.integers(0, 3, 17)
    for norm in (nn.BatchNorm1d, nn.LayerNorm):  # recalibrated point by point; points together by vmap
        torch.manual_seed(0)
        first, second = (nn.Sequential(nn.Linear(4, 5), norm(5), nn.Tanh(), nn.Linear(5, 3)).eval() for _ in range(2))
        made = gradvis.objective(first, pair, "cross_entropy", batch_size=6, threads=1)
        surface = gradvis.loss_surface(made, gradvis.plane_between(made, first, second), resolution=70)
        assert (made.points, surface.about["objective"]["batch_norm"]) in {(1, "recalibrate"), (32, None)}
        yield surface.dataset["loss"].values, [list(mark.plane.values()) for mark in surface.checkpoints]
"""


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_two_ranks_give_the_bits_of_one_under_recalibration_and_by_vmap(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(
        SURFACES
        + """
from gradvis.schedule import default_scheduler
found = [np.append(loss, marks) for loss, marks in surfaces()]
assert default_scheduler().size == 2
if default_scheduler().is_root:
    np.save(sys.argv[1], found)
"""
    )

    done = mpirun(2, PYTHON, script, tmp_path / "found.npy", timeout=120)

    assert done.returncode == 0, done.stderr
    here: dict[str, Any] = {}
    exec(SURFACES, here)
    alone = [np.append(loss, marks) for loss, marks in here["surfaces"]()]
    assert np.load(tmp_path / "found.npy").tobytes() == np.array(alone).tobytes()
