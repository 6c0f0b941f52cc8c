"""Filters of Keras layers against what the layers compute: a filter is what changes one output and no other."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
from gradvis.backends.analytic import Quadratic
from gradvis.backends.tf.layers import (
    batch_norms,
    compute_dtype,
    has_batch_norm,
    moved_variables,
    names_of,
    parameter_space,
    weights_of,
)
from gradvis.notes import Note

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


# ------------------------------------------------------------------------------------ layers of Keras


@keras.saving.register_keras_serializable("tests")
class Doubled(layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


def channels(outputs):
    """One number for each entry of the last axis, the others summed."""
    return tf.reduce_sum(outputs, axis=range(len(outputs.shape) - 1))


def units_of_heads(outputs):
    return tf.reshape(tf.reduce_sum(outputs, axis=(0, 1)), -1)


WIDE = {"dtype": "float64"}
LAYERS = {
    "dense": (layers.Dense(4, **WIDE), (drawn(5, 3),), "kernel", channels),
    "a dense subclass": (Doubled(4, **WIDE), (drawn(5, 3),), "kernel", channels),
    "convolution 1-D, grouped": (layers.Conv1D(6, 3, groups=2, **WIDE), (drawn(2, 6, 4),), "kernel", channels),
    "convolution 2-D": (layers.Conv2D(4, 3, **WIDE), (drawn(2, 6, 6, 2),), "kernel", channels),
    "convolution 3-D": (layers.Conv3D(4, 2, **WIDE), (drawn(1, 3, 3, 3, 2),), "kernel", channels),
    "transposed 1-D": (layers.Conv1DTranspose(2, 3, **WIDE), (drawn(2, 5, 3),), "kernel", channels),
    "transposed 2-D": (layers.Conv2DTranspose(6, 3, **WIDE), (drawn(2, 5, 5, 4),), "kernel", channels),
    "transposed 3-D": (layers.Conv3DTranspose(3, 2, **WIDE), (drawn(1, 3, 3, 3, 2),), "kernel", channels),
    "depthwise 1-D": (layers.DepthwiseConv1D(3, depth_multiplier=2, **WIDE), (drawn(2, 6, 3),), "kernel", channels),
    "depthwise 2-D": (layers.DepthwiseConv2D(3, depth_multiplier=2, **WIDE), (drawn(2, 6, 6, 3),), "kernel", channels),
    "separable 1-D": (layers.SeparableConv1D(5, 3, **WIDE), (drawn(2, 6, 3),), "pointwise_kernel", channels),
    "separable 2-D": (layers.SeparableConv2D(5, 3, **WIDE), (drawn(2, 6, 6, 3),), "pointwise_kernel", channels),
    "einsum, as a dense one": (layers.EinsumDense("...x,xy->...y", 4, **WIDE), (drawn(5, 3),), "kernel", channels),
    "einsum, of heads": (
        layers.EinsumDense("abc,cde->abde", (None, 2, 5), **WIDE), (drawn(2, 4, 3),), "kernel", units_of_heads
    ),
    "einsum, heads to one": (
        layers.EinsumDense("abcd,cde->abe", (None, 5), **WIDE), (drawn(2, 4, 2, 3),), "kernel", channels
    ),
    "einsum, one for each place": (
        layers.EinsumDense("bni,nio->bno", (4, 5), **WIDE), (drawn(2, 4, 3),), "kernel",
        lambda outputs: tf.reshape(tf.reduce_sum(outputs, 0), -1),
    ),
    "embedding": (
        layers.Embedding(5, 3, **WIDE), (tf.range(5),), "embeddings", lambda rows: tf.reduce_sum(rows, axis=1)
    ),
    "reversible embedding": (
        layers.ReversibleEmbedding(5, 3, **WIDE), (tf.range(5),), "embeddings", lambda rows: tf.reduce_sum(rows, axis=1)
    ),
    "in a wrapper": (
        layers.TimeDistributed(layers.Dense(4, **WIDE), **WIDE), (drawn(2, 5, 3),), "dense/kernel", channels
    ),
    "spectral norm": (
        layers.SpectralNormalization(layers.DepthwiseConv1D(3, depth_multiplier=2, **WIDE), **WIDE),
        (drawn(2, 6, 3),), "depthwise_conv1d/kernel", channels,
    ),
    "spectral norm of an embedding": (
        layers.SpectralNormalization(layers.Embedding(5, 3, **WIDE), **WIDE),
        (tf.range(5, dtype="float64"),), "embedding/embeddings", lambda rows: tf.reduce_sum(rows, axis=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_a_filter_is_what_makes_one_output_of_a_layer(kind):
    layer, inputs, name, outputs = LAYERS[kind]
    outcome = through(drawn_like(layer, *inputs), name, *inputs)
    assert_filters(layer, name, lambda weight: outputs(outcome(weight)))


@pytest.mark.parametrize("kind", LAYERS)
def test_scaling_one_filter_scales_what_it_makes_and_nothing_else(kind):
    layer, inputs, name, outputs = LAYERS[kind]
    outcome, space = through(drawn_like(layer, *inputs), name, *inputs), space_of(layer)
    theta = np.concatenate([value.reshape(-1) for value in values_of(layer).values()])
    filters = space[name].filters(theta).copy()
    filters[2 % len(filters)] *= 3

    scaled = outcome(space[name].flatten(filters).reshape(space[name].shape))

    changed = ~np.isclose(outputs(scaled), outputs(outcome(values_of(layer)[name])))
    assert np.flatnonzero(changed).tolist() == [2 % len(filters)]


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


# --------------------------------------------------------------------------------------------- attention


def attention_by_hand(layer, query, value, weights):
    """Projections before the heads mix them, by name, (b, tokens, heads, units), and the outputs."""
    given = {name: tf.constant(each) for name, each in values_of(layer).items()} | weights
    parts = {
        name: tf.einsum("btc,chu->bthu", source, given[f"{name}/kernel"]) + given[f"{name}/bias"]
        for name, source in {"query": query, "key": value, "value": value}.items()
    }
    shared = parts["query"].shape[2] // parts["key"].shape[2]
    key, content = (tf.repeat(parts[name], shared, axis=2) for name in ("key", "value"))
    scores = tf.einsum("bthu,bshu->bhts", parts["query"], key) / key.shape[-1] ** 0.5
    mixed = tf.einsum("bhts,bshu->bthu", tf.nn.softmax(scores), content)
    out = tf.einsum("bthu,huc->btc", mixed, given["attention_output/kernel"]) + given["attention_output/bias"]
    return parts, out


ATTENTION = {  # of four units a head: in float64 too, Keras takes the root of that number in float32
    "multi-head": (layers.MultiHeadAttention(2, 4, value_dim=3, **WIDE), 2),
    "grouped query": (layers.GroupQueryAttention(4, 4, 2, **WIDE), 2),
}


@pytest.mark.parametrize("kind", ATTENTION)
def test_a_filter_of_attention_is_a_unit_of_a_head(kind):
    layer, key_heads = ATTENTION[kind]
    query, value = drawn(2, 4, 6), drawn(2, 5, 6)
    drawn_like(layer, query, value)
    np.testing.assert_allclose(attention_by_hand(layer, query, value, {})[1], layer(query, value), rtol=1e-8)

    for part in ("query", "key", "value"):
        name = f"{part}/kernel"
        assert_filters(
            layer,
            name,
            lambda w: units_of_heads(attention_by_hand(layer, query, value, {name: w})[0][part]),  # noqa: B023
        )
    name = "attention_output/kernel"
    assert_filters(layer, name, lambda w: channels(attention_by_hand(layer, query, value, {name: w})[1]))
    assert space_of(layer)["key/kernel"].shape[1] == key_heads
    assert {block.kind for block in space_of(layer) if "bias" in block.name} == {"bias"}


# --------------------------------------------------------------------------------------------- LoRA pairs

PAIRS = {
    "dense": (layers.Dense(4, **WIDE), (drawn(5, 3),), "kernel", "xc,cr->xr", channels),
    "convolution": (layers.Conv2D(4, 1, **WIDE), (drawn(2, 5, 5, 3),), "kernel", "xyzc,ijcr->xyzr", channels),
    "heads": (
        layers.EinsumDense("abc,cde->abde", (None, 2, 4), **WIDE), (drawn(2, 5, 3),), "kernel", "abc,cdr->abdr",
        units_of_heads,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PAIRS)
def test_lora_pairs_have_a_filter_for_each_unit_of_the_low_rank(kind):
    layer, inputs, name, low_rank, low_units = PAIRS[kind]
    layer(*inputs)
    layer.enable_lora(2)
    drawn_like(layer, *inputs)
    a, b = f"lora_{name}_a", f"lora_{name}_b"
    wide = {key: value.astype(np.float64) for key, value in values_of(layer).items()}
    low = tf.einsum(low_rank, inputs[0], wide[a])
    plain = layer.__class__.from_config({**layer.get_config(), "lora_rank": None})
    plain(*inputs)
    plain.set_weights([each.numpy() for each in layer.weights if not each.name.startswith("lora")])
    np.testing.assert_allclose(layer(*inputs), plain(*inputs) + low @ wide[b], rtol=1e-4, atol=1e-5)

    assert name not in values_of(layer)
    assert_filters(layer, a, lambda w: low_units(tf.einsum(low_rank, inputs[0], w)))
    assert_filters(layer, b, lambda w: channels(tf.reshape(low, (-1, 2)) @ w))


def test_lora_of_an_embedding_has_a_filter_for_each_word_and_each_unit():
    layer = layers.Embedding(5, 3, **WIDE)
    layer(tf.range(5))
    layer.enable_lora(2)
    drawn_like(layer, tf.range(5))
    b = values_of(layer)["lora_embeddings_b"].astype(np.float64)
    assert_filters(layer, "lora_embeddings_a", lambda a: tf.reduce_sum(a @ b, axis=1))
    assert_filters(layer, "lora_embeddings_b", lambda w: channels(w))


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
    """A class token, positions of two shapes, gains, and experts."""

    def build(self, shape):
        for name, size in {
            "token": (1, 1, 4),
            "positions": (1, 6, 4),
            "position_embeddings": (6, 4),
            "experts": (3, 4, 5),
            "experts_bias": (3, 5),
            "gate_kernel": (4, 2),
            "gain": (4,),
            "map": (1, 1, 1, 4),
            "first": (4, 1, 1),
            "one": (),
        }.items():
            setattr(self, name, self.add_weight(shape=size, name=name))

    def call(self, inputs):
        return inputs


def test_tokens_positions_and_experts_have_the_filters_that_are_stated():
    model, inputs = drawn_like(Tokens(**WIDE), drawn(2, 4)), drawn(2, 4)
    assert_filters(model, "token", lambda w: [tf.reduce_sum(w)])
    assert_filters(model, "positions", lambda w: tf.reduce_sum(w, axis=(0, 2)))
    assert_filters(model, "position_embeddings", lambda w: tf.reduce_sum(w, axis=1))
    assert_filters(model, "experts", lambda w: tf.reshape(tf.einsum("bi,eio->eo", inputs, w), -1))
    assert_filters(model, "gate_kernel", lambda w: channels(inputs @ w))


def test_scales_and_biases_of_own_layers_are_held_still():
    model = drawn_like(Tokens(**WIDE), drawn(2, 4))
    still = {"experts_bias": "bias", "gain": "norm", "map": "norm", "first": "norm", "one": "norm"}
    assert {block.name: block.kind for block in space_of(model) if block.kind != "weight"} == still
    assert all(not direction_of(model)[name].any() for name in still)


class Unknown(layers.Layer):
    def build(self, shape):
        for name in "abcde":
            setattr(self, name, self.add_weight(shape=(3, 2), name=name))

    def call(self, inputs):
        return inputs @ self.a


def test_what_is_unknown_has_its_filters_along_the_last_axis_and_is_named_once():
    model = drawn_like(Unknown(**WIDE), drawn(2, 3))
    with pytest.warns(
        Note, match="the last axis was taken to count filters: a, b, c and 2 more; .* filters={name: axes}"
    ) as made:
        direction = direction_of(model)
    assert len(made) == 1
    value = values_of(model)["a"]
    np.testing.assert_allclose(np.linalg.norm(direction["a"], axis=0), np.linalg.norm(value, axis=0), rtol=1e-6)


@pytest.mark.parametrize(("axes", "filters"), [(0, 3), (1, 2), (-1, 2), ((0, 1), 6), ([1, 0], 6), ((), 1)])
def test_the_user_may_say_which_axes_count_filters(axes, filters):
    model = drawn_like(Unknown(**WIDE), drawn(2, 3))
    space = space_of(model, filters={"a": axes, "?": 1})
    assert len(space["a"].filters(np.zeros(space.d))) == filters
    assert not any(block.guessed for block in space)
    assert len(space["b"].filters(np.zeros(space.d))) == 2


def test_a_word_on_filters_that_fits_nothing_is_refused():
    model = drawn_like(layers.Dense(4, **WIDE), drawn(2, 3))
    with pytest.raises(ValueError, match="'kernle' fits none; near: kernel"):
        space_of(model, filters={"kernle": 0})
    with pytest.raises(ValueError, match=r"must be axes of kernel, whose shape is \(3, 4\), but 2 came"):
        space_of(model, filters={"*": 2})
    with pytest.raises(ValueError, match="'bias' fits none"):
        space_of(model, filters={"bias": 0})


# ------------------------------------------------------------------------------------------------- names


def encoder():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(4, name="own_1")], name="encoder")


def nested():
    inputs = keras.Input((4,))
    shared, inner = layers.Dense(4), encoder()
    outputs = inner(shared(inner(shared(inputs))))
    return keras.Model(inputs, layers.Dense(2, name="head_7")(layers.Dense(4)(outputs)))


NAMES = {
    "dense/kernel", "dense/bias", "encoder/dense/kernel", "encoder/dense/bias", "encoder/own_1/kernel",
    "encoder/own_1/bias", "dense#2/kernel", "dense#2/bias", "head_7/kernel", "head_7/bias",
}  # fmt: skip


def test_names_tell_the_place_in_the_model_and_not_what_was_made_before():
    first, later = nested(), nested()
    assert {block.name for block in space_of(first)} == NAMES
    assert space_of(later).names == space_of(first).names
    assert first.layers[1].name != later.layers[1].name  # as Keras numbers them


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras' own, while it writes
def test_a_model_and_its_file_have_the_same_names(tmp_path):
    layers.Dense(1), layers.LSTM(2)  # so that Keras' numbers do not begin at none
    inputs = keras.Input((6, 4))
    both = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(inputs)
    outputs = layers.Dense(2)(layers.Dense(3)(layers.MultiHeadAttention(2, 3)(both, both)))
    model = keras.Model(inputs, [outputs, layers.TimeDistributed(nested())(layers.Dense(4)(inputs))])
    model.save(tmp_path / "model.keras")

    loaded = keras.models.load_model(tmp_path / "model.keras")

    assert space_of(loaded).names == space_of(model).names
    assert "bidirectional/backward_lstm/lstm_cell/kernel" in space_of(model).split(np.zeros(space_of(model).d))
    for name, value in values_of(model).items():
        np.testing.assert_array_equal(values_of(loaded)[name], value)


class Listed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(3)
        self.blocks = [layers.Dense(3) for _ in range(2)]
        self.heads = {"a": layers.Dense(1), "b": self.first}
        self.scale = self.add_weight(shape=(3,), initializer="ones")
        self.shift = keras.Variable(np.zeros(3, "float32"))

    def call(self, inputs):
        for layer in (self.first, *self.blocks, self.heads["a"]):
            inputs = layer(inputs)
        return inputs * self.scale[:1] + self.shift[:1]


def test_layers_in_lists_and_own_variables_have_names_of_their_own():
    model, other = Listed(), Listed()
    for each in (model, other):
        each(np.ones((2, 3), "float32"))
    names = [block.name for block in space_of(model)]
    kernels = [f"dense{number}/{leaf}" for number in ("", "#2", "#3", "#4") for leaf in ("kernel", "bias")]
    assert sorted(names) == sorted([*kernels, "variable", "variable#2"])
    assert [block.name for block in space_of(other)] == names
    assert len(names_of(model)) == len(model.weights) == 10


class Plain(tf.Module):
    """Variables of its own, in a list, and a Keras layer."""

    def __init__(self):
        super().__init__()
        self.w = tf.Variable(drawn(3, 2))
        self.rest = [tf.Variable(drawn(2)), tf.Variable(1.0, trainable=False)]
        self.layer = layers.Dense(4)
        self.layer.build((None, 2))


def test_a_module_is_named_by_its_attributes_and_its_keras_layers_belong_to_it():
    module, other = Plain(), Plain()
    assert {block.name: (block.kind, block.filter_axes) for block in space_of(module)} == {
        "rest/0": ("norm", (0,)), "w": ("weight", (1,)),
        "layer/kernel": ("weight", (1,)), "layer/bias": ("bias", (0,)),
    }  # fmt: skip
    assert {space_of(module)["w"].guessed, space_of(module)["layer/kernel"].guessed} == {True, False}
    assert space_of(other).names == space_of(module).names
    assert set(names_of(module).values()) == {"rest/0", "rest/1", "w", "layer/kernel", "layer/bias"}
    assert len(weights_of(module)) == 5
    assert compute_dtype(module) == "float32+float64"


# ---------------------------------------------------------------------------------------- what is moved


def test_frozen_layers_are_moved_only_if_asked_for_and_each_once():
    model = nested()
    model.get_layer("encoder").trainable = False
    less, more = (parameter_space(model, moved_variables(model, frozen)) for frozen in (False, True))
    assert {block.name for block in more} == NAMES
    assert {block.name for block in less} == {name for name in NAMES if not name.startswith("encoder")}
    model.trainable = False
    with pytest.raises(ValueError, match="all of its layers are frozen; pass include_frozen=True"):
        moved_variables(model)


def test_statistics_of_frozen_layers_are_never_moved():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization(name="norm")])
    model.trainable = False
    names = [names_of(model)[id(v)] for v in moved_variables(model, include_frozen=True)]
    assert names == ["dense/kernel", "dense/bias", "norm/gamma", "norm/beta"]


@pytest.mark.parametrize("model", [keras.Sequential([layers.Dense(3)]), Listed(), tf.Module()])
def test_a_model_without_variables_is_refused(model):
    with pytest.raises(ValueError, match="no variables yet; call it on one batch"):
        moved_variables(model)


def test_complex_variables_are_refused():
    module = tf.Module()
    module.w = tf.Variable(tf.zeros((2, 2), tf.complex64))
    with pytest.raises(ValueError, match="real floating-point parameters were wanted"):
        moved_variables(module)


def test_a_random_plane_of_a_usual_model_says_nothing():
    model = drawn_like(nested(), np.ones((1, 4), "float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        direction = direction_of(model)
    assert direction["encoder/dense/kernel"].any()


def test_an_objective_takes_filters_and_frozen_layers():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="first"), layers.Dense(2, name="last")])
    model.get_layer("first").trainable = False
    data = np.ones((2, 4), "float32"), np.array([0, 1])
    less = gradvis.objective(model, data, "cross_entropy").space
    more = gradvis.objective(model, data, "cross_entropy", include_frozen=True, filters={"first/*": (0, 1)}).space
    assert [block.name for block in less] == ["last/kernel", "last/bias"]
    assert {block.name: block.filter_axes for block in more if block.kind == "weight"} == {
        "first/kernel": (0, 1), "last/kernel": (1,)
    }  # fmt: skip
