"""Products through every kind of Keras layer, against dense matrices that TensorFlow's tapes make in float64."""

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


def moments(x, axes, shift=None, keepdims=False, name=None):
    """As `tf.nn.moments`, which holds the mean still in the variance: TensorFlow's second derivatives are wrong."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean((x - mean) ** 2, axes, keepdims=True)
    return (mean, variance) if keepdims else (tf.squeeze(mean, axes), tf.squeeze(variance, axes))


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
    "bidirectional gru": lambda: sequential((3, 2), layers.Bidirectional(layers.GRU(2))),
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


def unroll(model):
    """Without loops, so that the dense matrices are made quickly, and without graphs of before."""
    for layer in model._flatten_layers():
        if hasattr(layer, "unroll"):
            layer.unroll = True
        if isinstance(layer, Branch):
            layer.function = normalised


def dense(model, inputs, targets, theta):
    """Each operator, (d, d): the Hessian by a tape over a tape, the others by their formulas from the Jacobian."""
    unroll(model)
    variables = model.trainable_variables
    rest = [variable.value for variable in model.non_trainable_variables]

    def logits(at):
        pieces = tf.split(at, [int(np.prod(variable.shape)) for variable in variables])
        values = [tf.reshape(piece, variable.shape) for piece, variable in zip(pieces, variables, strict=True)]
        return model.stateless_call(values, rest, inputs)[0]

    @tf.function(autograph=False)
    def derivatives(at):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(at)
            with tf.GradientTape() as inner:
                inner.watch(at)
                outputs = logits(at)
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, outputs))
            slope = inner.gradient(loss, at)
        ways = {"unconnected_gradients": "zero", "experimental_use_pfor": False}
        return outputs, outer.jacobian(outputs, at, **ways), outer.jacobian(slope, at, **ways)

    outputs, jacobian, hessian = (each.numpy() for each in derivatives(tf.constant(theta)))
    p = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    curved = np.einsum("bi,ij->bij", p, np.eye(CLASSES)) - p[:, :, None] * p[:, None]
    slopes = np.einsum("bi,bid->bd", p - np.eye(CLASSES)[targets], jacobian)
    return {
        "hessian": hessian,
        "ggn": np.einsum("bid,bij,bje->de", jacobian, curved, jacobian) / SAMPLES,
        "fisher": slopes.T @ slopes / SAMPLES,
    }


def close(found, wanted, tolerance=1e-8):
    """To a tolerance relative to the norm of what is wanted."""
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


@pytest.mark.parametrize("kind", MODELS)
def test_products_through_each_kind_of_layer_are_those_of_the_dense_matrices(kind, monkeypatch):
    model, inputs, targets = made(kind)
    ragged = 3 if kind.startswith("dense") else SAMPLES  # each shape of a batch has a graph, which takes a second
    objective = gradvis.objective(model, (inputs, targets), "cross_entropy", micro_batch=ragged)
    theta, vectors = place(objective), np.random.default_rng(3).normal(size=(4, objective.space.d))

    found = {operator: objective.hvp(theta, vectors, operator) for operator in OPERATORS}

    assert all(objective.hvp(theta, vectors, name).tobytes() == each.tobytes() for name, each in found.items())
    monkeypatch.setattr(tf.nn, "moments", moments)
    for operator, wanted in dense(model, inputs, targets, theta).items():
        close(found[operator], vectors @ wanted)


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
    return gradvis.objective(model, data, loss, **{"micro_batch": 3, **options}), traced


def test_a_graph_is_made_once_a_shape_of_batch_whatever_the_number_of_vectors():
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
    gradvis.hessian_eigenpairs(objective, 2)
    gradvis.hessian_spectrum(objective, probes=2, steps=5, top=1)

    assert traced == before


def test_smaller_pieces_and_shards_make_the_same_products():
    objective, _ = small()
    theta, vectors = objective.parameters(), np.random.default_rng(5).normal(size=(3, objective.space.d))
    cut = objective.again({**objective.how, "product_micro_batch": 2})

    for operator in OPERATORS:
        whole = objective.hvp(theta, vectors, operator)
        close(cut.hvp(theta, vectors, operator), whole, 1e-13)
        close(sum(objective.shard(part, 2).hvp(theta, vectors, operator) for part in range(2)), whole, 1e-13)
    assert cut.how["product_micro_batch"] == 2


class Noisy(keras.Model):
    """Draws at evaluation too."""

    def __init__(self):
        super().__init__()
        self.last, self.seeds = layers.Dense(CLASSES), keras.random.SeedGenerator(3)

    def call(self, x):
        return self.last(x) * (1 + keras.random.normal((x.shape[0], CLASSES), seed=self.seeds, dtype="float64"))


def test_batches_of_a_model_that_draws_are_not_cut():
    model, rng = Noisy(), np.random.default_rng(6)
    inputs = rng.normal(size=(6, 4))
    model(inputs)
    objective = gradvis.objective(model, (inputs, rng.integers(0, CLASSES, 6)), "cross_entropy", micro_batch=3)
    theta = objective.parameters()
    step, cut = 1e-5 * rng.normal(size=len(theta)), objective.again({**objective.how, "product_micro_batch": 1})

    found = cut.hvp(theta, step[None])[0]

    close(found, (objective.gradient(theta + step) - objective.gradient(theta - step)) / 2, 1e-7)
    assert found.tobytes() == objective.hvp(theta, step[None])[0].tobytes()


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


def test_a_batch_loss_has_the_hessian_alone():
    model, rng = linear(1), np.random.default_rng(8)
    batches = [rng.normal(size=(count, 4, 2)) for count in (3, 2)]
    objective = gradvis.objective(model, batches, batch_loss=lambda model, x: tf.reduce_sum(model(x) ** 2, (1, 2)))
    theta, whole = objective.parameters(), np.concatenate(batches)

    close(objective.hvp(theta, np.eye(2)), 2 * np.einsum("btd,bte->de", whole, whole) / 5, 1e-12)
    for operator in ("ggn", "fisher"):
        with pytest.raises(ValueError, match=f"{operator}.*batch_loss hides them; give loss=f"):
            objective.hvp(theta, theta[None], operator)


def test_a_fisher_of_means_is_refused():
    objective = gradvis.objective(
        linear(1), (np.ones((3, 4, 2)), np.ones((3, 4, 1))), lambda outputs, wanted: tf.reduce_mean(outputs - wanted)
    )

    with pytest.raises(ValueError, match="needs the loss of each sample"):
        objective.hvp(objective.parameters(), np.eye(2), "fisher")


# ---------------------------------------------------------------------- what cannot be


class Hidden(layers.Layer):
    """A graph that was made before."""

    def build(self, shape):
        self.graph = tf.function(normalised).get_concrete_function(tf.TensorSpec((3, 3), tf.float64))

    def call(self, x):
        return self.graph(x)


class Incomplete(layers.Layer):
    def call(self, x):
        return tf.math.igamma(tf.exp(x), tf.exp(x))


@pytest.mark.parametrize(
    ("layer", "words"),
    [(Hidden, "leave out its @tf.function"), (Incomplete, "TensorFlow has none for IgammaGradA; write")],
    ids=["moments out of reach", "no second derivative"],
)
def test_products_that_would_be_wrong_are_refused(layer, words):
    model = sequential((4,), layers.Dense(3, "tanh"), layer())
    objective = gradvis.objective(model, (np.ones((3, 4)), np.arange(3)), "cross_entropy")
    theta = objective.parameters()

    assert np.isfinite(objective.gradient(theta)).all()
    with pytest.raises(ValueError, match=words):
        objective.hvp(theta, theta[None])


def test_products_say_nothing(recwarn):
    objective, _ = small()

    objective.hvp(objective.parameters(), objective.parameters()[None])

    assert not [each for each in recwarn if issubclass(each.category, Note)]
