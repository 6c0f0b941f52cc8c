"""What a compiled Keras model brings, several outputs, logits against probabilities, and what a batch_loss gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
from gradvis.backends.tf.criterion import Criterion
from tests.contract.test_losses import CLASSES, LOGITS, ONE_HOT, SHARES
from tests.test_keras_losses import WEIGHTS, dense, in_graph

layers = keras.layers
RNG = np.random.default_rng(9)


# ---------------------------------------------------------------------------------------------- the compiled model


X = RNG.normal(size=(10, 4)).astype("float32")
OF_SAMPLES = WEIGHTS.astype("float32")
COMPILED = [
    ("sparse_categorical_crossentropy", "softmax", (X, CLASSES), ["accuracy"]),
    (
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), None, (X, ONE_HOT, OF_SAMPLES),
        ["acc", "mse"],
    ),
    (lambda y, p: keras.ops.max(keras.ops.abs(y - p), -1), None, (X, ONE_HOT, OF_SAMPLES), ["mae"]),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "last", "data", "metrics"), COMPILED, ids=["name", "object", "function"])
def test_loss_and_regularisation_are_what_evaluate_says(loss, last, data, metrics):
    model = dense(last, kernel_regularizer=keras.regularizers.L2(0.1))
    model.compile(loss=loss, metrics=metrics, weighted_metrics=metrics[:1])
    said = model.evaluate(*data[:2], 4, 0, *data[2:], return_dict=True)
    objective = gradvis.objective(model, data)
    found = objective.measure(objective.parameters())
    assert found["loss"] + found["regularisation"] == pytest.approx(said.pop("loss"), rel=1e-5)
    assert found["loss_stderr"] > 0
    assert objective.about["unit"] == "sample"
    assert {name: found[name] for name in said} == pytest.approx(said, rel=1e-5)


def two_outputs(kind, **last):
    inputs = keras.Input((4,))
    heads = {"p": layers.Dense(3, name="p")(inputs), "q": layers.Dense(2, name="q", **last)(inputs)}
    return keras.Model(inputs, heads if kind is dict else list(heads.values()))


Q = RNG.normal(size=(10, 2))


@pytest.mark.parametrize("kind", [dict, list])
@pytest.mark.parametrize("weights", ["none", "one", "each"])
def test_losses_of_several_outputs_are_weighted_and_added_as_keras_does(kind, weights):
    model = two_outputs(kind)
    each = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"]
    names = ("p", "q")
    model.compile(
        loss=dict(zip(names, each, strict=True)) if kind is dict else each,
        loss_weights={"p": 2.0, "q": 0.5} if kind is dict else [2.0, 0.5],
        metrics={"q": ["mae"]} if kind is dict else [[], ["mae"]],
    )
    of_q = WEIGHTS[::-1].copy()
    targets, both = ({"p": CLASSES, "q": Q}, {"p": WEIGHTS, "q": of_q}) if kind is dict else (
        [CLASSES, Q], [WEIGHTS, of_q],
    )  # fmt: skip
    given = {"none": None, "one": WEIGHTS, "each": both}[weights]
    inputs, wanted, factors = (tf.nest.map_structure(tf.constant, each) if each is not None else None
                               for each in (X, targets, given))  # fmt: skip
    said = float(model.compute_loss(inputs, wanted, model(inputs), factors))
    criterion = Criterion(model, None)
    outputs = model(X)
    batch = inputs, wanted, factors
    criterion.check(outputs, batch)
    found = [float(tf.reduce_sum(s) / tf.reduce_sum(c)) for s, c in criterion.values(outputs, batch)]
    assert criterion.names == ("loss", "p_loss", "q_loss", "q_mae")
    assert criterion.name == "sparse_categorical_crossentropy + mse"
    assert found[0] == pytest.approx(said, rel=1e-5)
    assert found[0] == pytest.approx(2 * found[1] + 0.5 * found[2], rel=1e-12)
    raw = model(X)["q"] if kind is dict else model(X)[1]
    assert found[3] == pytest.approx(np.abs(raw - Q).mean(), rel=1e-6)
    squares = ((raw - Q) ** 2).numpy().mean(1) * {"none": 1, "one": WEIGHTS, "each": of_q}[weights]
    assert found[2] == pytest.approx(squares.mean(), rel=1e-6)


def values_of(criterion, model, targets, weights=None):
    batch = X, tf.nest.map_structure(tf.constant, targets), weights
    criterion.check(model(X), batch)
    return [float(tf.reduce_sum(s) / tf.reduce_sum(c)) for s, c in criterion.values(model(X), batch)]


def test_losses_for_outputs_are_given_by_name_in_order_or_once_for_all():
    model = two_outputs(dict)
    targets = {"p": np.zeros((10, 3)), "q": Q}
    p, q = (((model(X)[name] - targets[name]) ** 2).numpy() for name in ("p", "q"))
    for loss in ({"p": "mse", "q": "mae"}, ["mse", "mae"]):
        found = values_of(Criterion(model, loss, {"p": "mse"}), model, targets)
        assert found[1] == found[3] == pytest.approx(p.mean(), rel=1e-6)
        assert found[0] == pytest.approx(p.mean() + np.sqrt(q).mean(), rel=1e-6)
    assert values_of(Criterion(model, "mse"), model, targets)[0] == pytest.approx(p.mean() + q.mean(), rel=1e-6)
    only = Criterion(model, {"p": None, "q": "mse"})
    assert only.names == ("loss",)
    assert values_of(only, model, targets) == pytest.approx([q.mean()], rel=1e-6)
    own = Criterion(
        model, lambda outputs, targets: tf.reduce_sum(outputs["p"], 1) + tf.cast(targets["q"][:, 0], tf.float32)
    )
    assert values_of(own, model, targets)[0] == pytest.approx((model(X)["p"].numpy().sum(1) + Q[:, 0]).mean(), rel=1e-5)


def test_what_is_given_for_other_outputs_is_refused():
    model = two_outputs(list)
    with pytest.raises(ValueError, match="one for each output was wanted, p, q, but nose came"):
        Criterion(model, {"nose": "mse"})
    with pytest.raises(ValueError, match="but 3 in a list came"):
        Criterion(model, ["mse"] * 3)
    with pytest.raises(ValueError, match="each of the outputs has None"):
        Criterion(model, [None, None])
    with pytest.raises(ValueError, match=r"a part for each output was wanted, p, q, but float64 \(10, 2\) came"):
        values_of(Criterion(model, "mse"), model, Q)
    with pytest.raises(ValueError, match="a model that returns one tensor, and targets to match, were wanted for mse"):
        values_of(Criterion(dense(), "mse"), model, Q)


def test_means_over_different_weights_cannot_be_added():
    model = two_outputs(dict)
    weights = {"p": tf.constant(WEIGHTS), "q": tf.constant(WEIGHTS[::-1].copy())}
    targets = {"p": CLASSES, "q": Q}
    with pytest.raises(ValueError, match="the means of these go over different weights or masks; pass batch_loss"):
        values_of(Criterion(model, {"p": "cross_entropy", "q": "mse"}), model, targets, weights)
    same = dict.fromkeys("pq", tf.constant(WEIGHTS))
    found = values_of(Criterion(model, {"p": "cross_entropy", "q": "mse"}), model, targets, same)
    assert found[0] == pytest.approx(found[1] + found[2], rel=1e-12)


def test_a_model_that_was_not_compiled_brings_no_loss():
    with pytest.raises(ValueError, match="it was not compiled with one; pass loss='cross_entropy'"):
        Criterion(dense(), None)


# ---------------------------------------------------------------------------------------------- logits, probabilities


class Hidden(keras.Model):
    """No layer tells what comes out of it."""

    def __init__(self, function, outputs=3):
        super().__init__()
        self.last, self.function = layers.Dense(outputs), function

    def call(self, x):
        return self.function(self.last(x))


sparse, binary = keras.losses.SparseCategoricalCrossentropy, keras.losses.BinaryCrossentropy
MISMATCHES = [
    (dense("softmax"), "cross_entropy", "takes logits, but the model gives probabilities"),
    (dense("softmax"), sparse(from_logits=True), "takes logits, but the model gives probabilities"),
    (keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Softmax()]), "cross_entropy", "takes logits"),
    (Hidden(keras.ops.softmax), "cross_entropy", "takes logits"),
    (Hidden(lambda z: tf.exp(z) / tf.reduce_sum(tf.exp(z), -1, keepdims=True)), "cross_entropy", "takes logits"),
    (dense("sigmoid", 1), "binary_cross_entropy", "takes logits"),
    (dense("sigmoid", 1), binary(from_logits=True), "takes logits"),
    (Hidden(tf.sigmoid, 1), "binary_cross_entropy", "takes logits"),
    (dense(), sparse(), "takes probabilities, but the model gives logits; pass a keras.losses object with from_log"),
    (dense(), "sparse_categorical_crossentropy", "takes probabilities"),
    (dense(kernel_initializer="zeros"), sparse(), "takes probabilities"),
    (keras.Sequential([dense(kernel_initializer="zeros"), layers.Dropout(0.1)]), sparse(), "takes probabilities"),
    (Hidden(lambda z: z), sparse(), "takes probabilities"),
    (Hidden(lambda z: tf.abs(z) + 1.5, 1), binary(), "takes probabilities"),
    (dense(), keras.losses.KLDivergence(), "takes probabilities"),
]


@pytest.mark.parametrize(("model", "loss", "words"), MISMATCHES)
def test_logits_for_probabilities_and_the_reverse_are_refused(model, loss, words):
    targets = tf.constant(SHARES if isinstance(loss, keras.losses.KLDivergence) else CLASSES)
    if model(X).shape[-1] == 1:
        targets = tf.cast(targets[:, None] > 0, tf.float32)
    criterion = Criterion(model, loss)

    def both():
        outputs = in_graph(lambda x: (out := model(x), criterion.values(out, (x, targets, None)))[0], tf.constant(X))
        criterion.check(outputs, (X, targets, None))

    with pytest.raises(ValueError, match=words) as error:
        both()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (dense(), "cross_entropy"),
        (dense(), sparse(from_logits=True)),
        (dense("softmax"), sparse()),
        (dense("relu"), sparse()),  # Keras divides by the sum itself
        (keras.Sequential([dense("softmax"), layers.Activation("linear", dtype="float32")]), sparse()),
        (Hidden(keras.ops.softmax), sparse()),
        (Hidden(tf.sigmoid), "cross_entropy"),
    ],
)
def test_what_fits_passes(model, loss):
    criterion, targets = Criterion(model, loss), tf.constant(CLASSES)
    outputs = in_graph(lambda x: (out := model(x), criterion.values(out, (x, targets, None)))[0], tf.constant(X))
    assert criterion.check(outputs, (X, targets, None)) is None


# ---------------------------------------------------------------------------------------------- targets, means


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "words"),
    [
        (sparse(from_logits=True), LOGITS, CLASSES + 5, "the targets hold 7; give all classes an output"),
        (binary(from_logits=True), LOGITS, 2 + SHARES, "wants targets from 0 to 1"),
        ("mse", LOGITS, CLASSES, r"mse wants outputs and targets of one shape, but \(10, 3\) and \(10,\) came"),
        ("cross_entropy", LOGITS, CLASSES * 1.0, r"wants classes as integers \(10,\) or probabilities \(10, 3\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused_in_one_line(loss, outputs, targets, words):
    with pytest.raises(ValueError, match=words) as error:
        Criterion(None, loss).check(tf.constant(outputs), (None, tf.constant(targets), None))
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- batch_loss


@pytest.mark.parametrize(
    ("result", "weight", "wanted", "unit"),
    [
        (lambda: (tf.constant(6.0), 3), None, (6, 3), "unit"),
        (lambda: (tf.constant([6.0, 2.0]), tf.constant([3, 1])), None, ([6, 2], [3, 1]), "unit"),
        (lambda: tf.constant([6.0, 2.0]), None, ([6, 2], [1, 1]), "sample"),
        (lambda: tf.constant([[6.0, 2.0]]), None, ([8], [2]), "unit"),
        (lambda: tf.constant(2.0), lambda batch: 5 * batch, (10, 5), "unit"),
    ],
)
def test_a_batch_loss_gives_sums_values_or_a_mean_and_its_weight(result, weight, wanted, unit):
    criterion = Criterion(None, None, batch_loss=lambda model, batch: result(), weight=weight)
    ((s, c),) = criterion.measured(None, 1)
    assert (s.numpy().tolist(), c.numpy().tolist()) == wanted
    assert criterion.unit == unit
    assert not criterion.sees_outputs
    assert Criterion(None, None, batch_loss=abs, unit="token").unit == "token"
