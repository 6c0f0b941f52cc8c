"""Batch norm's policies of the Keras backend against NumPy by hand, and against the PyTorch backend."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from torch import nn

import gradvis
from gradvis.notes import Note
from gradvis.plane import Plane

layers = keras.layers
SIZES = [6, 6, 5]  # the last batch is ragged
COORDS = np.array([[0.0, 0.0], [1.0, -0.5], [0.2, 2.0]])
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(sum(SIZES), 5)), RNG.integers(0, 3, sum(SIZES))
WIDE = {"dtype": "float64"}


def net(seed: int = 0, frozen: bool = False) -> keras.Model:
    """Two batch norms and a dropout; the statistics have moved."""
    rng = np.random.default_rng(seed)
    model = keras.Sequential([
        keras.Input((5,), **WIDE),
        layers.Dense(4, name="first", **WIDE),
        layers.BatchNormalization(name="norm", epsilon=1e-3, **WIDE),
        layers.Activation("tanh", **WIDE),
        layers.Dropout(0.5, **WIDE),
        layers.Dense(3, name="last", **WIDE),
        layers.BatchNormalization(name="end", epsilon=1e-3, **WIDE),
    ])  # fmt: skip
    model.set_weights([rng.uniform(0.2, 1.5, weight.shape) for weight in model.get_weights()])
    model.get_layer("end").trainable = not frozen
    return model


def objective(model, **options):
    return gradvis.objective(
        model, (X, Y), "cross_entropy", **{"metrics": ["accuracy"], "batch_size": SIZES[0], **options}
    )


@pytest.fixture(scope="module")
def plane():
    origin = objective(net()).parameters()
    return Plane(origin, 0.3 * np.random.default_rng(1).normal(size=(2, origin.size)))


def by_hand(theta, statistics, frozen=False, pieces=None):
    """Losses of all samples; `statistics(name, x)` gives the mean and variance that a batch norm takes for x."""
    shapes = [(5, 4), (4,), (4,), (4,), (4, 3), (3,)] + ([] if frozen else [(3,), (3,)])
    parts = np.split(theta, np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
    kernel, bias, gamma, beta, last, shift, *end = (p.reshape(s) for p, s in zip(parts, shapes, strict=True))
    end = end or [net().get_layer("end").gamma.numpy(), net().get_layer("end").beta.numpy()]

    def norm(name, x, gamma, beta):
        mean, variance = statistics(name, x)
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    found = []
    for x, y in pieces or [(X, Y)]:
        z = norm("end", np.tanh(norm("norm", x @ kernel + bias, gamma, beta)) @ last + shift, *end)
        found.append(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y])
    return np.concatenate(found)


def batches(sizes=SIZES):
    ends = np.cumsum(sizes)
    return [(X[end - size : end], Y[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def stored(name, x):
    layer = net().get_layer(name)
    return layer.moving_mean.numpy(), layer.moving_variance.numpy()


def of_the_batch(name, x):
    return x.mean(0), x.var(0)


def eval_loss(theta, frozen=False):
    return by_hand(theta, stored, frozen).mean()


def batch_loss(theta, frozen=False):
    def statistics(name, x):
        return stored(name, x) if frozen and name == "end" else of_the_batch(name, x)

    return by_hand(theta, statistics, frozen, batches()).mean()


def recalibrated_loss(theta, frozen=False, sizes=SIZES):
    """First the pass that normalises by each batch and averages what it sees, then the one that measures."""
    seen: dict = {"norm": [], "end": []}

    def see(name, x):
        if frozen and name == "end":
            return stored(name, x)
        seen[name].append((len(x), x.mean(0), x.var(0, ddof=1)))
        return of_the_batch(name, x)

    by_hand(theta, see, frozen, batches(sizes))

    def averaged(name, x):
        if not seen[name]:
            return stored(name, x)
        return [sum(each[0] * each[part] for each in seen[name]) / len(X) for part in (1, 2)]

    return by_hand(theta, averaged, frozen).mean()


NAIVE = {"eval": eval_loss, "batch": batch_loss, "recalibrate": recalibrated_loss}


@pytest.mark.parametrize("budget", [None, 0], ids=["kept", "streamed"])
@pytest.mark.parametrize("policy", NAIVE)
def test_a_policy_is_what_numpy_computes_and_changes_nothing_of_the_model(plane, policy, budget):
    model = net()
    before = [weight.tobytes() for weight in model.get_weights()]
    momenta = [layer.momentum for layer in model.layers if hasattr(layer, "momentum")]
    made = objective(model, batch_norm=policy, micro_batch=4, data_budget=budget)

    found = made.evaluate(plane, COORDS)

    for loss, theta in zip(found[:, 0], plane.point(COORDS), strict=True):
        assert loss == pytest.approx(NAIVE[policy](theta), rel=1e-11)
    assert made.evaluate(plane, COORDS[2:]).tobytes() == found[2:].tobytes()
    assert [weight.tobytes() for weight in model.get_weights()] == before
    assert [layer.momentum for layer in model.layers if hasattr(layer, "momentum")] == momenta
    assert not any("call" in vars(layer) for layer in model.layers)
    assert made.about["batch_norm"] == policy


@pytest.mark.parametrize("policy", ["batch", "recalibrate"])
def test_a_frozen_layer_keeps_its_statistics(policy):
    made = objective(net(frozen=True), batch_norm=policy)
    theta = made.parameters() + 0.1

    assert made.measure(theta)["loss"] == pytest.approx(NAIVE[policy](theta, frozen=True), rel=1e-11)
    assert made.measure(theta)["loss"] != pytest.approx(eval_loss(theta, frozen=True), rel=1e-4)


def test_a_layer_that_runs_twice_is_recalibrated_over_both_times():
    inputs = keras.Input((3,), **WIDE)
    norm = layers.BatchNormalization(epsilon=1e-3, **WIDE)
    model = keras.Model(inputs, norm(3 * norm(inputs) + 1))
    made = gradvis.objective(model, (X[:, :3], Y), "cross_entropy", batch_norm="recalibrate")

    found = made.measure(made.parameters())["loss"]

    x = X[:, :3]
    first = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    uses = [x, 3 * first + 1]
    mean, var = (sum(each) / 2 for each in zip(*((u.mean(0), u.var(0, ddof=1)) for u in uses), strict=True))
    z = (x - mean) / np.sqrt(var + 1e-3)
    z = (3 * z + 1 - mean) / np.sqrt(var + 1e-3)
    assert found == pytest.approx((np.log(np.exp(z).sum(1)) - z[np.arange(len(Y)), Y]).mean(), rel=1e-11)


def test_what_is_masked_has_no_part_in_the_statistics():
    """The sequences are of one, two and three steps; Keras adds 1e-7 to their number."""
    model = keras.Sequential([
        keras.Input((3, 2), **WIDE),
        layers.Masking(**WIDE),
        layers.BatchNormalization(epsilon=1e-3, **WIDE),
        layers.GlobalAveragePooling1D(**WIDE),
    ])  # fmt: skip
    x = RNG.normal(size=(3, 3, 2))
    x[0, 1:] = x[1, 2:] = 0
    data = x, np.array([0, 1, 1])

    found = {
        policy: gradvis.objective(model, data, "cross_entropy", batch_norm=policy).measure(np.array([1.0, 1, 0, 0]))
        for policy in ("batch", "recalibrate")
    }

    steps = x.any(2)
    real = x[steps]
    for policy, ddof in (("batch", 0), ("recalibrate", 1)):
        normal = (x - real.mean(0)) / np.sqrt(real.var(0, ddof=ddof) + 1e-3)
        z = (normal * steps[..., None]).sum(1) / steps.sum(1, keepdims=True)
        wanted = (np.log(np.exp(z).sum(1)) - z[np.arange(3), data[1]]).mean()
        assert found[policy]["loss"] == pytest.approx(wanted, rel=1e-5)


def twins():
    """The same net in both frameworks, a function of one layout: convolution, batch norm, dense."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, eps=1e-3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(3, 3), nn.BatchNorm1d(3, eps=1e-3)).double()  # fmt: skip
    other = keras.Sequential([
        keras.Input((4, 4, 1), **WIDE),
        layers.Conv2D(3, 3, **WIDE), layers.BatchNormalization(epsilon=1e-3, **WIDE), layers.ReLU(**WIDE),
        layers.GlobalAveragePooling2D(**WIDE), layers.Dense(3, **WIDE), layers.BatchNormalization(epsilon=1e-3, **WIDE),
    ])  # fmt: skip
    conv, norm, dense, end = (one[index] for index in (0, 1, 5, 6))
    with torch.no_grad():
        for layer in (norm, end):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                tensor.uniform_(0.3, 2)
    arrays = [
        conv.weight.permute(2, 3, 1, 0), conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var,
        dense.weight.T, dense.bias, end.weight, end.bias, end.running_mean, end.running_var,
    ]  # fmt: skip
    other.set_weights([array.detach().numpy() for array in arrays])
    return one, other


