"""Batch norm's policies by hand, for every framework; what has statistics of its own and what has not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import gradvis
from gradvis.notes import Note
from gradvis.plane import Plane
from tests.contract.norm_nets import IMAGES, NETS, SIZES, TARGETS, D, batches, by_hand, twice_by_hand

COORDS = np.array([[0.0, 0.0], [1.0, -0.5], [0.2, 2.0]])
POLICIES = ("eval", "batch", "recalibrate")


@pytest.fixture(params=NETS)
def net(request):
    return NETS[request.param]


def objective(net, model, chosen=slice(None), **options):
    standard = {"metrics": ["accuracy"], "batch_size": SIZES[0], "micro_batch": 3}
    data = net.images(IMAGES[chosen]), TARGETS[chosen]
    return gradvis.objective(model, data, "cross_entropy", **{**standard, **options})


@cache
def made(net, policy=None):
    """An objective that no test changes: graphs are traced once."""
    return objective(net, net.model(), batch_norm=policy)


def plane_of(net):
    origin = made(net).parameters()
    return Plane(origin, 0.3 * np.random.default_rng(1).normal(size=(2, D)))


def naive(net, policy, theta, seed=0, data=None):
    """By hand, with the stored statistics of the model of a seed."""
    return by_hand(net, policy, theta, net.stored(net.model(seed)), data).item()


@pytest.mark.parametrize("budget", [None, 0], ids=["kept", "streamed"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_what_the_formulas_say_and_changes_nothing_of_the_model(net, policy, budget):
    model, plane = net.model(), plane_of(net)
    before = net.snapshot(model)
    asked = objective(net, model, batch_norm=policy, data_budget=budget)

    found = asked.evaluate(plane, COORDS)

    for loss, theta in zip(found[:, 0], plane.point(COORDS), strict=True):
        assert loss == pytest.approx(naive(net, policy, theta), rel=1e-11)
    assert asked.evaluate(plane, COORDS[2:]).tobytes() == found[2:].tobytes()
    assert net.snapshot(model) == before
    assert (asked.about["batch_norm"], asked.streamed) == (policy, budget == 0)


def test_stored_statistics_are_taken_where_nothing_is_asked(net):
    assert made(net).about["batch_norm"] == "eval"
    assert made(net).measure(plane_of(net).origin)["loss"] == pytest.approx(naive(net, "eval", plane_of(net).origin))


def test_there_are_three_policies(net):
    with pytest.raises(ValueError, match="batch_norm must be one of eval, batch, recalibrate, but 'frozen' came"):
        objective(net, net.model(), batch_norm="frozen")


def test_derivatives_of_the_batch_policy_are_those_of_its_formula(net):
    asked = made(net, "batch")
    theta, vectors = asked.parameters() + 0.05, np.eye(D)[::3]

    def mean(at):
        return by_hand(net, "batch", at, None)

    slope = torch.autograd.functional.jacobian(mean, torch.tensor(theta)).numpy()
    dense = torch.autograd.functional.hessian(mean, torch.tensor(theta)).numpy()
    shards = [asked.shard(index, 2) for index in range(2)]
    np.testing.assert_allclose(asked.gradient(theta), slope, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(asked.hvp(theta, vectors), vectors @ dense, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(sum(each.gradient(theta) for each in shards), slope, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sum(each.hvp(theta, vectors) for each in shards), vectors @ dense, rtol=1e-7, atol=1e-10)


def test_recalibration_has_no_derivatives_and_no_shards(net):
    asked = made(net, "recalibrate")
    theta = asked.parameters()

    for refused in (lambda: asked.gradient(theta), lambda: asked.hvp(theta, theta[None]), lambda: asked.shard(0, 2)):
        with pytest.raises(ValueError, match="batch_norm='recalibrate'"):
            refused()


def test_batches_are_part_of_the_function_and_recorded(net):
    """Another batch size is another function, which a result's identity must tell apart."""
    other = objective(net, net.model(), batch_norm="batch", batch_size=17)
    theta = plane_of(net).point(COORDS[1:2])[0]

    assert made(net, "batch").about["batches"] == made(net, "recalibrate").about["batches"] == "2 of 6, 1 of 5"
    assert other.about["batches"] == "1 of 17"
    assert other.measure(theta)["loss"] == pytest.approx(naive(net, "batch", theta, data=batches((17,))), rel=1e-11)
    assert "batches" not in made(net).about


