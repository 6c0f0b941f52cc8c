"""What only Keras' batch norms do: frozen ones, masks, loops. The policies themselves are in tests/contract."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gradvis

layers = keras.layers
EPSILON = 1e-3
WIDE = {"dtype": "float64"}
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(11, 3, 2)), RNG.integers(0, 3, 11)
SIZES = (4, 4, 3)


def objective(model, x, policy, **options):
    return gradvis.objective(
        model, (x, Y[: len(x)]), "cross_entropy", **{"batch_norm": policy, "batch_size": 4} | options
    )


def batch_norm(**options):
    return layers.BatchNormalization(epsilon=EPSILON, **WIDE, **options)


def own(x, correction=0):
    return x.mean(0), x.var(0, correction=correction)


def normal(x, statistics):
    return (x - statistics[0]) / (statistics[1] + EPSILON).sqrt()


def mean_loss(outputs, x, sizes=SIZES):
    """Of all samples, with `outputs(x)` of each batch."""
    pairs = zip(torch.as_tensor(x).split(sizes), torch.tensor(Y[: len(x)]).split(sizes), strict=True)
    return sum(F.cross_entropy(outputs(each), y, reduction="sum") for each, y in pairs) / len(x)


def averaged(see, x, sizes=SIZES):
    """Mean and variance over the batches, by their samples; `see` gives what a batch norm sees in one, as a list."""
    uses = [(len(each) / len(x) / len(seen), use) for each in torch.as_tensor(x).split(sizes)
            for seen in [see(each)] for use in seen]  # fmt: skip
    return [sum(share * own(use, 1)[which] for share, use in uses) for which in (0, 1)]


# ---------------------------------------------------------------------- layers


@pytest.mark.parametrize("policy", ["batch", "recalibrate"])
def test_a_frozen_layer_keeps_its_statistics(policy):
    model = keras.Sequential([keras.Input((3,), **WIDE), batch_norm(trainable=False), batch_norm()])
    model.set_weights([RNG.uniform(0.2, 1.5, weight.shape) for weight in model.get_weights()])
    gamma, beta, *stored = (torch.tensor(each.numpy()) for each in model.layers[0].weights)
    x = X[:, 0].repeat(2, 1)[:, :3]
    made = objective(model, x, policy)
    scale, shift = torch.tensor(made.parameters()).split(3)

    def frozen(x):
        return normal(x, stored) * gamma + beta

    fresh = averaged(lambda x: [frozen(x)], x) if policy == "recalibrate" else None
    wanted = mean_loss(lambda x: normal(frozen(x), fresh or own(frozen(x))) * scale + shift, x)
    assert made.measure(made.parameters())["loss"] == pytest.approx(wanted.item(), rel=1e-11)


def test_what_is_masked_has_no_part_in_the_statistics():
    """The sequences are of one, two and three steps; Keras adds 1e-7 to their number."""
    model = keras.Sequential([
        keras.Input((3, 2), **WIDE), layers.Masking(**WIDE), batch_norm(), layers.GlobalAveragePooling1D(**WIDE),
    ])  # fmt: skip
    x, y = X[:3].copy(), np.array([0, 1, 1])
    x[0, 1:] = x[1, 2:] = 0
    steps = x.any(2)
    real = torch.tensor(x[steps])

    for policy, correction in (("batch", 0), ("recalibrate", 1)):
        made = gradvis.objective(model, (x, y), "cross_entropy", batch_norm=policy)
        z = normal(torch.tensor(x), own(real, correction)) * torch.tensor(steps)[..., None]
        wanted = F.cross_entropy(z.sum(1) / torch.tensor(steps).sum(1, keepdim=True), torch.tensor(y)).item()
        assert made.measure(np.array([1.0, 1, 0, 0]))["loss"] == pytest.approx(wanted, rel=1e-5)


def test_regularisation_stays_a_column_under_every_policy():
    model = keras.Sequential([keras.Input((2,), **WIDE), layers.Dense(3, **WIDE), batch_norm()])
    model.layers[0].kernel.regularizer = keras.regularizers.L2(0.3)
    made = objective(model, X[:, 0], "batch")
    theta = made.parameters()

    wanted = pytest.approx(0.3 * (theta[:6] ** 2).sum(), rel=1e-6)  # Keras rounds 0.3 to single precision
    assert made.measure(theta)["regularisation"] == wanted
    assert made.stored().measure(theta)["regularisation"] == wanted


# ---------------------------------------------------------------------- loops


@pytest.mark.parametrize("policy", ["batch", "recalibrate"])
def test_a_layer_over_time_has_the_statistics_of_each_step(policy):
    model = keras.Sequential([
        keras.Input((3, 2), **WIDE), layers.TimeDistributed(batch_norm(), **WIDE), layers.Flatten(**WIDE),
    ])  # fmt: skip
    made = objective(model, X, policy)
    theta = np.array([0.5, 2.0, 0.1, -0.3])
    scale, shift = torch.tensor(theta).split(2)

    fresh = averaged(lambda x: list(x.unbind(1)), X) if policy == "recalibrate" else None

    def outputs(x):
        return torch.stack([normal(step, fresh or own(step)) * scale + shift for step in x.unbind(1)], 1).flatten(1)

    assert made.measure(theta)["loss"] == pytest.approx(mean_loss(outputs, X).item(), rel=1e-11)


class Cell(layers.Layer):
    """A step of a recurrent layer, normalised by its batch."""

    state_size = 3

    def __init__(self):
        super().__init__(**WIDE)
        self.norm = batch_norm(name="inner")

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")
        self.norm.build((None, 3))

    def call(self, x, states, training=False):
        state = keras.ops.tanh(self.norm(x @ self.kernel + states[0], training=training))
        return state, [state]


def recurrent(unroll):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((3, 2), **WIDE), layers.RNN(Cell(), unroll=unroll, **WIDE)])


def unrolled(theta, x, statistics):
    """The state after three steps; `statistics` of what each sees."""
    kernel, scale, shift = theta.split([6, 3, 3])
    state = torch.zeros(len(x), 3).double()
    for step in x.unbind(1):
        seen = step @ kernel.view(2, 3) + state
        state = torch.tanh(normal(seen, statistics(seen)) * scale + shift)
    return state


def test_inside_a_recurrent_layer_each_step_takes_the_statistics_of_its_batch():
    made = objective(recurrent(unroll=False), X, "batch")
    theta, vectors = made.parameters() + 0.1, np.eye(12)[::4]

    def mean(theta):
        return mean_loss(lambda x: unrolled(theta, x, own), X)

    at = torch.tensor(theta)
    assert made.measure(theta)["loss"] == pytest.approx(mean(at).item(), rel=1e-11)
    np.testing.assert_allclose(
        made.gradient(theta), torch.autograd.functional.jacobian(mean, at), rtol=1e-9, atol=1e-13
    )
    dense = torch.autograd.functional.hessian(mean, at).numpy()
    np.testing.assert_allclose(made.hvp(theta, vectors), vectors @ dense, rtol=1e-7, atol=1e-11)


def test_an_unrolled_recurrent_layer_is_recalibrated_over_its_steps_and_a_loop_is_refused():
    made = objective(recurrent(unroll=True), X, "recalibrate")
    theta, at = made.parameters() + 0.1, torch.tensor(made.parameters() + 0.1)

    def see(x):
        uses = []
        unrolled(at, x, lambda seen: uses.append(seen) or own(seen))
        return uses

    fresh = averaged(see, X)
    wanted = mean_loss(lambda x: unrolled(at, x, lambda _: fresh), X).item()
    assert made.measure(theta)["loss"] == pytest.approx(wanted, rel=1e-11)
    loop = objective(recurrent(unroll=False), X, "recalibrate")
    with pytest.raises(ValueError, match="but inner runs inside one; build its RNN with unroll=True, or") as caught:
        loop.measure(theta)
    assert "\n" not in str(caught.value)
