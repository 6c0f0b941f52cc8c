"""Batch norm's policies against plain loops over a copy of the model."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradvis
from gradvis.backends.pytorch.norms import of_each_batch
from gradvis.notes import Note
from gradvis.plane import Plane
from tests.launch import PYTHON, mpirun

SIZES = [6, 6, 5]  # the last batch is ragged


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Linear(4, 3),
        )  # fmt: skip
    for layer in (model[1], model[6]):
        layer.running_mean += 0.3 * (seed + 1)
        layer.running_var *= 1.5 + seed
    return model.double().eval()


@pytest.fixture
def pair():
    rng = np.random.default_rng(3)
    return rng.normal(size=(sum(SIZES), 1, 4, 4)), rng.integers(0, 3, sum(SIZES))


def batches(pair):
    return list(zip(*(torch.tensor(part).split(SIZES) for part in pair), strict=True))


def objective(model, pair, **options):
    return gradvis.objective(model, pair, "cross_entropy", metrics=["accuracy"], batch_size=6, **options)


def set_point(model, theta):
    nn.utils.vector_to_parameters(torch.tensor(theta), model.parameters())


def norms(model):
    return [layer for layer in model if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def by_batch(model, pair):
    """The loss with the statistics of each batch, summed over samples."""
    model = copy.deepcopy(model)
    for layer in norms(model):
        layer.train()
    return sum(F.cross_entropy(model(x), y, reduction="sum") for x, y in batches(pair)) / sum(SIZES)


def recalibrated(model, pair):
    """Means over samples of each batch's mean and unbiased variance, layer by layer, by hooks."""
    model = copy.deepcopy(model).requires_grad_(False)
    found = {
        layer: (torch.zeros_like(layer.running_mean), torch.zeros_like(layer.running_var)) for layer in norms(model)
    }

    def see(layer, inputs):
        x = inputs[0].transpose(0, 1).flatten(1)
        mean, var = found[layer]
        mean += len(inputs[0]) / sum(SIZES) * x.mean(1)
        var += len(inputs[0]) / sum(SIZES) * x.var(1, correction=1)

    for layer in norms(model):
        layer.train()
        layer.register_forward_pre_hook(see)
    for x, _ in batches(pair):
        model(x)
    for layer, (mean, var) in found.items():
        layer.eval()
        layer.running_mean, layer.running_var = mean, var
        layer._forward_pre_hooks.clear()
    return float(sum(F.cross_entropy(model(x), y, reduction="sum") for x, y in batches(pair)) / sum(SIZES))


@pytest.fixture
def plane():
    model = net()
    origin = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    return Plane(origin, 0.3 * np.random.default_rng(1).normal(size=(2, origin.size)))


COORDS = np.array([[0.0, 0.0], [1.0, -0.5], [0.2, 2.0]])


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize(("policy", "naive"), [("batch", by_batch), ("recalibrate", recalibrated)])
def test_a_policy_is_what_the_plain_loop_computes(pair, plane, policy, naive, budget):
    model = net()

    found = objective(model, pair, batch_norm=policy, micro_batch=4, data_budget=budget).evaluate(plane, COORDS)[:, 0]

    for loss, theta in zip(found, plane.point(COORDS), strict=True):
        twin = net()
        set_point(twin, theta)
        with torch.no_grad():
            assert loss == pytest.approx(float(naive(twin, pair)), rel=1e-12)


def test_stored_statistics_are_the_default_near_one_checkpoint(pair, plane):
    model = net()

    found = objective(model, pair).evaluate(plane, COORDS[:1])[0, 0]

    x, y = map(torch.tensor, pair)
    assert found == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)
    assert objective(model, pair).about["batch_norm"] == "eval"


@pytest.mark.parametrize("policy", ["eval", "batch", "recalibrate"])
def test_the_model_is_found_again_as_it_was(pair, plane, policy):
    model = net()
    model[4].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [
        (layer.training, getattr(layer, "momentum", None), getattr(layer, "track_running_stats", None))
        for layer in model
    ]

    objective(model, pair, batch_norm=policy).evaluate(plane, COORDS)

    after = [
        (layer.training, getattr(layer, "momentum", None), getattr(layer, "track_running_stats", None))
        for layer in model
    ]
    assert after == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("policy", ["batch", "recalibrate"])
def test_the_same_point_has_the_same_bits_whatever_stood_before_it(pair, plane, policy):
    made = objective(net(), pair, batch_norm=policy)

    alone = made.evaluate(plane, COORDS[2:])
    assert made.evaluate(plane, COORDS)[2:].tobytes() == alone.tobytes()


