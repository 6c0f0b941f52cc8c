"""Losses and metrics of every framework by NumPy: their values, and what counts in their means."""

import numpy as np
import pytest

from gradvis.objective import summarise
from tests.contract.loss_kinds import KINDS

RNG = np.random.default_rng(7)
SAMPLES = 10
LOGITS, FAR = RNG.normal(size=(SAMPLES, 3)), 2 * RNG.normal(size=(SAMPLES, 3))
CLASSES, SHARES = RNG.integers(0, 3, SAMPLES), RNG.dirichlet(np.ones(3), SAMPLES)
CLASSES[:3] = 0, 1, 2  # each of them


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def measured(kind, loss, outputs, targets):
    """The mean of a loss or metric over all samples, and its standard error."""
    by_name = isinstance(loss, str) and loss not in kind.losses
    criterion = kind.criterion("mse" if by_name else loss, [loss] if by_name else ())
    if by_name:
        criterion = kind.criterion(lambda outputs, targets: kind.total(outputs, -1), [loss])
    means, spreads = summarise(kind.sums(criterion, outputs, targets)[-1])
    return float(means), float(spreads)


def of_samples(values, counts=None):
    """The mean over units, and its standard error over samples, by hand: (b, ...) each."""
    counts = np.ones(values.shape) if counts is None else counts
    s, c = values.reshape(len(values), -1).sum(1), counts.reshape(len(values), -1).sum(1)
    mean = s.sum() / c.sum()
    return mean, np.sqrt(((s - mean * c) ** 2).sum() * len(s) / (len(s) - 1)) / c.sum()


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def bend(off, at=1.0):
    return np.where(np.abs(off) < at, off**2 / 2, at * (np.abs(off) - at / 2))


