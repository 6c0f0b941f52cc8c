"""Filters of Keras' attention and of LoRA pairs against what the layers compute."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.test_keras_layers import (
    WIDE,
    assert_filters,
    channels,
    drawn,
    drawn_like,
    space_of,
    units_of_heads,
    values_of,
)

layers = keras.layers


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