def test_products_of_the_batch_policy_are_those_of_the_dense_hessian(pair):
    model = net()
    made = objective(model, pair, batch_norm="batch", micro_batch=2)
    theta = made.parameters()
    twin, shapes = copy.deepcopy(model), {name: value.shape for name, value in model.named_parameters()}
    for layer in norms(twin):
        layer.train()
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes.values()])
        views = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        outputs = [(torch.func.functional_call(twin, views, (x,)), y) for x, y in batches(pair)]
        return sum(F.cross_entropy(out, y, reduction="sum") for out, y in outputs) / sum(SIZES)

    wanted = torch.autograd.functional.hessian(loss, torch.tensor(theta)).numpy()
    slope = torch.autograd.functional.jacobian(loss, torch.tensor(theta)).numpy()

    np.testing.assert_allclose(made.gradient(theta), slope, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(made.hvp(theta, np.eye(theta.size)), wanted, rtol=1e-7, atol=1e-11)
    np.testing.assert_allclose(sum(made.shard(i, 2).gradient(theta) for i in range(2)), slope, rtol=1e-9, atol=1e-13)


def test_recalibration_has_no_products_and_no_shards(pair):
    made = objective(net(), pair, batch_norm="recalibrate")
    theta = made.parameters()

    for refused in (lambda: made.gradient(theta), lambda: made.hvp(theta, theta[None]), lambda: made.shard(0, 2)):
        with pytest.raises(ValueError, match="batch_norm='recalibrate'"):
            refused()


def test_batches_are_part_of_the_function_and_recorded(pair, plane):
    """Another batch size is another function, which a result's identity must tell apart."""
    one, other = (
        gradvis.objective(net(), pair, "cross_entropy", batch_norm="batch", batch_size=size) for size in (6, 17)
    )

    assert one.about["batches"] == "2 of 6, 1 of 5"
    assert other.about["batches"] == "1 of 17"
    assert one.evaluate(plane, COORDS)[1, 0] != pytest.approx(other.evaluate(plane, COORDS)[1, 0], rel=1e-6)
    assert "batches" not in objective(net(), pair).about


def test_a_batch_norm_that_keeps_no_statistics_is_never_cut(pair, plane):
    model = net()
    model[1] = nn.BatchNorm2d(3, track_running_stats=False).double()
    made = gradvis.objective(model, pair, "cross_entropy", batch_size=6, micro_batch=2)
    origin = made.parameters()

    found = made.measure(origin)["loss"]

    with torch.no_grad():
        wanted = sum(F.cross_entropy(model(x), y, reduction="sum") for x, y in batches(pair)) / sum(SIZES)
    assert found == pytest.approx(float(wanted), rel=1e-12)
    assert made.about["batch_norm"] == "eval"  # the other batch norm has statistics
    assert made.about["batches"] == "2 of 6, 1 of 5"


@pytest.mark.parametrize("policy", ["eval", "recalibrate"])
def test_without_any_statistics_there_are_only_those_of_the_batch(pair, policy):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()

    assert objective(model, pair).about["batch_norm"] == "batch"
    with pytest.raises(ValueError, match=f"batch_norm='{policy}' needs running statistics"):
        objective(model, pair, batch_norm=policy)


@pytest.mark.parametrize("budget", [None, 0])
def test_a_batch_of_one_sample_is_recalibrated_with_the_one_before_it(pair, plane, budget):
    def losses(size):
        made = gradvis.objective(
            net(), pair, "cross_entropy", batch_size=size, batch_norm="recalibrate", data_budget=budget
        )
        return made.evaluate(plane, COORDS)

    assert losses(16).tobytes() == losses(17).tobytes()  # 16 and 1, and 17
    assert losses(8)[1, 0] != pytest.approx(losses(17)[1, 0], rel=1e-9)


def test_a_batch_of_one_sample_has_no_statistics_of_its_own(pair):
    made = gradvis.objective(net(), pair, "cross_entropy", batch_size=16, batch_norm="batch")

    with pytest.raises(ValueError, match="takes their statistics, but a batch of one came; take another batch_size"):
        made.measure(made.parameters())


# ---------------------------------------------------------------------- planes between checkpoints


def test_between_checkpoints_statistics_are_recalibrated_and_each_own_loss_is_its_own(pair):
    first, second = net(0), net(5)
    made = objective(first, pair)
    line = gradvis.plane_between(made, first, second)

    with pytest.warns(Note, match="both are stored"):
        surface = gradvis.loss_surface(made, line, resolution=5)

    assert surface.dataset["alpha"].values.tolist() == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert surface.about["objective"]["batch_norm"] == "recalibrate"
    x, y = map(torch.tensor, pair)
    for mark, model, at in zip(surface.checkpoints, (first, second), (0.0, 1.0), strict=True):
        assert mark.coords == pytest.approx((at,), abs=1e-12)
        assert mark.off_plane == pytest.approx(0, abs=1e-9)
        assert mark.own["loss"] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)
        assert mark.plane["loss"] == pytest.approx(recalibrated(model, pair), rel=1e-9)
        assert mark.plane["loss"] == pytest.approx(float(surface.dataset["loss"].sel(alpha=at)), rel=1e-9)