BY_NAME = {
    "cross_entropy": (LOGITS, CLASSES, -log_softmax(LOGITS)[range(SAMPLES), CLASSES]),
    "nll": (log_softmax(LOGITS), CLASSES, -log_softmax(LOGITS)[range(SAMPLES), CLASSES]),
    "mse": (LOGITS, FAR, (LOGITS - FAR) ** 2),
    "mae": (LOGITS, FAR, np.abs(LOGITS - FAR)),
    "smooth_l1": (LOGITS, FAR, bend(LOGITS - FAR)),
    "huber": (LOGITS, FAR, bend(LOGITS - FAR)),
    "binary_cross_entropy": (LOGITS, SHARES, np.log1p(np.exp(LOGITS)) - SHARES * LOGITS),
    "accuracy": (LOGITS, CLASSES, LOGITS.argmax(1) == CLASSES),
    "error": (LOGITS, CLASSES, LOGITS.argmax(1) != CLASSES),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_name_is_the_same_formula_everywhere(kind, name):
    outputs, targets, values = BY_NAME[name]
    assert measured(kind, name, outputs, targets) == pytest.approx(of_samples(values.astype(float)), rel=1e-12)


def test_the_names_are_these_and_no_others(kind):
    assert set(kind.metrics) == set(BY_NAME)
    assert set(kind.metrics) - set(kind.losses) == {"accuracy", "error"}


@pytest.mark.parametrize("name", ["smooth_l1", "huber", "mse"])
def test_a_loss_that_is_quadratic_near_zero_is_so_at_zero_too(kind, name):
    np.testing.assert_array_equal(kind.curvature(name), [2, 2] if name == "mse" else [1, 1])


def test_targets_may_be_shares_of_the_classes(kind):
    wanted = of_samples(-(SHARES * log_softmax(LOGITS)).sum(1))
    assert measured(kind, "cross_entropy", LOGITS, SHARES) == pytest.approx(wanted, rel=1e-12)
    assert measured(kind, "accuracy", LOGITS, SHARES)[0] == (LOGITS.argmax(1) == SHARES.argmax(1)).mean()


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_whole_numbers_are_targets_of_regressions_too(kind, dtype):
    targets = (FAR > 0).astype(dtype)
    assert measured(kind, "mse", LOGITS, targets)[0] == pytest.approx(((LOGITS - targets) ** 2).mean(), rel=1e-12)
    likely = np.log1p(np.exp(LOGITS)) - targets * LOGITS
    assert measured(kind, "binary_cross_entropy", LOGITS, targets)[0] == pytest.approx(likely.mean(), rel=1e-12)


@pytest.mark.parametrize("name", ["cross_entropy", "nll", "accuracy", "error"])
def test_a_class_of_minus_100_does_not_count(kind, name):
    outputs, _, values = BY_NAME[name]
    kept = np.arange(SAMPLES) % 3 > 0
    found = measured(kind, name, outputs, np.where(kept, CLASSES, -100))
    assert found == pytest.approx(of_samples(values * kept, kept.astype(float)), rel=1e-12)


@pytest.mark.parametrize("name", ["cross_entropy", "nll", "accuracy"])
@pytest.mark.parametrize("places", [(5,), (5, 2)], ids=["tokens", "pixels"])
def test_each_token_or_pixel_counts_unless_it_is_ignored(kind, name, places):
    logits = log_softmax(RNG.normal(size=(4, *places, 3)))
    classes = RNG.integers(0, 3, (4, *places))
    classes[2, 1:] = -100
    kept = classes != -100
    chosen = np.take_along_axis(logits, np.maximum(classes, 0)[..., None], -1)[..., 0]
    values = logits.argmax(-1) == classes if name == "accuracy" else -chosen
    assert measured(kind, name, logits, classes) == pytest.approx(of_samples(values * kept, kept * 1.0), rel=1e-12)


@pytest.mark.parametrize("shape", [(SAMPLES,), (SAMPLES, 1)])
@pytest.mark.parametrize("given", [(SAMPLES,), (SAMPLES, 1)])
def test_one_output_is_a_logit_and_never_broadcast(kind, shape, given):
    outputs, targets = LOGITS[:, :1], (CLASSES > 0).astype(float)
    found = measured(kind, "accuracy", outputs.reshape(shape), targets.reshape(given))
    assert found[0] == ((outputs[:, 0] > 0) == (targets > 0.5)).mean()
    if shape == given:
        values = np.log1p(np.exp(outputs[:, 0])) - targets * outputs[:, 0]
        found = measured(kind, "binary_cross_entropy", outputs.reshape(shape), targets.reshape(given))
        assert found == pytest.approx(of_samples(values), rel=1e-12)


ONE_HOT = np.eye(3)[CLASSES]
OBJECTS = {
    "plain": BY_NAME["cross_entropy"][2],
    "smoothed": -((0.7 * ONE_HOT + 0.1) * log_softmax(LOGITS)).sum(1),
    "huber": bend(LOGITS - ONE_HOT, 0.5).mean(1),
    "function": np.abs(LOGITS - ONE_HOT).mean(1),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_losses_of_the_framework_keep_their_options_and_are_means_over_samples(kind, name):
    loss, targets = kind.objects(CLASSES)[name]
    assert measured(kind, loss, LOGITS, targets) == pytest.approx(of_samples(OBJECTS[name]), rel=1e-12)


def test_a_class_that_a_loss_of_the_framework_ignores_does_not_count(kind):
    loss, targets = kind.objects(CLASSES)["ignoring"]
    kept = CLASSES != 2
    wanted = of_samples(OBJECTS["plain"] * kept, kept * 1.0)
    assert measured(kind, loss, LOGITS, targets) == pytest.approx(wanted, rel=1e-12)


def test_a_function_of_the_users_own_gives_values_or_the_mean_of_its_batch(kind):
    squares = (LOGITS**2).sum(1)
    assert measured(kind, lambda o, t: kind.total(o**2, 1), LOGITS, CLASSES) == pytest.approx(
        of_samples(squares), rel=1e-12
    )
    mean, spread = measured(kind, lambda o, t: kind.total(o**2) / SAMPLES, LOGITS, CLASSES)
    assert mean == pytest.approx(squares.mean(), rel=1e-12)
    assert np.isnan(spread)


def test_the_sums_are_those_of_the_samples(kind):
    kept = np.arange(SAMPLES) % 3 > 0
    values = OBJECTS["plain"] * kept
    (found,) = kind.sums(kind.criterion("cross_entropy"), LOGITS, np.where(kept, CLASSES, -100))
    wanted = [SAMPLES, kept.sum(), values.sum(), values @ values, values @ kept, kept.sum()]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_metrics_come_in_the_order_they_were_asked_for_under_their_own_names(kind):
    def confidence(outputs, targets):
        return kind.total(outputs, 1)

    criterion = kind.criterion("cross_entropy", ["error", confidence, "accuracy"])
    means = summarise(kind.sums(criterion, LOGITS, CLASSES))[0]
    hits = (LOGITS.argmax(1) == CLASSES).mean()
    assert criterion.names == ("loss", "error", "confidence", "accuracy")
    np.testing.assert_allclose(means, [OBJECTS["plain"].mean(), 1 - hits, LOGITS.sum(1).mean(), hits], rtol=1e-12)
    assert kind.criterion("mse", "accuracy").names == ("loss", "accuracy")
