"""Ways through the points of a plane: vmap, less memory, tuning. All of them give the numbers of the plain loop."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import gradvis
from gradvis.backends.pytorch.compute import POINTS, fastest, find_device, free_memory, is_dense, pays_together
from gradvis.notes import Note


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


@pytest.mark.parametrize("n", [1, POINTS, POINTS + 1])
@pytest.mark.parametrize("budget", [None, 0])
def test_points_together_have_the_values_of_points_alone(pair, n, budget):
    objective = gradvis.objective(
        dense(4, 8, 3), pair, "cross_entropy", metrics=["accuracy"], dtype="float64", batch_size=8, data_budget=budget
    )
    assert objective.points == POINTS
    plane = gradvis.random_plane(objective)

    found = objective.evaluate(plane, coords(n))

    alone = objective.again({"points": 1}).evaluate(plane, coords(n))
    np.testing.assert_allclose(found, alone, rtol=1e-12)
    assert objective.how["points"] == POINTS


def test_a_point_has_the_same_bits_in_any_company(pair):
    objective = gradvis.objective(dense(4, 8, 3), pair, "cross_entropy")
    plane, where = gradvis.random_plane(objective), coords(POINTS + 5)

    whole = objective.evaluate(plane, where)

    assert objective.evaluate(plane, where[7:8]).tobytes() == whole[7:8].tobytes()
    assert objective.evaluate(plane, where[::-1])[::-1].tobytes() == whole.tobytes()


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


def test_a_surface_of_points_together_is_that_of_points_alone(pair, tmp_path):
    objective = gradvis.objective(dense(4, 8, 3), pair, "cross_entropy", dtype="float64")
    plane = gradvis.random_plane(objective)

    together = gradvis.loss_surface(objective, plane, resolution=9, out=tmp_path / "a.zarr")
    alone = gradvis.loss_surface(objective.again({"points": 1}), plane, resolution=9, out=tmp_path / "b.zarr")

    assert (together.about["how"]["points"], alone.about["how"]["points"]) == (POINTS, 1)
    np.testing.assert_allclose(together.dataset["loss"], alone.dataset["loss"], rtol=1e-12)


# ---------------------------------------------------------------------- out of memory


class Hungry(nn.Module):
    """Runs out of memory when more than `room` samples come at once, as a device would."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.conv, self.last, self.room = nn.Conv1d(1, 2, 2), nn.Linear(6, 3), room
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.last(self.conv(x[:, None]).flatten(1))


def test_out_of_memory_halves_the_micro_batch_and_goes_on(pair, tmp_path):
    model = Hungry(6)
    objective = gradvis.objective(model, pair, "cross_entropy", micro_batch=23)
    roomy = gradvis.objective(Hungry(99), pair, "cross_entropy", micro_batch=5)
    roomy._model.load_state_dict(model.state_dict())
    plane = gradvis.random_plane(objective)

    with pytest.warns(Note, match="cpu ran out of memory: going on with 11 samples at once in place of 23"):
        surface = gradvis.loss_surface(objective, plane, resolution=3, out=tmp_path / "run.zarr")

    wanted = gradvis.loss_surface(roomy, plane, resolution=3)
    np.testing.assert_allclose(surface.dataset["loss"], wanted.dataset["loss"], rtol=1e-5)
    assert surface.about["how"]["micro_batch"] == 5
    assert model.seen.count(23) == 1  # never so many again
    assert max(model.seen[model.seen.index(23) + 1 :]) == 8  # 23 samples in pieces of at most 11
    assert gradvis.open(tmp_path / "run.zarr").about["how"]["micro_batch"] == 5


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_gradients_and_products_find_room_too(pair):
    model = Hungry(6)
    objective = gradvis.objective(model, pair, "cross_entropy", micro_batch=23, dtype="float64")
    theta = objective.parameters()

    found = objective.gradient(theta), objective.hvp(theta, theta[None])

    model.room = 99
    roomy = gradvis.objective(model, pair, "cross_entropy", micro_batch=23, dtype="float64")
    np.testing.assert_allclose(found[0], roomy.gradient(theta), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(found[1], roomy.hvp(theta, theta[None]), rtol=1e-9, atol=1e-14)


def test_no_room_for_one_sample_is_an_error(pair):
    model = Hungry(2)
    objective = gradvis.objective(model, pair, "cross_entropy", micro_batch=2)
    model.room = 0

    with pytest.warns(Note), pytest.raises(RuntimeError, match="cpu has not the memory for one sample at a time"):
        objective.measure(objective.parameters())


def test_batches_that_cannot_be_cut_say_so(pair):
    model = Hungry(23)
    x, y = map(torch.as_tensor, pair)
    objective = gradvis.objective(
        model,
        [(x, y)],
        batch_loss=lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1], reduction="none"),
    )
    model.room = 9

    with pytest.raises(RuntimeError, match="has not the memory for batches that cannot be cut; pass smaller ones"):
        objective.measure(objective.parameters())