@pytest.mark.parametrize("policy", ["eval", "batch"])
def test_a_policy_that_was_asked_for_stays(pair, policy):
    made = objective(net(0), pair, batch_norm=policy)
    line = gradvis.plane_between(made, net(0), net(5))

    assert made.on(line).about["batch_norm"] == policy
    assert made.stored().about["batch_norm"] == "eval"


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_marks_survive_the_disk(pair, tmp_path):
    made = objective(net(0), pair)
    triangle = gradvis.plane_between(made, net(0), net(5), net(7))

    surface = gradvis.loss_surface(made, triangle, resolution=3, out=tmp_path / "run.surface.zarr")
    memory = gradvis.loss_surface(made, triangle, resolution=3)

    assert gradvis.open(tmp_path / "run.surface.zarr").checkpoints == surface.checkpoints == memory.checkpoints
    assert [mark.name for mark in surface.checkpoints] == ["checkpoint 1", "checkpoint 2", "checkpoint 3"]
    np.testing.assert_allclose([mark.coords for mark in surface.checkpoints], [[0, 0], [1, 0], [0, 1]], atol=1e-9)


def test_the_same_checkpoint_twice_spans_no_plane(pair):
    made = objective(net(0), pair)
    with pytest.raises(ValueError, match="two of them are the same, or three lie on a line; leave one out"):
        gradvis.plane_between(made, net(0), net(5), net(5))
    with pytest.raises(ValueError, match="two, three or four of them, but 1 came"):
        gradvis.plane_between(made, net(0))


# ---------------------------------------------------------------------- what a network may do with its batch norms


class Nested(nn.Module):
    """One batch norm runs twice in a forward pass, one never; one has no affine part, one no momentum."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.block = nn.ModuleDict({"inner": nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4, affine=False))})
            self.twice, self.never = nn.BatchNorm1d(4, momentum=None), nn.BatchNorm1d(7)
            self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = self.twice(self.block["inner"](x.flatten(1)))
        return self.last(torch.tanh(self.twice(torch.tanh(x) + 1)))


def updated(model, pair):
    """The loss after torch's own recalibration, which weighs batches alike: for batches of one length."""
    model = copy.deepcopy(model)
    x, y = map(torch.tensor, pair)
    torch.optim.swa_utils.update_bn(list(x.split(6)), model)
    with torch.no_grad():
        return F.cross_entropy(model.eval()(x), y).item()


@pytest.mark.parametrize("budget", [None, 0])
def test_a_batch_norm_that_runs_twice_averages_over_both(pair, budget):
    even, model = tuple(part[:12] for part in pair), Nested().double().eval()
    made = objective(model, even, batch_norm="recalibrate", data_budget=budget)
    theta = made.parameters()
    beside = Plane(theta - 1.0, np.ones((1, theta.size)))  # another point goes first

    found = made.evaluate(beside, np.array([[0.0], [1.0]]))[1, 0]

    assert found == pytest.approx(updated(model, even), rel=1e-9)
    assert not any(layer._forward_pre_hooks for layer in model.modules())
    assert (model.twice.momentum, model.block["inner"][1].momentum) == (None, 0.1)


