"""What Keras models are measured by: losses and metrics by name, as Keras has them, or one's own; exact, by NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradvis
from gradvis.backends.tf.criterion import Criterion
from gradvis.backends.tf.keras_losses import term
from gradvis.backends.tf.losses import LOSSES, METRICS, moments
from gradvis.notes import Note
from gradvis.objective import summarise

layers = keras.layers
RNG = np.random.default_rng(7)
LOGITS = RNG.normal(size=(10, 3))
CLASSES = RNG.integers(0, 3, 10)
SHARES = RNG.dirichlet(np.ones(3), 10)
WEIGHTS = RNG.uniform(0.1, 2, 10)
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


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


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def bend(off):
    return np.where(np.abs(off) < 1, off**2 / 2, np.abs(off) - 0.5)


FAR = 2 * RNG.normal(size=(10, 3))
BY_NAME = {
    "cross_entropy": (LOGITS, CLASSES, -log_softmax(LOGITS)[range(10), CLASSES]),
    "nll": (log_softmax(LOGITS), CLASSES, -log_softmax(LOGITS)[range(10), CLASSES]),
    "mse": (LOGITS, FAR, (LOGITS - FAR) ** 2),
    "mae": (LOGITS, FAR, np.abs(LOGITS - FAR)),
    "smooth_l1": (LOGITS, FAR, bend(LOGITS - FAR)),
    "huber": (LOGITS, FAR, bend(LOGITS - FAR)),
    "binary_cross_entropy": (LOGITS, SHARES, np.log1p(np.exp(LOGITS)) - SHARES * LOGITS),
    "accuracy": (LOGITS, CLASSES, LOGITS.argmax(1) == CLASSES),
    "error": (LOGITS, CLASSES, LOGITS.argmax(1) != CLASSES),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_name_is_the_formula_that_pytorch_has_under_it(name):
    outputs, targets, values = BY_NAME[name]
    assert set(METRICS) == set(BY_NAME)
    assert set(METRICS) - set(LOSSES) == {"accuracy", "error"}
    found = mean(METRICS[name], outputs, targets)
    weighted = mean(METRICS[name], outputs, targets, WEIGHTS)
    whole = values.reshape(10, -1)
    np.testing.assert_allclose(found, whole.mean(), rtol=1e-13)
    np.testing.assert_allclose(weighted, (WEIGHTS @ whole).sum() / WEIGHTS.sum() / whole.shape[1], rtol=1e-13)


@pytest.mark.parametrize("name", ["smooth_l1", "huber", "mse"])
def test_a_loss_that_is_quadratic_near_zero_is_so_at_zero_too(name):
    zero = tf.zeros((2, 1), tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(zero)
        with tf.GradientTape() as inner:
            inner.watch(zero)
            total = tf.reduce_sum(LOSSES[name].sums(zero, tf.zeros((2, 1), tf.float64), None)[0])
        slope = inner.gradient(total, zero)
    np.testing.assert_array_equal(outer.gradient(slope, zero), np.full((2, 1), 2.0 if name == "mse" else 1.0))


def test_classes_come_as_numbers_columns_or_shares():
    wanted = BY_NAME["cross_entropy"][2].mean()
    one_hot = np.eye(3)[CLASSES]
    for targets in (CLASSES, CLASSES[:, None], CLASSES.astype("uint8"), one_hot, one_hot.astype(int)):
        assert mean(LOSSES["cross_entropy"], LOGITS, targets) == pytest.approx(wanted, rel=1e-13)
        assert mean(METRICS["accuracy"], LOGITS, targets) == (LOGITS.argmax(1) == CLASSES).mean()
    soft = mean(LOSSES["cross_entropy"], LOGITS, SHARES)
    assert soft == pytest.approx(-(SHARES * log_softmax(LOGITS)).sum(1).mean(), rel=1e-13)


@pytest.mark.parametrize("name", ["cross_entropy", "nll", "accuracy", "error"])
def test_a_class_of_minus_100_does_not_count(name):
    outputs, _, values = BY_NAME[name]
    some = np.where(np.arange(10) % 3, CLASSES, -100)
    kept = some != -100
    s, c = METRICS[name].sums(*tensors(outputs, some, None))
    assert c.numpy().tolist() == kept.tolist()
    assert float(tf.reduce_sum(s)) == pytest.approx(values[kept].sum(), rel=1e-13)
    both = mean(METRICS[name], outputs, some, WEIGHTS)
    assert both == pytest.approx((WEIGHTS * values)[kept].sum() / WEIGHTS[kept].sum(), rel=1e-13)


def test_classes_of_tokens_lie_along_the_last_axis_and_each_token_counts():
    logits, classes = RNG.normal(size=(4, 5, 3)), RNG.integers(0, 3, (4, 5))
    classes[2, 1:] = -100
    s, c = LOSSES["cross_entropy"].sums(*tensors(logits, classes, None))
    each = -np.take_along_axis(log_softmax(logits), np.maximum(classes, 0)[..., None], 2)[..., 0] * (classes != -100)
    np.testing.assert_allclose(s, each.sum(1), rtol=1e-13)
    assert c.numpy().tolist() == [5, 5, 1, 5]


def test_one_output_is_a_logit_unless_a_sigmoid_made_it():
    outputs, targets = RNG.normal(size=(10, 1)), (CLASSES > 0).astype(float)
    for shape in ((10,), (10, 1)):
        for given in ((10,), (10, 1)):
            found = mean(METRICS["accuracy"], outputs.reshape(shape), targets.reshape(given))
            assert found == ((outputs[:, 0] > 0) == (targets > 0.5)).mean()

    def share(z):
        return METRICS["accuracy"].sums(tf.reshape(tf.sigmoid(z), (10, 1)), tf.constant(targets), None)[0]

    assert float(tf.reduce_mean(in_graph(share, tf.constant(outputs)))) == ((outputs[:, 0] > 0) == targets).mean()


def test_moments_are_those_of_the_samples():
    s, c = RNG.normal(size=6), RNG.integers(1, 5, 6)
    np.testing.assert_allclose(
        moments(*tensors(s, c), 6), [6, c.sum(), s.sum(), s @ s, s @ c, c @ c], rtol=1e-14
    )  # fmt: skip
    hidden = moments(tf.constant(12.0), tf.constant(4.0), 4).numpy()
    assert hidden.tolist() == [0, 4, 12, 0, 0, 0]
    assert summarise(hidden)[0] == 3
    assert np.isnan(summarise(hidden)[1])


# ---------------------------------------------------------------------------------------------- Keras' own

UNIT = RNG.uniform(0.05, 0.95, (10, 3))
ONE_HOT = np.eye(3)[CLASSES]
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
            keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3),
            -((0.7 * ONE_HOT + 0.1) * log_softmax(LOGITS)).sum(1),
        ),
        (
            keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2),
            (np.log1p(np.exp(LOGITS)) - (0.8 * ONE_HOT + 0.1) * LOGITS).mean(1),
        ),
        (
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            -log_softmax(LOGITS)[range(10), CLASSES],
        ),
        (keras.losses.Huber(0.5), np.where(np.abs(LOGITS - ONE_HOT) < 0.5, (LOGITS - ONE_HOT) ** 2 / 2,
                                           0.5 * np.abs(LOGITS - ONE_HOT) - 0.125).mean(1)),
        (keras.losses.mean_absolute_error, np.abs(LOGITS - ONE_HOT).mean(1)),
    ],
    ids=["smoothed", "smoothed binary", "sparse", "huber", "function"],
)  # fmt: skip
def test_options_of_keras_losses_are_kept_and_the_mean_is_over_the_samples(loss, values):
    targets = CLASSES if "sparse" in str(getattr(loss, "name", "")) else ONE_HOT
    assert mean(term(loss), LOGITS, targets) == pytest.approx(values.mean(), rel=1e-12)
    weighted = mean(term(loss), LOGITS, targets, WEIGHTS)
    assert weighted == pytest.approx((WEIGHTS * values).mean(), rel=1e-12)  # Keras divides by the number of samples


def test_an_ignored_class_of_keras_does_not_count_in_the_mean():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)
    values = -log_softmax(LOGITS)[range(10), CLASSES]
    assert mean(term(loss), LOGITS, CLASSES) == pytest.approx(values[CLASSES != 2].mean(), rel=1e-12)


def test_the_mean_goes_over_the_weight_of_the_whole_set_not_of_each_batch():
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    pieces = [term(loss).sums(*tensors(LOGITS[at], ONE_HOT[at], WEIGHTS[at])) for at in (slice(0, 4), slice(4, 10))]
    s, c = (sum(float(tf.reduce_sum(piece[part])) for piece in pieces) for part in (0, 1))
    values = ((LOGITS - ONE_HOT) ** 2).mean(1)
    assert s / c == pytest.approx(WEIGHTS @ values / WEIGHTS.sum(), rel=1e-12)


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
    ("loss", "error", "words"),
    [
        ("crossentropy", ValueError, "'crossentropy' is no loss or metric by name; did you mean 'cross_entropy'"),
        ("accuracy", ValueError, "'accuracy' is no loss or metric by name"),
        ("zzz", ValueError, "there are cross_entropy, nll, mse"),
        (keras.losses.MeanSquaredError, TypeError, "but the class MeanSquaredError came; call it"),
        (3, TypeError, "but a int came"),
        (
            keras.losses.MeanSquaredError(reduction="sum"),
            ValueError,
            "gradvis draws means, but MeanSquaredError has red",
        ),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(loss, error, words):
    with pytest.raises(error, match=words) as raised:
        term(loss)
    assert "\n" not in str(raised.value)


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


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(ValueError, match="every metric needs a name of its own, but loss, accuracy, accuracy came"):
        Criterion(dense(), "mse", ["accuracy", "accuracy"])


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


# ---------------------------------------------------------------------------------------------- the compiled model

X = RNG.normal(size=(10, 4)).astype("float32")
COMPILED = [
    ("sparse_categorical_crossentropy", "softmax", CLASSES, ["accuracy"]),
    (keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), None, ONE_HOT, ["acc", "mse"]),
    (lambda y, p: keras.ops.max(keras.ops.abs(y - p), -1), None, ONE_HOT, ["mae"]),
]


@pytest.mark.parametrize(("loss", "last", "targets", "metrics"), COMPILED, ids=["name", "object", "function"])
def test_loss_and_regularisation_are_what_evaluate_says(loss, last, targets, metrics):
    model = dense(last, kernel_regularizer=keras.regularizers.L2(0.1))
    model.compile(loss=loss, metrics=metrics, weighted_metrics=metrics[:1])
    for weights in (None, WEIGHTS.astype("float32")):
        said = model.evaluate(X, targets, sample_weight=weights, batch_size=4, verbose=0, return_dict=True)
        data = (X, targets) if weights is None else (X, targets, weights)
        objective = gradvis.objective(model, data, batch_size=4)
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


@pytest.mark.parametrize("loss", [None, "mse"])
def test_exactly_one_loss_is_wanted(loss):
    words = "it was not compiled with one" if loss is None else "one of loss and batch_loss was wanted, but both came"
    with pytest.raises(ValueError, match=words):
        Criterion(dense(), loss, batch_loss=None if loss is None else abs)


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
        ("cross_entropy", LOGITS, CLASSES + 1, "wants classes 0 to 2, .* the targets hold 3; subtract 1 from them"),
        ("cross_entropy", LOGITS, CLASSES - 1, "the targets hold -1; -100 marks those that do not count"),
        ("cross_entropy", LOGITS, 2 * CLASSES + 1, "the targets hold 5; -100 marks those that do not count"),
        (sparse(from_logits=True), LOGITS, CLASSES + 5, "the targets hold 7; give all classes an output"),
        ("binary_cross_entropy", LOGITS, -SHARES, "wants targets from 0 to 1, but they go from -0"),
        (binary(from_logits=True), LOGITS, 2 + SHARES, "wants targets from 0 to 1"),
        ("mse", LOGITS, CLASSES, r"mse wants outputs and targets of one shape, but \(10, 3\) and \(10,\) came"),
        ("cross_entropy", LOGITS, CLASSES * 1.0, r"wants classes as integers \(10,\) or probabilities \(10, 3\)"),
        ("cross_entropy", LOGITS[:, :1], CLASSES, "for one logit a sample take binary_cross_entropy"),
        ("nll", -UNIT, SHARES, "nll wants classes as integers, but float64"),
        (lambda o, t: tf.reduce_sum(o, 0), LOGITS, CLASSES, r"returns one value a sample, \(10, ...\), or one mean, "),
        (
            lambda o, t: tf.reduce_sum(o * o),
            LOGITS,
            CLASSES,
            "a loss that is the mean of its batch was wanted, but <",
        ),
    ],
)
def test_targets_that_do_not_fit_are_refused_in_one_line(loss, outputs, targets, words):
    with pytest.raises(ValueError, match=words) as error:
        Criterion(None, loss).check(tf.constant(outputs), (None, tf.constant(targets), None))
    assert "\n" not in str(error.value)


def test_targets_of_any_batch_can_be_checked_against_the_outputs_of_another():
    criterion = Criterion(None, "cross_entropy")
    criterion.check_targets(tf.constant(LOGITS[:2]), (None, tf.constant(CLASSES), None))
    with pytest.raises(ValueError, match="the targets hold 9"):
        criterion.check_targets(tf.constant(LOGITS[:2]), (None, tf.constant([0, 0, 0, 9]), None))


def test_a_loss_that_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="returns a tensor, a value a sample or one mean, but a float came"):
        Criterion(None, lambda o, t: 1.0).values(tf.constant(LOGITS), (None, tf.constant(CLASSES), None))


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, t: tf.reduce_mean(o * o),
        lambda o, t: 0 * tf.reduce_sum(o),
        lambda o, t: tf.reduce_sum((o @ tf.transpose(o)) ** 2),
        lambda o, t: tf.reduce_sum(o * tf.ones((10, 3), tf.float64)),
    ],
)
def test_a_loss_that_does_not_add_its_samples_up_is_let_alone(loss):
    criterion = Criterion(None, loss)
    criterion.check(tf.constant(LOGITS), (None, tf.constant(CLASSES), None))
    ((s, c),) = criterion.values(tf.constant(LOGITS), (None, tf.constant(CLASSES), None))
    assert float(s / c) == pytest.approx(float(loss(tf.constant(LOGITS), None)), rel=1e-12)
    assert criterion.unit == "unit"


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


def test_a_batch_loss_that_says_too_little_is_refused():
    def loss(model, batch):
        return tf.constant(1.0)

    with pytest.raises(ValueError, match=r"batch_loss returned a mean; say over how many items with weight=f\(batch\)"):
        Criterion(None, None, batch_loss=loss).measured(None, None)
    with pytest.raises(ValueError, match="metrics are computed from the outputs, which batch_loss hides"):
        Criterion(None, None, "accuracy", batch_loss=loss)