def test_every_policy_gives_the_numbers_that_pytorch_gives():
    one, other = twins()
    images = RNG.normal(size=(17, 4, 4, 1))

    for policy in NAIVE:
        options = {"metrics": ["accuracy"], "batch_size": 6, "batch_norm": policy}
        wanted = gradvis.objective(one, (images.transpose(0, 3, 1, 2), Y), "cross_entropy", **options)
        found = gradvis.objective(other, (images, Y), "cross_entropy", **options)
        assert found.metrics == wanted.metrics
        assert found.measure(found.parameters()) == pytest.approx(wanted.measure(wanted.parameters()), rel=1e-12)
        for key in ("batch_norm", "batches", "samples", "unit", "metrics"):
            assert found.about.get(key) == wanted.about.get(key)


def test_the_gradient_of_the_batch_policy_is_that_of_its_loss():
    made = objective(net(), batch_norm="batch", micro_batch=2)
    theta = made.parameters() + 0.05

    slope = made.gradient(theta)

    for direction in np.random.default_rng(0).normal(size=(3, theta.size)):
        step = 1e-5 * direction
        wanted = (batch_loss(theta + step) - batch_loss(theta - step)) / 2e-5
        assert slope @ direction == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_allclose(sum(made.shard(each, 2).gradient(theta) for each in range(2)), slope, rtol=1e-10)