class Stream:
    """Batches that do not say how many samples they have."""

    def __init__(self, net, size):
        starts = range(0, len(TARGETS), size)
        images = net.images(IMAGES)
        self.batches = [tuple(net.array(each[at : at + size]) for each in (images, TARGETS)) for at in starts]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize(("policy", "same"), [("batch", False), ("recalibrate", False), ("eval", True)])
def test_two_ways_of_batching_a_stream_are_told_apart_where_they_matter(net, policy, same):
    one, other = (
        gradvis.objective(net.model(), Stream(net, size), "cross_entropy", batch_norm=policy, data_budget=0)
        for size in (6, 9)
    )

    assert ((one.about, one.fingerprint()) == (other.about, other.fingerprint())) is same


@pytest.mark.parametrize("budget", [None, 0], ids=["kept", "streamed"])
def test_a_batch_of_one_sample_is_recalibrated_with_the_one_before_it(net, budget):
    """16 samples and 1 are recalibrated as 17."""
    asked = objective(net, net.model(), batch_size=16, batch_norm="recalibrate", data_budget=budget)
    theta = plane_of(net).point(COORDS[1:2])[0]

    found = asked.measure(theta)["loss"]

    assert found == pytest.approx(naive(net, "recalibrate", theta, data=batches((17,))), rel=1e-11)


def test_a_batch_of_one_sample_has_no_statistics_of_its_own(net):
    asked = objective(net, net.model(), batch_size=16, batch_norm="batch")

    with pytest.raises(ValueError, match="takes their statistics, but a batch of one came; take another") as caught:
        asked.measure(asked.parameters())
    assert "\n" not in str(caught.value)


def test_a_subset_is_recalibrated_over_itself(net):
    some = objective(net, net.model(), samples=6, batch_norm="recalibrate")
    chosen = np.sort(np.random.default_rng(0).choice(sum(SIZES), 6, replace=False))
    theta = some.parameters()

    assert some.about["batches"] == "1 of 6"
    wanted = naive(net, "recalibrate", theta, data=batches((6,), chosen))
    assert some.measure(theta)["loss"] == pytest.approx(wanted, rel=1e-11)


@pytest.mark.parametrize("budget", [None, 0], ids=["kept", "streamed"])
def test_a_batch_norm_that_runs_twice_is_recalibrated_over_both_times(net, budget):
    x, model = IMAGES[:, 0, 0, :3], net.twice()
    asked = gradvis.objective(model, (x, TARGETS), "cross_entropy", batch_norm="recalibrate", data_budget=budget)
    origin = np.array([1.0, 1, 1, 0, 0, 0])
    beside = Plane(origin - 1, np.ones((1, 6)))  # another point goes first

    found = asked.evaluate(beside, np.array([[0.0], [1.0]]))[1, 0]

    assert found == pytest.approx(twice_by_hand(x, TARGETS), rel=1e-11)


# ---------------------------------------------------------------------- planes


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_between_checkpoints_statistics_are_recalibrated_and_each_own_loss_is_its_own(net):
    asked, models = made(net), {0: net.model(0), 5: net.model(5)}
    line = gradvis.plane_between(asked, *models.values())

    with pytest.warns(Note, match="both are stored"):
        surface = gradvis.loss_surface(asked, line, resolution=5)

    assert surface.dataset["alpha"].values.tolist() == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert surface.about["objective"]["batch_norm"] == "recalibrate"
    for mark, (seed, model), at in zip(surface.checkpoints, models.items(), (0.0, 1.0), strict=True):
        theta = asked.read(model)
        assert mark.coords == pytest.approx((at,), abs=1e-12)
        assert mark.off_plane == pytest.approx(0, abs=1e-9)
        assert mark.own["loss"] == pytest.approx(naive(net, "eval", theta, seed), rel=1e-11)
        assert mark.plane["loss"] == pytest.approx(naive(net, "recalibrate", theta), rel=1e-9)
        assert mark.plane["loss"] == pytest.approx(float(surface.dataset["loss"].sel(alpha=at)), rel=1e-9)


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_stored_statistics_between_checkpoints_are_those_of_the_first(net):
    """Not those of the model that the objective was made of, which is neither."""
    asked = objective(net, net.model(7), batch_norm="eval")
    first, second = net.model(0), net.model(5)

    line = gradvis.plane_between(asked, first, second)
    surface = gradvis.loss_surface(asked, line, resolution=2, span=(0.0, 1.0))

    wanted = [naive(net, "eval", asked.read(model), seed=0) for model in (first, second)]
    assert surface.dataset["loss"].values == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("policy", ["eval", "batch"])