def test_recalibration_sees_no_sample_that_only_fills_a_compiled_batch_up(pair, plane, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    made = objective(net(), pair, batch_norm="recalibrate", compile=True, micro_batch=17)

    found = made.evaluate(plane, COORDS[:1])[0, 0]

    assert made.how["micro_batch"] == 17  # whole batches are of 6
    assert found == pytest.approx(recalibrated(net(), pair), rel=1e-12)


@pytest.mark.parametrize(("policy", "naive"), [("batch", by_batch), ("recalibrate", recalibrated)])
def test_a_batch_norm_that_only_stopped_tracking_has_statistics_all_the_same(pair, plane, policy, naive):
    model = net()
    model[1].track_running_stats = False

    found = objective(model, pair, batch_norm=policy).evaluate(plane, COORDS[:1])[0, 0]

    with torch.no_grad():
        assert found == pytest.approx(float(naive(net(), pair)), rel=1e-12)
    assert objective(model, pair).about["batch_norm"] == "eval"
    assert model[1].track_running_stats is False


def test_a_subset_is_recalibrated_over_itself(pair):
    some = gradvis.objective(net(), pair, "cross_entropy", batch_size=6, samples=6, batch_norm="recalibrate")
    chosen = np.sort(np.random.default_rng(0).choice(sum(SIZES), 6, replace=False))

    there = objective(net(), tuple(part[chosen] for part in pair), batch_norm="recalibrate")

    assert some.about["batches"] == "1 of 6"
    assert some.measure(some.parameters())["loss"] == there.measure(there.parameters())["loss"]


class Stream:
    """Batches that do not say how many samples they have."""

    def __init__(self, pair, size):
        self.batches = list(zip(*(torch.tensor(part).split(size) for part in pair), strict=True))

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize(("policy", "same"), [("batch", False), ("recalibrate", False), ("eval", True)])
def test_two_ways_of_batching_a_stream_are_told_apart_where_they_matter(pair, policy, same):
    one, other = (
        gradvis.objective(net(), Stream(pair, size), "cross_entropy", batch_norm=policy, data_budget=0)
        for size in (6, 9)
    )

    assert one.about == other.about
    assert (one.fingerprint() == other.fingerprint()) is same


def test_a_plane_of_another_model_has_none_of_this_ones_statistics(pair):
    """The contract's own example: with another net's statistics a loss of 0.05 was 5.49."""
    first, second = objective(net(0), pair), objective(net(5), pair)
    reused = gradvis.random_plane(first, k=1)

    assert first.on(reused).about["batch_norm"] == "eval"
    assert second.on(reused).about["batch_norm"] == "recalibrate"
    assert second.restrict("0.*").on(Plane(second.parameters()[:30], np.ones((1, 30)))).about["batch_norm"] == "eval"
    centre = second.on(reused).evaluate(reused, np.zeros((1, 1)))[0, 0]
    assert centre == pytest.approx(recalibrated(net(0), pair), rel=1e-9)


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_a_part_takes_the_policies_of_the_whole_and_holds_the_rest_where_it_stood(pair):
    model = net(0)
    part = objective(model, pair).restrict("0.*")
    line = gradvis.plane_between(part, net(0), net(5))
    found = part.on(line).evaluate(line, np.array([[0.0], [1.0]]))
    mixed = net(0)
    mixed[0].load_state_dict(net(5)[0].state_dict())

    assert part.on(line).about["batch_norm"] == "recalibrate"
    assert part.on(line).stored().about["batch_norm"] == "eval"
    assert part.on(line).about["parameters"] == "0.*"
    assert found[:, 0] == pytest.approx([recalibrated(net(0), pair), recalibrated(mixed, pair)], rel=1e-9)
    before = part.stored().evaluate(line, np.ones((1, 1)))
    with torch.no_grad():
        model[7].weight *= 2
    again = part.stored().again({"micro_batch": 3})
    assert again.how["micro_batch"] == 3
    np.testing.assert_allclose(again.evaluate(line, np.ones((1, 1))), before, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_stored_statistics_between_checkpoints_are_those_of_the_first(pair):
    """Not those of the model that the objective was made of, which is neither."""
    made = objective(net(7), pair, batch_norm="eval")

    surface = gradvis.loss_surface(made, gradvis.plane_between(made, net(0), net(5)), resolution=2, span=(0.0, 1.0))

    x, y = map(torch.tensor, pair)
    assert float(surface.dataset["loss"][0]) == pytest.approx(F.cross_entropy(net(0)(x), y).item(), rel=1e-12)
    mixed = net(0)
    set_point(mixed, objective(net(5), pair).parameters())
    assert float(surface.dataset["loss"][1]) == pytest.approx(F.cross_entropy(mixed(x), y).item(), rel=1e-9)


def test_every_checkpoint_needs_a_name_of_its_own(pair):
    made = objective(net(0), pair)
    for names in (["x", "x"], ["x"]):
        with pytest.raises(ValueError, match="2 names, all different, were wanted, but x"):
            gradvis.plane_between(made, net(0), net(5), names=names)


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_a_result_without_a_checkpoint_is_not_one_with_it(pair, tmp_path):
    made = objective(net(0), pair)
    plane, out = gradvis.random_plane(made, k=1), tmp_path / "run.zarr"
    gradvis.loss_surface(made, plane, resolution=3, out=out)

    marked = Plane(plane.origin, plane.directions, plane.about, {"c.pt": net(5)})
    with pytest.raises(ValueError, match=r"c\.pt"):
        gradvis.loss_surface(made, marked, resolution=3, out=out)


def test_statistics_of_each_batch_leave_the_running_ones_still():
    layer = nn.BatchNorm1d(3).double().eval()
    x = torch.tensor(np.random.default_rng(0).normal(size=(5, 3)))

    with of_each_batch([layer]):
        found = layer(x)

    torch.testing.assert_close(found, (x - x.mean(0)) / (x.var(0, correction=0) + layer.eps).sqrt())
    assert layer.running_mean.tolist() == [0, 0, 0]
    assert layer.num_batches_tracked == 0
    assert not layer.training
    assert layer.track_running_stats


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
