"""Products through every kind of Keras layer, against differences of first derivatives that TensorFlow's tapes make."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
from gradvis.notes import Note

layers = keras.layers
SAMPLES, CLASSES = 5, 3
OPERATORS = ("hessian", "ggn", "fisher")

pytestmark = pytest.mark.filterwarnings("ignore::gradvis.notes.Note")


@pytest.fixture(autouse=True)
def in_double_precision():
    found = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(found)


# ---------------------------------------------------------------------- the models


class Cell(layers.Layer):
    """Normalises in every step of the loop that Keras makes of it."""

    state_size = 3

    def build(self, shape):
        self.kernel, self.norm = self.add_weight(shape=(shape[-1], 3), name="kernel"), layers.LayerNormalization()
        self.norm.build((None, 3))

    def call(self, x, states):
        state = keras.ops.tanh(self.norm(x @ self.kernel + states[0]))
        return state, [state]


def normalised(x):
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return (x - mean) / tf.sqrt(variance + 0.1)


class Branch(layers.Layer):
    """Normalises in a branch, and in a function of its own."""

    def build(self, shape):
        self.function = tf.function(normalised)

    def call(self, x):
        return self.function(tf.cond(tf.reduce_sum(x) > -1e9, lambda: normalised(x), lambda: x) ** 2)


class Tied(keras.Model):
    """A layer used twice, one that is frozen and one that is not used."""

    def __init__(self):
        super().__init__()
        self.shared, self.frozen = layers.Dense(4, "tanh"), layers.Dense(4, "tanh", trainable=False)
        self.unused, self.last = layers.Dense(2), layers.Dense(CLASSES)
        self.unused.build((None, 2))

    def call(self, x):
        x = self.shared(self.shared(x))
        return self.last(self.frozen(x)) + x @ tf.transpose(self.shared.kernel)[:, :CLASSES]


def sequential(shape, *middle, dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *middle, layers.Flatten(), layers.Dense(CLASSES)])


def attention():
    x = given = keras.Input((3, 4))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 2)(x, x))
    x = layers.EinsumDense("abc,cd->abd", output_shape=(3, 3), bias_axes="d", activation="gelu")(x)
    x = layers.Flatten()(x)
    return keras.Model(given, layers.Dense(CLASSES)(x))


MODELS = {
    "dense, layer norm, batch norm": lambda: sequential(
        (4,), layers.Dense(5, "tanh"), layers.LayerNormalization(), layers.Dense(4, "elu"), layers.BatchNormalization()
    ),
    "conv2d, group norm, max pooling, transposed": lambda: sequential(
        (6, 6, 2), layers.Conv2D(4, 3), layers.GroupNormalization(2), layers.MaxPooling2D(2),
        layers.Conv2DTranspose(2, 2, activation="tanh"),
    ),
    "depthwise, separable, average pooling": lambda: sequential(
        (5, 5, 2), layers.DepthwiseConv2D(2, depth_multiplier=2), layers.SeparableConv2D(2, 2, activation="tanh"),
        layers.AveragePooling2D(3),
    ),
    "conv1d, conv3d": lambda: sequential(
        (3, 3, 3, 1), layers.Conv3D(2, 2), layers.Reshape((4, 4)), layers.Conv1D(3, 2, activation="tanh"),
    ),
    "embedding, lstm": lambda: sequential(
        (3,), layers.Embedding(5, 2), layers.LSTM(2, return_sequences=True), layers.Activation("tanh"), dtype="int64"
    ),
    "gru": lambda: sequential((3, 2), layers.GRU(2)),
    "normalised in a loop": lambda: sequential((3, 1), layers.RNN(Cell())),
    "normalised in a branch and a function": lambda: sequential((4,), layers.Dense(4, "tanh"), Branch()),
    "attention, layer norm, einsum dense": attention,
    "tied, frozen, unused": Tied,
}  # fmt: skip


def made(kind):
    keras.utils.set_random_seed(1)
    model, rng = MODELS[kind](), np.random.default_rng(1)
    shape = (4,) if kind.startswith("tied") else model.input_shape[1:]
    whole = kind.startswith("embedding")
    inputs = rng.integers(0, 5, (SAMPLES, *shape)) if whole else rng.normal(size=(SAMPLES, *shape))
    model(inputs)
    for variable in model.non_trainable_variables:
        if "moving" in variable.name:
            variable.assign(variable + 0.5)
    return model, inputs, rng.integers(0, CLASSES, SAMPLES)


def place(objective):
    return objective.parameters() + 0.1 * np.random.default_rng(2).normal(size=objective.space.d)


class Naive:
    """Derivatives of a model without gradvis, call by call; TensorFlow's first ones are right everywhere."""

    step = 2e-6

    def __init__(self, model, inputs, targets):
        self.model, self.inputs, self.targets = model, tf.constant(inputs), targets
        self.variables = model.trainable_variables

    def outputs(self, theta):
        pieces = np.split(theta, np.cumsum([int(np.prod(variable.shape)) for variable in self.variables])[:-1])
        for variable, piece in zip(self.variables, pieces, strict=True):
            variable.assign(piece.reshape(variable.shape))
        return self.model(self.inputs, training=False)

    def pulled(self, theta, slopes=None):
        """The gradient of the mean of outputs times slopes; of the mean cross entropy where none are given."""
        with tf.GradientTape() as tape:
            z = self.outputs(theta)
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(self.targets, z) if slopes is None else z * slopes
            value = tf.reduce_sum(each) / SAMPLES
        found = tape.gradient(value, [v.value for v in self.variables], unconnected_gradients="zero")
        return np.concatenate([tf.convert_to_tensor(part).numpy().reshape(-1) for part in found])

    def difference(self, function, theta, vector):
        there, back = (np.asarray(function(theta + sign * self.step * vector)) for sign in (1, -1))
        return (there - back) / (2 * self.step)

    def products(self, theta, vector):
        """Of each operator with a vector."""
        z = self.outputs(theta).numpy()
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        e, moved = p - np.eye(CLASSES)[self.targets], self.difference(self.outputs, theta, vector)
        curved = p * (moved - (p * moved).sum(1, keepdims=True))
        return {
            "hessian": self.difference(self.pulled, theta, vector),
            "ggn": self.pulled(theta, curved),
            "fisher": self.pulled(theta, e * (e * moved).sum(1, keepdims=True)),
        }


