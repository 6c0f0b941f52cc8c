"""Filters of Keras' separable and recurrent layers, norms and own layers against what the layers compute."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
from gradvis.backends.analytic import Quadratic
from gradvis.backends.tf.layers import (
    batch_norms,
    has_batch_norm,
    moved_variables,
    names_of,
    parameter_space,
)

layers = keras.layers
RNG = np.random.default_rng(0)


def drawn(*shape):
    return tf.constant(RNG.normal(size=shape))


def drawn_like(layer, *inputs, **options):
    """The same layer, built, with every parameter drawn anew, so that none is zero by its initialisation."""
    layer(*inputs, **options)
    for variable in layer.trainable_variables:
        variable.assign(drawn(*variable.shape))
    return layer


def space_of(model, **options):
    return parameter_space(model, moved_variables(model), **options)


def values_of(model):
    return {names_of(model)[id(v)]: v.numpy() for v in moved_variables(model)}


def direction_of(model, **options):
    """A random direction through a model, as arrays by name."""
    space = space_of(model)
    origin = np.concatenate([value.reshape(-1) for value in values_of(model).values()])
    plane = gradvis.random_plane(Quadratic(np.ones(space.d), space=space), k=1, origin=origin, seed=1, **options)
    return space.split(plane.directions[0])


def assert_filters(model, name, units):
    """Each of `units(weight)`, (u,), depends on its own part of the weight; each part has its norm in a direction."""
    weight = tf.constant(values_of(model)[name], tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weight)
        found = list(units(weight))
    parts = [tf.convert_to_tensor(tape.gradient(unit, weight)).numpy().reshape(-1) != 0 for unit in found]
    assert (np.sum(parts, axis=0) == 1).all(), "every number belongs to one unit"

    block, direction = space_of(model)[name], direction_of(model)[name].reshape(-1)

    for part in parts:
        np.testing.assert_allclose(
            np.linalg.norm(direction[part]), np.linalg.norm(weight.numpy().reshape(-1)[part]), rtol=1e-6
        )
    assert len(block.filters(np.zeros(space_of(model).d))) == len(parts)
    assert (block.kind, block.guessed) == ("weight", False)


def through(model, name, *inputs, **options):
    """The outputs of a layer as a function of one of its parameters."""
    variable = next(v for v in moved_variables(model) if names_of(model)[id(v)] == name)

    def outcome(weight):
        with keras.StatelessScope([(variable, tf.cast(weight, variable.dtype))]):
            return tf.cast(model(*inputs, **options), tf.float64)

    return outcome


# ------------------------------------------------------------------------------------ several kernels


def channels(outputs):
    """One number for each entry of the last axis, the others summed."""
    return tf.reduce_sum(outputs, axis=range(len(outputs.shape) - 1))


def units_of_heads(outputs):
    return tf.reshape(tf.reduce_sum(outputs, axis=(0, 1)), -1)


WIDE = {"dtype": "float64"}


@pytest.mark.parametrize("rank", [1, 2])
def test_both_kernels_of_a_separable_convolution_have_their_filters(rank):
    """With the identity as pointwise kernel the outputs are what the depthwise kernel makes."""
    layer = (layers.SeparableConv1D, layers.SeparableConv2D)[rank - 1](6, 3, depth_multiplier=2, **WIDE)
    inputs = drawn(2, *[6] * rank, 3)
    drawn_like(layer, inputs)
    layer.pointwise_kernel.assign(np.eye(6).reshape(layer.pointwise_kernel.shape))
    outcome = through(layer, "depthwise_kernel", inputs)
    assert_filters(layer, "depthwise_kernel", lambda weight: channels(outcome(weight)))


def test_words_of_an_untied_reversible_embedding_are_columns_on_the_way_back():
    layer = drawn_like(layers.ReversibleEmbedding(5, 3, tie_weights=False, **WIDE), tf.range(5))
    outcome = through(layer, "reverse_embeddings", drawn(4, 3), reverse=True)
    assert_filters(layer, "reverse_embeddings", lambda weight: channels(outcome(weight)))


# -------------------------------------------------------------------------------------- recurrent layers


def gates_by_hand(cell, inputs, state, weights):
    """What a cell's kernels make of inputs and state before anything is squashed: two of (b, gates * units)."""
    given = {v.name: v.value for v in cell.variables} | weights
    return inputs @ given["kernel"], state @ given["recurrent_kernel"]