def test_products_of_the_batch_policy_are_differences_of_its_gradients():
    made = objective(net(), batch_norm="batch", micro_batch=2)
    theta, vector = made.parameters() + 0.05, np.random.default_rng(0).normal(size=made.space.d)

    found = made.hvp(theta, vector[None])[0]

    wanted = (made.gradient(theta + 1e-5 * vector) - made.gradient(theta - 1e-5 * vector)) / 2e-5
    assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)


def test_recalibration_has_no_products_and_no_shards():
    made = objective(net(), batch_norm="recalibrate")
    theta = made.parameters()

    for refused in (lambda: made.gradient(theta), lambda: made.hvp(theta, theta[None]), lambda: made.shard(0, 2)):
        with pytest.raises(ValueError, match="batch_norm='recalibrate'"):
            refused()


def test_batches_are_part_of_the_function_and_recorded(plane):
    one, other = (objective(net(), batch_norm="batch", batch_size=size) for size in (6, 17))

    assert one.about["batches"] == "2 of 6, 1 of 5"
    assert other.about["batches"] == "1 of 17"
    assert one.evaluate(plane, COORDS)[1, 0] != pytest.approx(other.evaluate(plane, COORDS)[1, 0], rel=1e-6)
    assert "batches" not in objective(net()).about


@pytest.mark.parametrize("budget", [None, 0], ids=["kept", "streamed"])
def test_a_batch_of_one_sample_is_recalibrated_with_the_one_before_it(plane, budget):
    options = {"batch_norm": "recalibrate", "data_budget": budget}

    found = [objective(net(), batch_size=size, **options).evaluate(plane, COORDS)[:, 0] for size in (16, 17)]

    np.testing.assert_allclose(found[0], found[1], rtol=1e-14)  # 16 and 1, and 17
    assert found[0][1] == pytest.approx(recalibrated_loss(plane.point(COORDS)[1], sizes=[17]), rel=1e-11)


def test_a_batch_of_one_sample_has_no_statistics_of_its_own():
    made = objective(net(), batch_size=16, batch_norm="batch")

    with pytest.raises(ValueError, match="takes their statistics, but a batch of one came; take another") as caught:
        made.measure(made.parameters())
    assert "\n" not in str(caught.value)


def test_there_are_three_policies():
    with pytest.raises(ValueError, match="batch_norm must be one of eval, batch, recalibrate, but 'frozen' came"):
        objective(net(), batch_norm="frozen")


# ---------------------------------------------------------------------- planes


def test_between_checkpoints_statistics_are_recalibrated_and_each_own_loss_is_its_own():
    model, other = net(), net(5)
    made = objective(model)
    line = gradvis.plane_between(made, model, other)

    with pytest.warns(Note, match="both are stored"):
        surface = gradvis.loss_surface(made, line, resolution=5)

    assert surface.about["objective"]["batch_norm"] == "recalibrate"
    for mark, each in zip(surface.checkpoints, (model, other), strict=True):
        theta = made.read(each)
        assert mark.plane["loss"] == pytest.approx(recalibrated_loss(theta), rel=1e-10)
        assert mark.own["loss"] == pytest.approx(objective(each).measure(theta)["loss"], rel=1e-12)
    assert surface.checkpoints[0].own["loss"] == pytest.approx(eval_loss(made.parameters()), rel=1e-11)


def test_a_plane_pinned_elsewhere_is_recalibrated_and_one_that_was_chosen_for_is_not(plane):
    made, chosen = objective(net()), objective(net(), batch_norm="batch")
    elsewhere = Plane(plane.origin + 1, plane.directions)

    with pytest.warns(Note, match="pinned at other parameters than the model's: batch norm is recalibrated"):
        found = made.on(elsewhere)

    assert found.about["batch_norm"] == "recalibrate"
    assert found.stored().about["batch_norm"] == chosen.stored().about["batch_norm"] == "eval"
    assert chosen.on(elsewhere).about["batch_norm"] == "batch"
    theta = made.parameters()
    assert chosen.stored().measure(theta)["loss"] == pytest.approx(eval_loss(theta), rel=1e-11)


def test_regularisation_stays_a_column_under_every_policy():
    model = net()
    model.get_layer("first").kernel.regularizer = keras.regularizers.L2(0.3)
    made = objective(model, batch_norm="batch")
    theta = made.parameters()

    wanted = pytest.approx(0.3 * (theta[:20] ** 2).sum(), rel=1e-6)  # Keras rounds 0.3 to single precision
    assert made.measure(theta)["regularisation"] == wanted
    assert made.stored().measure(theta)["regularisation"] == wanted
