"""What only PyTorch has on the way through the points: vmap, compiled passes, devices. See tests/contract too."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import gradvis
from gradvis.backends.pytorch.compute import find_device, free_memory, is_dense
from gradvis.backends.room import POINTS, fastest, pays_together
from gradvis.notes import Note
from tests.contract.small_nets import NETS


def dense(*widths: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*[layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())][:-1])


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    return rng.normal(size=(23, 4)).astype(np.float32), rng.integers(0, 3, 23)


def coords(n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 2))


# ---------------------------------------------------------------------- several points at once


@pytest.mark.parametrize(
    ("layers", "together"),
    [
        ([nn.Linear(4, 3)], True),
        ([nn.Linear(4, 4), nn.LayerNorm(4), nn.Dropout(0.5), nn.Sequential(nn.GELU()), nn.Linear(4, 3)], True),
        ([nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)], False),
        ([nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(4, 3)], False),
    ],
)
def test_only_dense_nets_go_together(layers, together):
    assert is_dense(nn.Sequential(*layers)) is together


def test_points_go_together_where_the_work_is_small():
    assert pays_together(1 << 10, 1 << 10)
    assert not pays_together((1 << 10) + 1, 1 << 10)
    assert not pays_together(1, None)  # who does not say how much data there is


class Branching(nn.Module):
    """What it computes depends on values: vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.last(x)
        return out if out.sum() > 0 else 2 * out


def test_code_that_vmap_cannot_run_goes_the_plain_way(pair):
    objective = gradvis.objective(Branching(), pair, "cross_entropy")

    assert objective.points == 1
    assert np.isfinite(objective.evaluate(gradvis.random_plane(objective), coords(3))).all()


class Noisy(Branching):
    """Draws anew at every call: the plain loop seeds each batch with its number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x * random.random())


class Peeking(Branching):
    """Another function under vmap than alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x) * (2 if torch._C._functorch.maybe_current_level() else 1)


@pytest.mark.parametrize("kind", [Noisy, Peeking])
def test_what_would_have_other_values_together_goes_the_plain_way(pair, kind):
    objective = gradvis.objective(kind(), pair, "cross_entropy")

    assert is_dense(kind())
    assert objective.points == 1


def test_options_that_the_plain_loop_must_serve_keep_points_apart(pair):
    def points(loss="cross_entropy", **options):
        return gradvis.objective(dense(4, 8, 3), pair, loss, **options).points

    assert points() == POINTS
    assert points(dtype="bfloat16") == 1
    assert points(loss=lambda outputs, targets: outputs.square().sum(1)) == 1
    assert gradvis.objective(dense(4, 400, 400, 3), pair, "cross_entropy").points == 1


# ---------------------------------------------------------------------- out of memory


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_a_compiled_pass_shrinks_with_the_micro_batch(pair, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    model, limits = NETS["torch"].hungry()
    objective = gradvis.objective(model, pair, "cross_entropy", micro_batch=23, compile=True, dtype="float64")
    theta = objective.parameters()
    wanted = objective.measure(theta)["loss"]

    assert objective.again({"micro_batch": 9}).measure(theta)["loss"] == pytest.approx(wanted, rel=1e-12)
    assert limits.seen[-3:] == [9, 9, 9]  # 8, 8 and 7, filled up
    limits.room = 6
    assert objective.measure(theta)["loss"] == pytest.approx(wanted, rel=1e-12)
    assert limits.seen[-5:] == [5] * 5


# ---------------------------------------------------------------------- tuning


def test_the_fastest_way_is_the_one_with_the_best_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    costs = {"slow": [0, 5, 5, 5], "steady": [9, 3, 3, 3], "lucky": [9, 7, 2, 7]}

    def run(way: str) -> None:
        clock[0] += costs[way].pop(0)

    assert fastest(list(costs), run) == "lucky"


# ---------------------------------------------------------------------- devices


def test_rocm_is_the_name_of_amds_cuda(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda *_, device: asked.append(str(device)))

    assert str(find_device("rocm:1", 0)) == "cuda:1"
    assert str(find_device("rocm", 3)) == "cuda:1"
    assert asked == ["cuda:1", "cuda:1"]


def test_ranks_that_share_a_device_divide_its_memory_and_say_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1200, 2000))

    assert free_memory(torch.device("cuda", 0), 2) == 1200
    with pytest.warns(Note, match="3 ranks share cuda:0: each takes its part of the memory"):
        assert free_memory(torch.device("cuda", 0), 5) == 400


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: these run where there is one")


@cuda
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_cuda_gives_the_numbers_of_the_cpu(pair, dtype):
    values = []
    for device in ("cpu", "cuda"):
        objective = gradvis.objective(dense(4, 8, 3), pair, "cross_entropy", device=device, dtype=dtype)
        values.append(objective.evaluate(gradvis.random_plane(objective), coords(5)))
    np.testing.assert_allclose(*values, rtol={"float32": 1e-5, "float64": 1e-12, "bfloat16": 3e-2}[dtype])


@cuda
def test_cuda_halves_the_micro_batch_when_it_runs_out(pair):
    torch.cuda.set_per_process_memory_fraction(0.05)
    try:
        wide = nn.Sequential(nn.Linear(4, 1 << 16), nn.Tanh(), nn.Linear(1 << 16, 3))
        inputs = np.zeros((1 << 17, 4), np.float32)
        objective = gradvis.objective(
            wide, (inputs, np.zeros(1 << 17, int)), "cross_entropy", device="cuda", micro_batch=1 << 17
        )
        with pytest.warns(Note, match="ran out of memory"):
            objective.measure(objective.parameters())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device here: it runs where there is one")


@mps
def test_mps_gives_the_numbers_of_the_cpu(pair):
    values = []
    for device in ("cpu", "mps"):
        objective = gradvis.objective(dense(4, 8, 3), pair, "cross_entropy", device=device)
        values.append(objective.evaluate(gradvis.random_plane(objective), coords(5)))
    np.testing.assert_allclose(*values, rtol=1e-5)