def lstm_by_hand(cell, inputs, state, carry, weights):
    of_inputs, of_state = gates_by_hand(cell, inputs, state, weights)
    i, f, g, o = tf.split(of_inputs + of_state + cell.bias.value, 4, axis=1)
    carry = tf.sigmoid(f) * carry + tf.sigmoid(i) * tf.tanh(g)
    return tf.sigmoid(o) * tf.tanh(carry), carry


def gru_by_hand(cell, inputs, state, weights):
    of_inputs, of_state = gates_by_hand(cell, inputs, state, weights)
    zx, rx, gx = tf.split(of_inputs + cell.bias.value[0], 3, axis=1)
    zh, rh, gh = tf.split(of_state + cell.bias.value[1], 3, axis=1)
    z, r = tf.sigmoid(zx + zh), tf.sigmoid(rx + rh)
    return z * state + (1 - z) * tf.tanh(gx + r * gh)


def recurrent(kind, **options):
    """A layer, its cell, and three steps of two samples."""
    inputs = drawn(2, 3, 4)
    layer = drawn_like(kind(5, return_sequences=True, **options, **WIDE), inputs)
    return layer, layer.cell, inputs


def assert_units_of_gates(layer, prefix, cell):
    inputs, state = drawn(2, 4), drawn(2, 5)
    for place, name in enumerate(("kernel", "recurrent_kernel")):
        assert_filters(
            layer,
            f"{prefix}{name}",
            lambda w: channels(gates_by_hand(cell, inputs, state, {name: w})[place]),  # noqa: B023
        )
    blocks = space_of(layer)
    assert blocks[f"{prefix}bias"].kind == "bias"
    assert not direction_of(layer)[f"{prefix}bias"].any()


def test_a_filter_of_an_lstm_is_a_unit_of_a_gate():
    layer, cell, inputs = recurrent(layers.LSTM)
    state = carry = tf.zeros((2, 5), tf.float64)
    for step, found in zip(tf.unstack(inputs, axis=1), tf.unstack(layer(inputs), axis=1), strict=True):
        state, carry = lstm_by_hand(cell, step, state, carry, {})
        np.testing.assert_allclose(found, state, rtol=1e-9)
    assert_units_of_gates(layer, "lstm_cell/", cell)


def test_a_filter_of_a_gru_is_a_unit_of_a_gate_and_its_bias_has_two_rows():
    layer, cell, inputs = recurrent(layers.GRU)
    state = tf.zeros((2, 5), tf.float64)
    for step, found in zip(tf.unstack(inputs, axis=1), tf.unstack(layer(inputs), axis=1), strict=True):
        state = gru_by_hand(cell, step, state, {})
        np.testing.assert_allclose(found, state, rtol=1e-9)
    assert space_of(layer)["gru_cell/bias"].shape == (2, 15)
    assert_units_of_gates(layer, "gru_cell/", cell)
    moved = direction_of(layer, include_bias=True)["gru_cell/bias"]  # each number is a filter
    np.testing.assert_allclose(abs(moved), abs(cell.bias.numpy()), rtol=1e-6)


def test_a_filter_of_a_simple_recurrent_layer_is_a_unit():
    layer, cell, inputs = recurrent(layers.SimpleRNN)
    first = np.tanh(gates_by_hand(cell, inputs[:, 0], tf.zeros((2, 5), tf.float64), {})[0] + cell.bias.value)
    np.testing.assert_allclose(layer(inputs)[:, 0], first, rtol=1e-9)
    assert_units_of_gates(layer, "simple_rnn_cell/", cell)


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU])
def test_both_directions_and_stacked_cells_keep_the_norms_of_columns(kind):
    stack = layers.RNN([layers.LSTMCell(3, **WIDE), layers.GRUCell(2, **WIDE)], **WIDE)
    model = keras.Sequential([layers.Bidirectional(kind(5, return_sequences=True, **WIDE), **WIDE), stack])
    drawn_like(model, drawn(2, 3, 4))
    direction = direction_of(model)
    kernels = {name: value for name, value in values_of(model).items() if "kernel" in name}
    assert len(kernels) == 8
    for name, value in kernels.items():
        np.testing.assert_allclose(np.linalg.norm(direction[name], axis=0), np.linalg.norm(value, axis=0), rtol=1e-6)