def test_recalibration_needs_room_for_a_whole_batch(pair):
    model = nn.Sequential(Hungry(23), nn.BatchNorm1d(3))
    objective = gradvis.objective(model, pair, "cross_entropy", batch_size=8, batch_norm="recalibrate")
    model[0].room = 7

    with pytest.raises(RuntimeError, match="cpu has not the memory for a whole batch.*; take a smaller batch_size"):
        objective.measure(objective.parameters())

    assert 7 not in model[0].seen  # fewer samples at once were no help, and were not tried


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_after_the_batches_room_is_found_for_the_values(pair):
    """Batches of 4 fit; the 23 samples that go through together afterwards do not."""
    model = nn.Sequential(Hungry(99), nn.BatchNorm1d(3)).double()
    options = {"batch_size": 4, "batch_norm": "recalibrate", "micro_batch": 23}
    wanted = gradvis.objective(model, pair, "cross_entropy", **options)
    plane = gradvis.random_plane(wanted)
    roomy = wanted.evaluate(plane, coords(3))
    model[0].room = 5

    tight = gradvis.objective(model, pair, "cross_entropy", **options)

    np.testing.assert_allclose(tight.evaluate(plane, coords(3)), roomy, rtol=1e-12)
    assert tight.how["micro_batch"] == 5
    assert wanted.again(tight.how).how["micro_batch"] == 5


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_a_compiled_pass_shrinks_with_the_micro_batch(pair, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    model = Hungry(99)
    objective = gradvis.objective(model, pair, "cross_entropy", micro_batch=23, compile=True, dtype="float64")
    theta = objective.parameters()
    wanted = objective.measure(theta)["loss"]

    assert objective.again({"micro_batch": 9}).measure(theta)["loss"] == pytest.approx(wanted, rel=1e-12)
    assert model.seen[-3:] == [9, 9, 9]  # 8, 8 and 7, filled up
    model.room = 6
    assert objective.measure(theta)["loss"] == pytest.approx(wanted, rel=1e-12)
    assert model.seen[-5:] == [5] * 5


def test_a_buffer_that_a_forward_pass_writes_is_put_back_before_every_point(pair):
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.last(x) * self.calls

    objective = gradvis.objective(Counting(), pair, "cross_entropy", micro_batch=8)
    plane = gradvis.random_plane(objective)

    found = objective.evaluate(plane, np.zeros((3, 2)))

    assert found[1:].tobytes() == found[:1].tobytes() * 2


# ---------------------------------------------------------------------- tuning


def test_the_fastest_way_is_the_one_with_the_best_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    costs = {"slow": [0, 5, 5, 5], "steady": [9, 3, 3, 3], "lucky": [9, 7, 2, 7]}

    def run(way: str) -> None:
        clock[0] += costs[way].pop(0)

    assert fastest(list(costs), run) == "lucky"


def test_tuning_chooses_a_way_that_gives_the_same_surface(pair):
    objective = gradvis.objective(dense(4, 8, 3), pair, "cross_entropy", dtype="float64", micro_batch=8)
    plane = gradvis.random_plane(objective)

    how = objective.tune(plane)
    tuned = objective.again(how)

    assert tuned.how == how
    assert how["micro_batch"] in {2, 4, 8, 16, 32}
    assert how["points"] in {1, POINTS}
    np.testing.assert_allclose(tuned.evaluate(plane, coords(3)), objective.evaluate(plane, coords(3)), rtol=1e-12)


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
