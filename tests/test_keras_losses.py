"""Losses and metrics as Keras has them, its sample weights and masks: exact, by NumPy, or by Keras itself."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from gradvis.backends.tf.criterion import Criterion
from gradvis.backends.tf.keras_losses import term
from gradvis.backends.tf.losses import LOSSES, METRICS
from gradvis.notes import Note
from tests.contract.test_losses import BY_NAME, CLASSES, FAR, LOGITS, ONE_HOT, SHARES, bend, log_softmax

layers = keras.layers
RNG = np.random.default_rng(7)
WEIGHTS = np.random.default_rng(8).uniform(0.1, 2, 10)
PROBABILITIES = np.exp(log_softmax(LOGITS))


def tensors(*arrays):
    return tuple(None if array is None else tf.convert_to_tensor(array) for array in arrays)


def mean(made, outputs, targets, weights=None):
    """The mean that comes of a term: of the sums over the samples."""
    s, c = made.sums(*tensors(outputs, targets, weights))
    assert s.dtype == c.dtype == tf.float64
    return float(tf.reduce_sum(s) / tf.reduce_sum(c))


def in_graph(function, *arguments):
    return tf.function(function, autograph=False)(*arguments)


def dense(last=None, outputs=3, inputs=4, **options):
    return keras.Sequential([keras.Input((inputs,)), layers.Dense(outputs, last, **options)])


# ---------------------------------------------------------------------------------------------- by name


@pytest.mark.parametrize("name", BY_NAME)
def test_sample_weights_are_what_the_mean_divides_by(name):
    outputs, targets, values = BY_NAME[name]
    whole = values.reshape(10, -1)
    found = mean(METRICS[name], outputs, targets, WEIGHTS)
    assert found == pytest.approx((WEIGHTS @ whole).sum() / WEIGHTS.sum() / whole.shape[1], rel=1e-13)


@pytest.mark.parametrize("name", ["cross_entropy", "nll", "accuracy", "error"])
def test_neither_the_value_nor_the_weight_of_a_class_of_minus_100_counts(name):
    outputs, targets, values = BY_NAME[name]
    kept = np.arange(10) % 3 > 0
    found = mean(METRICS[name], outputs, np.where(kept, targets, -100), WEIGHTS)
    assert found == pytest.approx((WEIGHTS * values)[kept].sum() / WEIGHTS[kept].sum(), rel=1e-13)


def test_classes_come_in_a_column_or_one_hot_too():
    wanted, one_hot = BY_NAME["cross_entropy"][2].mean(), np.eye(3)[CLASSES]
    for targets in (CLASSES[:, None], CLASSES.astype("uint8"), one_hot, one_hot.astype(int)):
        assert mean(LOSSES["cross_entropy"], LOGITS, targets) == pytest.approx(wanted, rel=1e-13)
        assert mean(METRICS["accuracy"], LOGITS, targets) == (LOGITS.argmax(1) == CLASSES).mean()


def test_one_output_that_a_sigmoid_made_is_a_probability():
    outputs, targets = LOGITS[:, :1], (CLASSES > 0).astype(float)

    def share(z):
        return METRICS["accuracy"].sums(tf.reshape(tf.sigmoid(z), (10, 1)), tf.constant(targets), None)[0]

    assert float(tf.reduce_mean(in_graph(share, tf.constant(outputs)))) == ((outputs[:, 0] > 0) == targets).mean()


# ---------------------------------------------------------------------------------------------- Keras' own


UNIT = RNG.uniform(0.05, 0.95, (10, 3))
SPECIAL = {
    "SparseCategoricalCrossentropy": (PROBABILITIES, CLASSES),
    "CategoricalCrossentropy": (PROBABILITIES, ONE_HOT),
    "CategoricalFocalCrossentropy": (PROBABILITIES, ONE_HOT),
    "CategoricalGeneralizedCrossEntropy": (PROBABILITIES, CLASSES),
    "KLDivergence": (PROBABILITIES, SHARES),
    "Circle": (LOGITS / np.linalg.norm(LOGITS, axis=1, keepdims=True), CLASSES),
    "CTC": (RNG.normal(size=(10, 6, 4)), RNG.integers(1, 4, (10, 2))),
}
WHOLE_BATCH = {"Dice", "Tversky"}
OBJECTS = sorted(
    name
    for name, kind in vars(keras.losses).items()
    if isinstance(kind, type) and kind is not keras.losses.Loss and name not in WHOLE_BATCH
)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_every_loss_of_keras_is_what_keras_says_of_one_batch(name, weights):
    outputs, targets = SPECIAL.get(name, (UNIT, ONE_HOT))
    reduction = "mean" if weights is None else "mean_with_sample_weight"
    for how in ("sum_over_batch_size", reduction):
        loss = getattr(keras.losses, name)(reduction=how, dtype="float64")
        if name == "Circle" and weights is not None:
            continue  # its own mask and weights together: Keras multiplies the mask into the divisor's weights twice
        wanted = float(loss(*tensors(targets, outputs, weights)))
        assert mean(term(loss), outputs, targets, weights) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name", sorted(WHOLE_BATCH))
def test_a_loss_of_a_whole_batch_has_no_samples_and_no_weights(name):
    made = term(loss := getattr(keras.losses, name)(dtype="float64"))
    s, c = made.sums(*tensors(UNIT, ONE_HOT, None))
    assert (s.shape.rank, float(c)) == (0, 10)
    assert float(s / c) == pytest.approx(float(loss(*tensors(ONE_HOT, UNIT))), rel=1e-12)
    with pytest.raises(ValueError, match=f"{name.lower()} gives one mean a batch, but the samples of the data have w"):
        made.sums(*tensors(UNIT, ONE_HOT, WEIGHTS))


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        (
            keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2),
            (np.log1p(np.exp(LOGITS)) - (0.8 * ONE_HOT + 0.1) * LOGITS).mean(1),
        ),
        (keras.losses.Huber(0.5), bend(LOGITS - ONE_HOT, 0.5).mean(1)),
        (keras.losses.mean_absolute_error, np.abs(LOGITS - ONE_HOT).mean(1)),
    ],
    ids=["smoothed binary", "huber", "function"],
)
def test_options_of_keras_losses_are_kept_and_the_mean_is_over_the_samples(loss, values):
    assert mean(term(loss), LOGITS, ONE_HOT) == pytest.approx(values.mean(), rel=1e-12)
    weighted = mean(term(loss), LOGITS, ONE_HOT, WEIGHTS)
    assert weighted == pytest.approx((WEIGHTS * values).mean(), rel=1e-12)  # Keras divides by the number of samples


class Mine(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred), -1) * 3


def test_a_loss_class_of_the_users_own_is_called_as_keras_calls_it():
    whole = np.eye(3, dtype=int)[CLASSES]  # integers come as floats, as from Keras
    assert mean(term(Mine()), LOGITS, whole) == pytest.approx(3 * np.abs(whole - LOGITS).mean(), rel=1e-12)


def test_names_of_keras_are_names_too_and_functions_of_keras_take_the_targets_first():
    assert mean(term("kl_divergence"), PROBABILITIES, SHARES) == pytest.approx(
        (SHARES * np.log(SHARES / PROBABILITIES)).sum(1).mean(), rel=1e-6
    )
    assert mean(term("MeanSquaredError"), LOGITS, FAR) == pytest.approx(((LOGITS - FAR) ** 2).mean(), rel=1e-12)
    column, squares = LOGITS[:, :1], (LOGITS[:, 0] - FAR[:, 0]) ** 2
    assert mean(term("mean_squared_error"), column, FAR[:, 0]) == pytest.approx(squares.mean(), rel=1e-12)
    compiled = term(lambda y_true, y_pred: (y_true - y_pred)[:, 0] ** 2, compiled=True)
    for given in (FAR[:, 0], FAR[:, :1]):  # Keras gives a function targets of the outputs' rank
        assert mean(compiled, column, given) == pytest.approx(squares.mean(), rel=1e-12)
    own = term(lambda outputs, targets: outputs[:, 0] - 2 * tf.cast(targets, tf.float64))
    assert mean(own, LOGITS, CLASSES) == pytest.approx((LOGITS[:, 0] - 2 * CLASSES).mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crossentropy", "'crossentropy' is no loss or metric by name; did you mean 'cross_entropy'"),
        ("zzz", "Keras' own names and a callable .* work too"),
    ],
)
def test_a_name_that_keras_has_not_either_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        term(name)


# ---------------------------------------------------------------------------------------------- metrics


MEANS = [
    (keras.metrics.SparseCategoricalAccuracy(), CLASSES, LOGITS.argmax(1) == CLASSES),
    (keras.metrics.CategoricalAccuracy(name="mine"), ONE_HOT, LOGITS.argmax(1) == CLASSES),
    (keras.metrics.SparseTopKCategoricalAccuracy(2), CLASSES, LOGITS.argsort(1)[:, 0] != CLASSES),
    (keras.metrics.MeanSquaredError(), FAR, ((LOGITS - FAR) ** 2).mean(1)),
    (keras.metrics.MeanMetricWrapper(lambda y, p: p[:, 0]), CLASSES, LOGITS[:, 0]),
    ("sparse_categorical_accuracy", CLASSES, LOGITS.argmax(1) == CLASSES),
]


@pytest.mark.parametrize(("metric", "targets", "values"), MEANS)
def test_a_metric_of_keras_is_the_weighted_mean_of_its_function(metric, targets, values):
    made = term(metric, metric=True)
    assert mean(made, LOGITS, targets) == pytest.approx(values.mean(), rel=1e-6)
    assert mean(made, LOGITS, targets, WEIGHTS) == pytest.approx(WEIGHTS @ values / WEIGHTS.sum(), rel=1e-6)


@pytest.mark.parametrize(
    "metric", [keras.metrics.AUC(), "auc", keras.metrics.RootMeanSquaredError(), keras.metrics.Mean()]
)
def test_a_metric_that_is_no_mean_over_samples_is_refused(metric):
    with pytest.raises(ValueError, match="a metric that is a mean over samples was wanted, but .* is none; take one"):
        term(metric, metric=True)


def test_a_compiled_metric_that_is_no_mean_is_left_out_with_a_note():
    model = dense()
    model.compile(loss="mse", metrics=["mae", keras.metrics.AUC(name="area")])
    with pytest.warns(Note, match="^the compiled metric 'area' is left out, for it is no mean over samples"):
        assert Criterion(model, None).names == ("loss", "mae")
    assert Criterion(model, None, ()).names == Criterion(model, "mse").names == ("loss",)


# ---------------------------------------------------------------------------------------------- weights and masks


def tokens(mask=None):
    outputs = tf.identity(LOGITS.reshape(5, 6)[:, :, None] * np.ones(2))
    if mask is not None:
        outputs._keras_mask = tf.constant(mask)
    return outputs, tf.zeros((5, 6, 2), tf.float64), (LOGITS.reshape(5, 6) ** 2)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 6), (5, 6, 1)])
def test_weights_are_those_of_samples_or_of_tokens(shape):
    outputs, targets, each = tokens()
    weights = RNG.uniform(size=shape)
    wide = np.broadcast_to(weights.reshape((*shape, 1)[:2]), (5, 6))
    s, c = LOSSES["mse"].sums(outputs, targets, tf.constant(weights))
    np.testing.assert_allclose(s, 2 * (wide * each).sum(1), rtol=1e-12)
    np.testing.assert_allclose(c, 2 * wide.sum(1), rtol=1e-12)
    s, c = term(keras.losses.MeanSquaredError()).sums(outputs, targets, tf.constant(weights))
    np.testing.assert_allclose(s, (wide * each).sum(1), rtol=1e-12)
    assert c.numpy().tolist() == [6] * 5


def test_what_keras_masks_does_not_count():
    mask = RNG.uniform(size=(5, 6)) > 0.4
    outputs, targets, each = tokens(mask)
    weights = RNG.uniform(size=(5, 6))
    for given in (None, weights):
        for loss, counted in (("mse", 1 if given is None else given), (keras.losses.MeanSquaredError(), 1)):
            found = mean(term(loss), outputs, targets, given)
            factor = mask * (1 if given is None else given)
            assert found == pytest.approx((factor * each).sum() / (mask * counted).sum(), rel=1e-12)


@pytest.mark.parametrize("shape", [(5, 4), (6,), (5, 6, 3), (), (5, 6, 2, 2)])
def test_weights_that_belong_to_no_values_are_refused(shape):
    outputs, targets, _ = tokens()
    with pytest.raises(ValueError, match=r"mse has \(5, 6, 2\) of them, but \(.*\) came; give one a sample"):
        LOSSES["mse"].sums(outputs, targets, tf.ones(shape))