def test_a_filter_of_a_convolutional_lstm_is_a_channel_of_a_gate():
    inputs = drawn(1, 1, 5, 5, 2)
    layer = drawn_like(layers.ConvLSTM2D(3, 3, padding="same", **WIDE), inputs)

    def gates(weight):
        return keras.ops.conv(inputs[:, 0], weight, padding="same")

    squash = layer.cell.recurrent_activation
    i, _, g, o = tf.split(gates(layer.cell.kernel.value) + layer.cell.bias.value, 4, axis=-1)
    first = squash(o) * tf.tanh(squash(i) * tf.tanh(g))  # nothing is carried yet that f could forget
    np.testing.assert_allclose(layer(inputs), first, rtol=1e-9)
    assert_filters(layer, "conv_lstm_cell/kernel", lambda w: channels(gates(w)))
    state = drawn(1, 5, 5, 3)
    assert_filters(
        layer, "conv_lstm_cell/recurrent_kernel", lambda w: channels(keras.ops.conv(state, w, padding="same"))
    )


# --------------------------------------------------------------------------------- norms, biases, statistics


def test_norms_and_slopes_are_held_still_and_statistics_are_no_parameters():
    model = keras.Sequential([
        keras.Input((4, 4, 6)),
        layers.BatchNormalization(name="batch"),
        layers.LayerNormalization(axis=(-2, -1), name="layer"),
        layers.GroupNormalization(3, name="group"),
        layers.RMSNormalization(axis=[-2, -1], name="rms"),
        layers.UnitNormalization(name="unit"),
        layers.PReLU(shared_axes=(1, 2), name="prelu"),
        layers.PReLU(name="wide"),
        layers.Normalization(name="data", mean=0.0, variance=1.0),
    ])  # fmt: skip
    space = space_of(model)
    assert {block.name: (block.shape, block.kind) for block in space} == {
        "batch/gamma": ((6,), "norm"), "batch/beta": ((6,), "norm"),
        "layer/gamma": ((4, 6), "norm"), "layer/beta": ((4, 6), "norm"),
        "group/gamma": ((6,), "norm"), "group/beta": ((6,), "norm"),
        "rms/scale": ((4, 6), "norm"),
        "prelu/alpha": ((1, 1, 6), "norm"), "wide/alpha": ((4, 4, 6), "norm"),
    }  # fmt: skip
    drawn_like(model, drawn(2, 4, 4, 6))
    assert not any(value.any() for value in direction_of(model).values())
    for name, value in direction_of(model, include_bias=True).items():
        np.testing.assert_allclose(abs(value), abs(values_of(model)[name]), rtol=1e-6)
    assert {"batch/moving_mean", "batch/moving_variance"} <= set(names_of(model).values())


def test_batch_norms_are_found_wherever_they_are():
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), keras.Sequential([layers.Dense(3), norm])])
    assert batch_norms(model) == [norm]
    assert has_batch_norm(model)
    assert not has_batch_norm(keras.Sequential([keras.Input((3,)), layers.LayerNormalization()]))


# --------------------------------------------------------------------------------------------- own layers


class Tokens(layers.Layer):
    """Positions in two dimensions, a gate, and experts."""

    def build(self, shape):
        for name, size in {
            "position_embeddings": (6, 4),
            "experts": (3, 4, 5),
            "gate_kernel": (4, 2),
        }.items():
            setattr(self, name, self.add_weight(shape=size, name=name))

    def call(self, inputs):
        return inputs


def test_positions_gates_and_experts_have_the_filters_that_are_stated():
    model, inputs = drawn_like(Tokens(**WIDE), drawn(2, 4)), drawn(2, 4)
    assert_filters(model, "position_embeddings", lambda w: tf.reduce_sum(w, axis=1))
    assert_filters(model, "experts", lambda w: tf.reshape(tf.einsum("bi,eio->eo", inputs, w), -1))
    assert_filters(model, "gate_kernel", lambda w: channels(inputs @ w))