def test_a_policy_that_was_asked_for_stays(net, policy):
    asked = made(net, policy)
    line = gradvis.plane_between(asked, net.model(0), net.model(5))

    assert asked.on(line).about["batch_norm"] == policy
    assert asked.stored().about["batch_norm"] == "eval"
    theta = plane_of(net).point(COORDS[1:2])[0]
    assert asked.stored().measure(theta)["loss"] == pytest.approx(naive(net, "eval", theta), rel=1e-11)


def test_a_plane_of_another_model_has_none_of_this_ones_statistics(net):
    """With another net's statistics a loss of 0.05 was 5.49."""
    first, second = made(net), objective(net, net.model(5))
    reused = gradvis.random_plane(first, k=1)

    with pytest.warns(Note, match="pinned at other parameters than the model's: batch norm is recalibrated"):
        there = second.on(reused)

    assert first.on(reused).about["batch_norm"] == "eval"
    assert (there.about["batch_norm"], there.stored().about["batch_norm"]) == ("recalibrate", "eval")
    part = second.restrict(net.first)
    assert part.on(Plane(part.parameters(), np.ones((1, part.space.d)))).about["batch_norm"] == "eval"
    centre = there.evaluate(reused, np.zeros((1, 1)))[0, 0]
    assert centre == pytest.approx(naive(net, "recalibrate", reused.origin), rel=1e-9)


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_a_part_takes_the_policies_of_the_whole_and_holds_the_rest_where_it_stood(net):
    model, ends = net.model(0), np.array([[0.0], [1.0]])
    part = objective(net, model).restrict(net.first)
    line = gradvis.plane_between(part, net.model(0), net.model(5))
    start, end = (made(net).read(net.model(seed)) for seed in (0, 5))
    mixed = np.concatenate([end[: part.space.d], start[part.space.d :]])

    found, before = (each.evaluate(line, ends)[:, 0] for each in (part.on(line), part.stored()))
    net.move(model)
    again = part.stored().again({"micro_batch": 4})

    assert part.on(line).about["batch_norm"] == "recalibrate"
    assert part.on(line).about["parameters"] == net.first
    assert found == pytest.approx([naive(net, "recalibrate", theta) for theta in (start, mixed)], rel=1e-9)
    assert before == pytest.approx([naive(net, "eval", theta) for theta in (start, mixed)], rel=1e-9)
    assert again.how["micro_batch"] == 4
    np.testing.assert_allclose(again.evaluate(line, ends)[:, 0], before, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_marks_survive_the_disk(net, tmp_path):
    asked = made(net)
    triangle = gradvis.plane_between(asked, net.model(0), net.model(5), net.model(7))

    surface = gradvis.loss_surface(asked, triangle, resolution=3, out=tmp_path / "run.surface.zarr")
    memory = gradvis.loss_surface(asked, triangle, resolution=3)

    assert gradvis.open(tmp_path / "run.surface.zarr").checkpoints == surface.checkpoints == memory.checkpoints
    assert [mark.name for mark in surface.checkpoints] == ["checkpoint 1", "checkpoint 2", "checkpoint 3"]
    np.testing.assert_allclose([mark.coords for mark in surface.checkpoints], [[0, 0], [1, 0], [0, 1]], atol=1e-9)


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_a_result_without_a_checkpoint_is_not_one_with_it(net, tmp_path):
    asked = made(net)
    plane, out = gradvis.random_plane(asked, k=1), tmp_path / "run.zarr"
    gradvis.loss_surface(asked, plane, resolution=3, out=out)

    marked = Plane(plane.origin, plane.directions, plane.about, {"other": net.model(5)})
    with pytest.raises(ValueError, match="other"):
        gradvis.loss_surface(asked, marked, resolution=3, out=out)


def test_checkpoints_that_span_no_plane_or_have_one_name_are_refused(net):
    asked, other = made(net), net.model(5)
    with pytest.raises(ValueError, match="two of them are the same, or three lie on a line; leave one out"):
        gradvis.plane_between(asked, net.model(0), other, other)
    with pytest.raises(ValueError, match="two, three or four of them, but 1 came"):
        gradvis.plane_between(asked, net.model(0))
    for names in (["x", "x"], ["x"]):
        with pytest.raises(ValueError, match="2 names, all different, were wanted, but x"):
            gradvis.plane_between(asked, net.model(0), other, names=names)
