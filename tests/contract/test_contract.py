"""The laws of an Objective, the same for every backend; the references are in the cases."""

from __future__ import annotations

import numpy as np
import pytest

from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.trajectory import project_trajectory
from tests.contract.cases import BATCH, NETWORKS, SAMPLES


def near(objective: Objective, rng: np.random.Generator) -> np.ndarray:
    """A point where nothing is special."""
    return objective.parameters() + 0.3 * rng.normal(size=objective.space.d)


def close(found, wanted, tolerance):
    """To a tolerance relative to the norm of what is wanted."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


# ---------------------------------------------------------------------- values


def test_every_metric_is_the_mean_over_all_samples(case, objective, rng):
    theta = near(objective, rng)

    found = objective.measure(theta)

    for metric, values in case.values(theta).items():
        assert found[metric] == pytest.approx(values.mean(), rel=1e-12, abs=1e-12), metric


def test_the_standard_error_is_that_of_a_mean(case, objective, rng):
    theta = near(objective, rng)

    found = objective.measure(theta)

    for metric, values in case.values(theta).items():
        if len(values) > 1:
            assert found[f"{metric}_stderr"] == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)), rel=1e-10)


def test_the_columns_begin_with_the_loss_and_are_as_announced(case, objective, rng):
    row = objective.evaluate(Plane(near(objective, rng), np.zeros((0, objective.space.d))), np.zeros((1, 0)))

    assert objective.metrics[0] == "loss"
    assert row.shape == (1, len(objective.metrics))
    assert row.dtype == np.float64
    assert isinstance(row, np.ndarray)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_a_point_of_a_plane_is_that_point(objective, rng, k):
    plane = Plane(near(objective, rng), rng.normal(size=(k, objective.space.d)))
    coords = rng.normal(size=(4, k))

    found = objective.evaluate(plane, coords)

    wanted = [list(objective.measure(point).values()) for point in plane.point(coords)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_no_points_make_no_rows(objective):
    plane = Plane(objective.parameters(), np.zeros((1, objective.space.d)))

    assert objective.evaluate(plane, np.zeros((0, 1))).shape == (0, len(objective.metrics))


def test_the_same_point_gives_the_same_bits_whatever_was_asked_before(objective, rng):
    theta, elsewhere = near(objective, rng), near(objective, rng)
    plane = Plane(elsewhere, np.stack([theta - elsewhere, rng.normal(size=objective.space.d)]))
    alone = objective.evaluate(plane, np.array([[0.5, 0.1]]))
    slope = objective.gradient(theta)

    objective.measure(elsewhere)
    objective.hvp(elsewhere, slope[None])
    objective.shard(0, 2).gradient(elsewhere)
    again = objective.evaluate(plane, np.array([[3.0, -1.0], [0.5, 0.1], [0.0, 2.0]]))

    assert again[1].tobytes() == alone[0].tobytes()
    assert objective.gradient(theta).tobytes() == slope.tobytes()


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_what_is_not_finite_is_a_result(case, objective):
    plane = Plane(objective.parameters(), np.ones((1, objective.space.d)))
    coords = np.array([[1.7e308], [0.0], [-1.7e308]])

    found = objective.evaluate(plane, coords)[:, 0]

    wanted = [case.values(point)["loss"].mean() for point in plane.point(coords)]
    assert np.isfinite(found).tolist() == np.isfinite(wanted).tolist()
    assert set(np.isfinite(found)) == {True, False}


# ---------------------------------------------------------------------- derivatives


def test_the_gradient_is_that_of_the_mean(case, objective, rng):
    theta = near(objective, rng)

    found = objective.gradient(theta)

    assert found.dtype == np.float64
    close(found, case.gradient(theta), 1e-10)


def test_products_are_those_of_the_dense_hessian(case, objective, rng):
    theta = near(objective, rng)
    wanted = case.hessian(theta)

    found = objective.hvp(theta, np.eye(objective.space.d))

    assert found.dtype == np.float64
    close(found, wanted, 1e-8)
    assert np.abs(found - found.T).max() <= 1e-12 * np.linalg.norm(wanted)


def test_products_with_other_operators_are_those_of_the_dense_ones(case, objective, rng):
    theta = near(objective, rng)

    for operator in case.operators:
        found, wanted = objective.hvp(theta, np.eye(objective.space.d), operator), case.dense(operator, theta)
        close(found, wanted, 1e-8)
        assert np.abs(found - found.T).max() <= 1e-12 * np.linalg.norm(wanted), operator


def test_an_operator_that_it_has_not_is_refused_in_a_sentence(case, objective):
    theta = objective.parameters()

    for operator in {"ggn", "fisher"} - set(case.operators):
        with pytest.raises(ValueError, match=f"{operator}.*; take operator='hessian'"):
            objective.hvp(theta, theta[None], operator=operator)
    assert "hessian" in case.operators


def test_products_are_differences_of_gradients(case, objective, rng):
    theta, vector = near(objective, rng), rng.normal(size=objective.space.d)
    step = 1e-5 * vector

    found = objective.hvp(theta, vector[None])[0]

    close(found, (case.gradient(theta + step) - case.gradient(theta - step)) / 2e-5, 1e-7)


def test_several_vectors_at_once_are_one_at_a_time(objective, rng):
    theta, vectors = near(objective, rng), rng.normal(size=(3, objective.space.d))

    together = objective.hvp(theta, vectors)

    close(together, np.concatenate([objective.hvp(theta, vector[None]) for vector in vectors]), 1e-13)


def test_an_unknown_operator_is_refused_with_what_there_is(objective):
    theta = objective.parameters()

    with pytest.raises(ValueError, match="hessian"):
        objective.hvp(theta, theta[None], operator="jacobian")


@pytest.mark.parametrize("count", [1, 2, 3, 5])  # 23 samples are 3 batches: the last two of five parts are empty
def test_shards_sum_to_the_whole(case, objective, rng, count):
    theta, vectors = near(objective, rng), rng.normal(size=(2, objective.space.d))
    parts = [objective.shard(index, count) for index in range(count)]

    close(sum(part.gradient(theta) for part in parts), objective.gradient(theta), 1e-12)
    for operator in case.operators:
        summed = sum(part.hvp(theta, vectors, operator) for part in parts)
        close(summed, objective.hvp(theta, vectors, operator), 1e-12)


def test_shards_of_shards_sum_to_the_whole(objective, rng):
    theta = near(objective, rng)
    parts = [objective.shard(outer, 2).shard(inner, 2) for outer in range(2) for inner in range(2)]

    close(sum(part.gradient(theta) for part in parts), objective.gradient(theta), 1e-12)


def test_there_is_no_shard_beyond_the_last(objective):
    with pytest.raises(ValueError, match="0 to 2"):
        objective.shard(3, 3)


# ---------------------------------------------------------------------- some of the blocks


def test_restricting_is_a_block_of_everything(case, objective):
    part = objective.restrict(case.pattern)
    names = [block.name for block in part.space]
    inside = np.concatenate([np.arange(objective.space.d)[objective.space[name].slice] for name in names])
    whole = objective.parameters()

    assert 0 < part.space.d < objective.space.d
    np.testing.assert_array_equal(part.parameters(), whole[inside])
    assert part.measure(whole[inside]) == objective.measure(whole)
    np.testing.assert_allclose(part.gradient(whole[inside]), case.gradient(whole)[inside], rtol=1e-10, atol=1e-14)
    for operator in case.operators:
        dense = objective.hvp(whole, np.eye(len(whole)), operator)
        close(part.hvp(whole[inside], np.eye(part.space.d), operator), dense[np.ix_(inside, inside)], 1e-12)


# ---------------------------------------------------------------------- states


def test_parameters_are_a_copy_and_fill_the_space(objective):
    theta = objective.parameters()
    stood = theta.copy()
    theta += 1

    np.testing.assert_array_equal(objective.parameters(), stood)
    assert theta.shape == (objective.space.d,)
    assert objective.space.d == sum(block.size for block in objective.space)


def test_reading_a_checkpoint_gives_its_vector_and_moves_nothing(case, objective):
    checkpoint, theta, _ = case.elsewhere()
    before = objective.parameters()

    np.testing.assert_array_equal(objective.read(checkpoint), theta)
    np.testing.assert_array_equal(objective.parameters(), before)


@pytest.mark.parametrize("part", ["whole", "restricted"])
def test_a_reader_gives_the_slices_of_read(case, objective, part):
    checkpoint = case.elsewhere()[0]
    made = objective if part == "whole" else objective.restrict(case.pattern)
    whole, reader = made.read(checkpoint), made.reader(checkpoint)
    before = made.parameters()

    for start in range(made.space.d):
        for stop in {start + 1, min(start + 7, made.space.d), made.space.d}:
            found = reader.read(slice(start, stop))
            assert found.tobytes() == whole[start:stop].tobytes(), (start, stop)
            assert found.dtype == whole.dtype
    assert reader.rest() == made.reader(checkpoint).rest()
    np.testing.assert_array_equal(made.parameters(), before)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.endswith(("conv", "everything"))])
def test_the_rest_of_a_checkpoint_is_its_buffers(name):
    network = NETWORKS[name]()
    objective = network.objective()
    before = objective.reader(network.model).rest()

    network.move("parameters")
    moved = objective.reader(network.model).rest()
    network.move("buffers")

    assert moved == before
    assert objective.reader(network.model).rest() != before


def test_a_checkpoint_brings_its_own_buffers(case, objective):
    checkpoint, theta, values = case.elsewhere()
    before = objective.measure(theta)

    other = objective.at(checkpoint)

    np.testing.assert_array_equal(other.parameters(), theta)
    assert other.measure(theta)["loss"] == pytest.approx(values["loss"].mean(), rel=1e-12)
    assert objective.measure(theta) == before


def test_a_trajectory_has_each_checkpoints_own_metrics(case, objective):
    checkpoint, theta, values = case.elsewhere()
    origin = objective.parameters()

    found = project_trajectory(objective, [checkpoint], Plane(origin, (theta - origin)[None])).dataset

    for metric, each in values.items():
        assert found[metric].values[0] == pytest.approx(each.mean(), rel=1e-12, abs=1e-12), metric
    np.testing.assert_allclose(found["coordinates"], [[1.0]], rtol=1e-12)
    np.testing.assert_allclose(found["off_plane"], 0, atol=1e-12)


def test_a_folder_of_keras_weights_is_a_run_in_its_order(tmp_path):
    network = NETWORKS["keras-conv"]()
    objective, wanted = network.objective(), {}
    for step in (10, 0, 2):
        network.move("parameters")
        network.move("buffers")
        network.model.save_weights(tmp_path / f"epoch-{step}.weights.h5")
        wanted[step] = network.values(objective.parameters())["loss"].mean()

    found = project_trajectory(objective, tmp_path, components=[1])

    assert found.dataset["step"].values.tolist() == [0, 2, 10]
    np.testing.assert_allclose(found.dataset["loss"], [wanted[step] for step in (0, 2, 10)], rtol=1e-12)


def test_fingerprints_are_of_what_is_there(case, objective):
    other = objective.at(case.elsewhere()[0])

    assert objective.fingerprint() == case.objective().fingerprint()
    assert set(objective.fingerprint()) == {"parameters", "buffers", "data"}
    assert objective.fingerprint()["parameters"] != other.fingerprint()["parameters"]
    assert objective.fingerprint()["data"] == other.fingerprint()["data"]


def test_what_it_is_about_is_plain_and_the_same_keys_everywhere(case, objective):
    about = objective.about

    assert {"backend", "model", "loss", "metrics", "unit", "samples", "dtype", "batch_norm"} <= set(about)
    assert {"device", "micro_batch", "threads"} <= set(objective.how)
    assert about["dtype"] == "float64"
    assert about["metrics"] == [metric for metric in objective.metrics if not metric.endswith("_stderr")]
    assert about["samples"] == (SAMPLES if case.model is not None else 1)


def test_a_vector_of_another_space_is_refused(objective):
    wrong = np.zeros(objective.space.d + 1)

    for call in (objective.gradient, lambda theta: objective.hvp(theta, wrong[None, 1:]), objective.measure):
        with pytest.raises(ValueError, match=f"{objective.space.d} parameters"):
            call(wrong)
    with pytest.raises(ValueError, match=f"{objective.space.d} parameters"):
        objective.evaluate(Plane(wrong, wrong[None]), np.zeros((1, 1)))


# ---------------------------------------------------------------------- what is the user's


def everything(objective: Objective, checkpoint, operators) -> None:
    theta = objective.parameters()
    plane = Plane(theta, np.ones((2, objective.space.d)))
    objective.evaluate(plane, np.array([[0.0, 0.1], [1e200, 0.0]]))
    objective.gradient(theta)
    for operator in operators:
        objective.hvp(theta, theta[None], operator)
    objective.shard(0, 2).gradient(theta)
    objective.restrict("*").measure(theta)
    objective.read(checkpoint)
    objective.at(checkpoint).measure(theta)
    objective.fingerprint()


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_of_the_users_is_changed(case, objective):
    """Here by all that can be asked, at once; the fixture sees it in every other test, too."""
    checkpoint = case.elsewhere()[0]
    before = case.snapshot()

    case.objective()
    everything(objective, checkpoint, case.operators)

    assert case.snapshot() == before


@pytest.mark.parametrize("ragged", [False, True], ids=["at once", "in the last batch"])
def test_nothing_of_the_users_is_changed_by_a_loss_that_raises(network, ragged):
    failing = []
    loss = network.losing(lambda size: bool(failing) and (not ragged or size == SAMPLES % BATCH))
    objective = network.objective(loss=loss, metrics=[])
    theta = objective.parameters()
    before = network.snapshot()
    failing.append(True)

    for ask in (objective.measure, objective.gradient, lambda theta: objective.hvp(theta, theta[None])):
        with pytest.raises(ArithmeticError, match="no loss today"):
            ask(theta)

    assert network.snapshot() == before


def test_nothing_of_the_users_is_changed_by_an_objective_that_cannot_be_made(network):
    before = network.snapshot()

    with pytest.raises(ArithmeticError, match="no loss today"):
        network.objective(loss=network.losing(lambda size: True), metrics=[])

    assert network.snapshot() == before


def test_a_model_that_moves_is_seen(network):
    objective = network.objective()
    before, stood = objective.fingerprint(), objective.parameters()

    network.move("parameters")

    after = objective.fingerprint()
    assert {part for part in before if before[part] != after[part]} == {"parameters"}
    assert not np.array_equal(objective.parameters(), stood)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.endswith(("conv", "everything"))])
def test_buffers_that_move_are_seen(name):
    network = NETWORKS[name]()
    objective = network.objective()
    before = objective.fingerprint()

    network.move("buffers")

    after = objective.fingerprint()
    assert {part for part in before if before[part] != after[part]} == {"buffers"}


def test_other_data_is_seen(network):
    before = network.objective().fingerprint()
    network.inputs = network.inputs.copy()
    network.inputs[-1, -1] += 1

    after = network.objective().fingerprint()

    assert {part for part in before if before[part] != after[part]} == {"data"}


# ---------------------------------------------------------------------- other ways to ask


def test_a_loss_that_returns_the_mean_of_its_batch_is_weighted_and_has_no_error(network, rng):
    each = network.losing(lambda size: False)
    averaged = network.objective(loss=lambda outputs, targets: mean_of(each(outputs, targets)), metrics=[])
    whole = network.objective(loss=each, metrics=[])
    theta = near(whole, rng)

    assert averaged.metrics == ("loss",)
    assert averaged.measure(theta)["loss"] == pytest.approx(whole.measure(theta)["loss"], rel=1e-12)
    close(averaged.gradient(theta), whole.gradient(theta), 1e-12)


def mean_of(values):
    """Of a tensor of whichever framework."""
    if hasattr(values, "mean"):
        return values.mean()
    import tensorflow as tf

    return tf.reduce_mean(values)


@pytest.mark.parametrize("name", NETWORKS)
def test_batches_that_are_brought_are_the_same_data(case, objective, rng):
    pieces = [(case.inputs[start : start + 5], case.targets[start : start + 5]) for start in range(0, SAMPLES, 5)]
    theta = near(objective, rng)
    standard = {"loss": case.loss, "metrics": list(case.metrics), "dtype": "float64"}

    for data in (pieces, iter(pieces)):
        other = brought(case, data, standard)
        assert other.measure(theta) == pytest.approx(objective.measure(theta), rel=1e-12)
        close(other.gradient(theta), objective.gradient(theta), 1e-12)
        assert other.fingerprint() == objective.fingerprint()


def brought(network, data, options) -> Objective:
    import gradvis

    return gradvis.objective(network.model, data, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_data_that_is_not_kept_gives_the_same_bits(case, objective, rng):
    kept, loaded = objective, case.objective(data_budget=0)
    theta = near(kept, rng)

    assert (kept.streamed, loaded.streamed) == (False, True)
    assert loaded.measure(theta) == kept.measure(theta)
    assert loaded.gradient(theta).tobytes() == kept.gradient(theta).tobytes()
    assert loaded.fingerprint() == kept.fingerprint()


@pytest.mark.parametrize("name", NETWORKS)
def test_points_are_formed_right_in_single_precision(name, rng):
    narrow, wide = NETWORKS[name](dtype="float32"), NETWORKS[name]()
    objective = narrow.objective()
    origin = objective.parameters()
    directions = rng.normal(size=(2, objective.space.d)).astype(np.float32)
    coords = np.array([[0.3, -0.2], [1e-4, 0.0], [0.0, 0.0]])

    found = objective.evaluate(Plane(origin, directions), coords)

    assert origin.dtype == np.float32
    assert objective.gradient(origin).dtype == np.float32
    assert found.dtype == np.float64
    wide.borrow(narrow)
    for row, point in zip(found, origin.astype(np.float64) + coords @ directions.astype(np.float64), strict=True):
        assert row[0] == pytest.approx(wide.values(point)["loss"].mean(), rel=2e-6)
    step = found[1, 0] - found[2, 0]  # what 1e-4 adds is far above the rounding of the sum
    assert step == pytest.approx(1e-4 * wide.gradient(origin.astype(np.float64)) @ directions[0], rel=0.05, abs=5e-8)
