"""Names of a Keras model's variables: its place in the model, the same in every process; and which are moved."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from gradvis.backends.tf.layers import compute_dtype, moved_variables, names_of, parameter_space, weights_of
from tests.test_keras_layers import drawn, space_of, values_of

layers = keras.layers


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
