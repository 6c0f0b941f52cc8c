"""How the points of a plane go through the data: in company, in pieces, without room. The numbers stay the same."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest

import gradvis
from gradvis.backends.room import POINTS
from gradvis.notes import Note
from gradvis.plane import Plane
from tests.contract.small_nets import NETS, SAMPLES, WIDTHS, D, X, Y, by_hand

DATA = X, Y


@pytest.fixture(params=NETS)
def net(request):
    return NETS[request.param]


@cache
def dense(net, budget=None):
    """An objective that no test changes: graphs are traced once."""
    return gradvis.objective(net.dense(), DATA, "cross_entropy", micro_batch=12, data_budget=budget)


def coords(n):
    return np.random.default_rng(1).normal(size=(n, 2))


def plane_of(objective):
    directions = 0.3 * np.random.default_rng(2).normal(size=(2, objective.space.d))
    return Plane(objective.parameters(), directions)


# ---------------------------------------------------------------------- points in company


@pytest.mark.parametrize("budget", [None, 0], ids=["kept", "streamed"])
@pytest.mark.parametrize("points", [1, POINTS])
def test_points_together_and_alone_have_the_values_of_the_formula(net, points, budget):
    asked = dense(net, budget).again({"points": points})
    plane, where = plane_of(asked), coords(POINTS + 1)

    found = asked.evaluate(plane, where)

    assert (dense(net, budget).how["points"], asked.how["points"]) == (POINTS, points)
    wanted = [by_hand(net, theta).mean() for theta in plane.point(where)]
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-12)
    tiles = [asked.evaluate(plane, where[part]) for part in (slice(0, 1), slice(1, 8), slice(8, 8), slice(8, None))]
    assert np.concatenate(tiles).tobytes() == found.tobytes()
    assert asked.evaluate(plane, where[::-1])[::-1].tobytes() == found.tobytes()


def test_points_of_large_nets_go_one_by_one_and_a_surface_tells(net):
    large = gradvis.objective(net.dense((4, 15_000, 3)), DATA, "cross_entropy")

    surface = gradvis.loss_surface(dense(net), plane_of(dense(net)), resolution=3)

    assert large.how["points"] == 1
    assert surface.about["how"]["points"] == POINTS


@pytest.mark.parametrize("points", [1, POINTS])
def test_a_buffer_that_a_forward_pass_writes_is_put_back_before_every_point(net, points):
    model = net.counting()
    asked = gradvis.objective(model, DATA, "cross_entropy", micro_batch=SAMPLES).again({"points": points})
    plain = gradvis.objective(net.hungry()[0], DATA, "cross_entropy")
    before = net.state(model)[0]

    theta = asked.parameters()
    found = asked.evaluate(Plane(theta, np.zeros((1, 15))), np.zeros((3, 1)))

    np.testing.assert_allclose(found[:, 0], plain.measure(theta)["loss"], rtol=1e-12)  # the count is one at each point
    assert [np.asarray(value).tolist() for value in _values(net.state(model)[0])] == [
        np.asarray(value).tolist() for value in _values(before)
    ]


def _values(state):
    return state.values() if hasattr(state, "values") else state


# ---------------------------------------------------------------------- pieces


@pytest.mark.parametrize("micro", [1, 4, 100])
def test_values_and_gradients_are_the_same_in_pieces_of_any_size(net, micro):
    asked = dense(net).again({"micro_batch": micro})
    theta = asked.parameters()

    assert asked.measure(theta)["loss"] == pytest.approx(by_hand(net, theta).mean(), rel=1e-12)
    np.testing.assert_allclose(asked.gradient(theta), dense(net).gradient(theta), rtol=1e-10, atol=1e-14)


def test_an_earlier_runs_pieces_are_taken_over_with_its_bits(net):
    earlier, now = (
        gradvis.objective(net.dense(dtype="float32"), DATA, "cross_entropy", micro_batch=micro) for micro in (3, 100)
    )
    again, theta = now.again(earlier.how), earlier.parameters()

    assert again.how == earlier.how != now.how
    assert again.measure(theta) == earlier.measure(theta)
    assert again.gradient(theta).tobytes() == earlier.gradient(theta).tobytes()
    assert again.fingerprint()["data"] == earlier.fingerprint()["data"]


def test_tuning_gives_a_way_that_is_gone_again_to_the_same_surface(net, monkeypatch):
    asked = gradvis.objective(net.dense(), DATA, "cross_entropy", micro_batch=8)
    plane = plane_of(asked)

    how = asked.tune(plane)

    assert how["micro_batch"] in {2, 4, 6, 8, 16, 23, 32}
    assert asked.again(how).how == how
    found = asked.again(how).evaluate(plane, coords(3))
    np.testing.assert_allclose(found[:, 0], [by_hand(net, each).mean() for each in plane.point(coords(3))], rtol=1e-12)


# ---------------------------------------------------------------------- out of memory


def hungry(net, norm=False, **options):
    """With a model that has room for all samples while the objective is made."""
    model, limits = net.hungry(norm)
    asked = gradvis.objective(model, DATA, "cross_entropy", **{"micro_batch": SAMPLES} | options)
    limits.seen.clear()
    return asked, limits


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_out_of_memory_halves_the_micro_batch_and_goes_on(net, tmp_path):
    asked, limits = hungry(net)
    plane = plane_of(asked)
    wanted = gradvis.loss_surface(hungry(net)[0], plane, resolution=3)
    limits.room = 6

    with pytest.warns(Note, match="cpu(:0)? ran out of memory: going on with 11 samples at once in place of 23"):
        surface = gradvis.loss_surface(asked, plane, resolution=3, out=tmp_path / "run.zarr")

    np.testing.assert_allclose(surface.dataset["loss"], wanted.dataset["loss"], rtol=1e-12)
    assert surface.about["how"]["micro_batch"] == 5
    assert limits.seen.count(SAMPLES) == 1  # never so many again
    assert gradvis.open(tmp_path / "run.zarr").about["how"]["micro_batch"] == 5


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_gradients_and_products_find_room_too(net):
    roomy, _ = hungry(net)
    theta = roomy.parameters()

    for ask in (lambda each: each.gradient(theta), lambda each: each.hvp(theta, theta[None])):
        asked, limits = hungry(net)
        limits.room = 6
        np.testing.assert_allclose(ask(asked), ask(roomy), rtol=1e-10, atol=1e-14)
        assert asked.how["micro_batch"] <= 6
        assert max(limits.seen) > 6


def test_no_room_for_one_sample_is_an_error(net):
    asked, limits = hungry(net, micro_batch=2)
    limits.room = 0

    with pytest.warns(Note), pytest.raises(RuntimeError, match=r"cpu(:0)? has not the memory for one sample at a time"):
        asked.measure(asked.parameters())


def test_batches_that_cannot_be_cut_say_so(net):
    model, limits = net.hungry()
    batch = tuple(map(net.array, DATA))
    asked = gradvis.objective(
        model, [batch], batch_loss=lambda model, batch: net.cross_entropy(model(batch[0]), batch[1])
    )
    limits.room = 9

    with pytest.raises(RuntimeError, match="has not the memory for batches that cannot be cut; pass smaller ones"):
        asked.measure(asked.parameters())


def test_recalibration_needs_room_for_a_whole_batch(net):
    asked, limits = hungry(net, norm=True, batch_size=8, batch_norm="recalibrate")
    limits.room = 7

    with pytest.raises(RuntimeError, match=r"cpu(:0)? has not the memory for a whole batch.*; take a smaller batch_si"):
        asked.measure(asked.parameters())

    assert set(limits.seen) == {8}  # fewer samples at once were no help, and were not tried


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
def test_after_the_batches_room_is_found_for_the_values(net):
    """Batches of 4 fit; the 23 samples that go through together afterwards do not."""
    options = {"norm": True, "batch_size": 4, "batch_norm": "recalibrate"}
    wanted, (tight, limits) = hungry(net, **options)[0], hungry(net, **options)
    plane = plane_of(wanted)
    limits.room = 5

    found = tight.evaluate(plane, coords(3))

    np.testing.assert_allclose(found, wanted.evaluate(plane, coords(3)), rtol=1e-12)
    assert tight.how["micro_batch"] == wanted.again(tight.how).how["micro_batch"] == 5


# ---------------------------------------------------------------------- dtypes


def test_bfloat16_is_of_the_forward_pass_alone(net):
    model = net.dense(dtype="float32")
    half, single = (gradvis.objective(model, DATA, "cross_entropy", dtype=each) for each in ("bfloat16", None))
    theta = half.parameters()

    assert (half.about["dtype"], theta.dtype, half.gradient(theta).dtype) == ("bfloat16", np.float32, np.float32)
    assert half.measure(theta)["loss"] == pytest.approx(single.measure(theta)["loss"], rel=0.02)
    assert half.measure(theta)["loss"] != single.measure(theta)["loss"]


def test_a_model_of_half_precision_is_moved_in_single_precision(net):
    asked = gradvis.objective(net.dense(dtype="bfloat16"), DATA, "cross_entropy")
    theta = asked.parameters()

    assert (theta.dtype, asked.gradient(theta).dtype) == (np.float32, np.float32)


def test_a_plane_of_another_dtype_is_formed_in_the_wider_one(net):
    asked = gradvis.objective(net.dense(dtype="float32"), DATA, "cross_entropy")
    theta = asked.parameters()
    plane = Plane(theta.astype(float), np.full((1, D), 1 / 3))

    found = asked.evaluate(plane, np.array([[0.1]]))[0, 0]

    at = (theta.astype(float) + 0.1 / 3).astype(np.float32)
    assert found == pytest.approx(asked.measure(at)["loss"], rel=1e-7)


def test_options_that_do_not_fit_are_refused(net):
    for options, words in (
        ({"dtype": "float16"}, "dtype must be one of float32, float64, bfloat16, but 'float16' came"),
        ({"device": "cuda:9"}, "cuda:9"),
        ({"device": "abacus"}, "cpu"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            gradvis.objective(net.dense(), DATA, "cross_entropy", **options)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- states and draws


def test_a_checkpoint_is_read_once_and_for_all(net):
    """What training does to the arrays afterwards does not reach the objective."""
    state, change = net.state(net.dense(WIDTHS))
    there = dense(net).at(state)
    before = there.measure(there.parameters())

    change()

    assert there.measure(there.parameters()) == before


def test_a_random_forward_is_one_function_of_theta_and_leaves_the_users_generators_alone(net):
    model = net.noisy()
    asked = gradvis.objective(model, DATA, "cross_entropy", micro_batch=8).again({"product_micro_batch": 1})
    theta, along = asked.parameters(), np.random.default_rng(4).normal(size=15)
    step, drawn = 1e-5 * along, (random.getstate(), str(np.random.get_state()))
    before = asked.measure(theta)

    slope, product = asked.gradient(theta), asked.hvp(theta, along[None])[0]

    rise = asked.measure(theta + step)["loss"] - asked.measure(theta - step)["loss"]
    assert slope @ along == pytest.approx(rise / 2e-5, rel=1e-7)
    wanted = (asked.gradient(theta + step) - asked.gradient(theta - step)) / 2e-5
    assert np.linalg.norm(product - wanted) <= 1e-7 * np.linalg.norm(wanted)
    assert asked.measure(theta) == before
    np.testing.assert_allclose(sum(asked.shard(each, 3).gradient(theta) for each in range(3)), slope, rtol=1e-10)
    assert (random.getstate(), str(np.random.get_state())) == drawn
    other = gradvis.objective(model, DATA, "cross_entropy", micro_batch=4)
    assert other.measure(theta)["loss"] != pytest.approx(before["loss"], rel=1e-6)  # each piece draws its own