def close(found, wanted, tolerance=1e-8):
    """To a tolerance relative to the norm of what is wanted."""
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


@pytest.mark.parametrize("kind", MODELS)
def test_products_through_each_kind_of_layer_are_those_of_their_formulas(kind):
    model, inputs, targets = made(kind)
    objective = gradvis.objective(model, (inputs, targets), "cross_entropy", micro_batch=SAMPLES)
    theta, vectors = place(objective), np.random.default_rng(3).normal(size=(2, objective.space.d))

    found = {operator: objective.hvp(theta, vectors, operator) for operator in OPERATORS}

    naive = Naive(model, inputs, targets)
    for row, vector in enumerate(vectors):
        for operator, wanted in naive.products(theta, vector).items():
            close(found[operator][row], wanted, 1e-7)


# ---------------------------------------------------------------------- graphs


def small(**options):
    """A dense net, and how often its loss was traced."""
    keras.utils.set_random_seed(1)
    model = sequential((4,), layers.Dense(4, "tanh"))
    rng, traced = np.random.default_rng(4), []

    def loss(outputs, targets):
        traced.append(outputs.shape)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, outputs)

    data = rng.normal(size=(7, 4)), rng.integers(0, CLASSES, 7)
    return gradvis.objective(model, data, loss, **{"micro_batch": 4, **options}), traced


def test_a_graph_is_made_once_a_shape_of_batch_whatever_the_number_of_vectors_and_nothing_is_said(recwarn):
    objective, traced = small()
    theta = objective.parameters()
    objective.measure(theta), objective.gradient(theta), objective.shard(1, 2)  # these have graphs of their own
    for operator in OPERATORS:
        objective.hvp(theta, theta[None], operator)
    before = list(traced)

    for operator in OPERATORS:
        for count in (0, 2, 11):
            assert objective.hvp(theta, np.ones((count, len(theta))), operator).shape == (count, len(theta))
        objective.shard(1, 2).hvp(theta, theta[None], operator)
    assert not [each for each in recwarn if issubclass(each.category, Note)]
    gradvis.hessian_eigenpairs(objective, 2)
    gradvis.hessian_spectrum(objective, probes=2, steps=5, top=1)

    assert traced == before


# ---------------------------------------------------------------------- other losses


def linear(width):
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((4, 2), dtype="float64"), layers.Dense(width, use_bias=False)])


def test_weighted_tokens_count_by_their_weights():
    """Of squared errors of a linear map everything is known: a sample is all its tokens (math: mean of g g')."""
    rng = np.random.default_rng(7)
    inputs, targets, weights = rng.normal(size=(5, 4, 2)), rng.normal(size=(5, 4, 1)), rng.uniform(size=(5, 4))
    objective = gradvis.objective(
        linear(1), (inputs, targets, weights), lambda outputs, wanted: (outputs - wanted)[..., 0] ** 2, micro_batch=3
    )
    theta = objective.parameters()
    errors = (inputs @ theta[:, None] - targets)[..., 0]
    slopes = np.einsum("bt,btd->bd", 2 * weights * errors, inputs) * (len(inputs) / weights.sum())
    curved = 2 * np.einsum("bt,btd,bte->de", weights, inputs, inputs) / weights.sum()
    wanted = {"hessian": curved, "ggn": curved, "fisher": slopes.T @ slopes / len(inputs)}

    for operator in OPERATORS:
        close(objective.hvp(theta, np.eye(2), operator), wanted[operator], 1e-12)


# ---------------------------------------------------------------------- what cannot be


class Hidden(layers.Layer):
    """A graph that was made before."""

    def build(self, shape):
        self.graph = tf.function(normalised).get_concrete_function(tf.TensorSpec((3, 3), tf.float64))

    def call(self, x):
        return self.graph(x)


def test_products_that_would_be_wrong_are_refused():
    model = sequential((4,), layers.Dense(3, "tanh"), Hidden())
    objective = gradvis.objective(model, (np.ones((3, 4)), np.arange(3)), "cross_entropy")
    theta = objective.parameters()

    assert np.isfinite(objective.gradient(theta)).all()
    with pytest.raises(ValueError, match="leave out its @tf.function"):
        objective.hvp(theta, theta[None])
