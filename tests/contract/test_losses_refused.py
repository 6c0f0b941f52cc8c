"""What is no loss, or does not fit what the model gives, is refused in a sentence by every framework."""

import numpy as np
import pytest

import gradvis
from tests.contract.loss_kinds import KINDS
from tests.contract.test_data_refused import network
from tests.contract.test_losses import CLASSES, LOGITS, SAMPLES, SHARES, log_softmax


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "words"),
    [
        ("cross_entropy", LOGITS, CLASSES + 1, "wants classes 0 to 2, .* the targets hold 3; subtract 1 from them"),
        ("cross_entropy", LOGITS, CLASSES - 1, "the targets hold -1; -100 marks those that do not count$"),
        ("cross_entropy", LOGITS, CLASSES + 8, "the targets hold 10; -100 marks those that do not count$"),
        ("nll", log_softmax(LOGITS), 2 * CLASSES, "nll wants classes 0 to 2, .* the targets hold 4"),
        ("nll", log_softmax(LOGITS), SHARES, "nll wants classes as integers, but float64"),
        ("cross_entropy", LOGITS, CLASSES * 1.0, "wants classes as integers"),
        (
            "cross_entropy",
            LOGITS[:, :1],
            CLASSES,
            r"but float64 \(\d+, 1\) came; for one logit a sample take binary_cros",
        ),
        (
            "cross_entropy",
            LOGITS[:, 0],
            CLASSES,
            r"but float64 \(\d+,\) came; for one logit a sample take binary_cross_e",
        ),
        (
            "binary_cross_entropy",
            LOGITS,
            -np.ones((10, 3)),
            "wants targets from 0 to 1, but they go from -1 to -1; scal",
        ),
        ("mse", LOGITS, CLASSES, "mse wants outputs and targets of one shape, but .* would be broadcast .*: reshape"),
        ("mae", LOGITS, LOGITS[:, :1], "mae wants outputs and targets of one shape"),
        ("huber", LOGITS[:, :1], LOGITS[:, 0], "huber wants outputs and targets of one shape"),
    ],
)
def test_targets_that_do_not_fit_are_refused_in_one_line(kind, loss, outputs, targets, words):
    criterion = kind.criterion(loss)
    with pytest.raises(ValueError, match=words) as error:
        kind.check(criterion, outputs, targets)
    assert "\n" not in str(error.value)


def test_ignored_classes_may_be_any_number(kind):
    allowed = np.where(CLASSES == 2, 255, CLASSES)
    assert kind.check(kind.criterion(kind.ignoring(255)), LOGITS, allowed) is None
    criterion = kind.criterion(kind.ignoring(255))
    with pytest.raises(ValueError, match="the targets hold -100; 255 marks those that do not count"):
        kind.check(criterion, LOGITS, np.where(CLASSES == 2, -100, CLASSES))


def test_accuracy_of_classes_never_broadcasts(kind):
    criterion = kind.criterion(lambda outputs, targets: kind.total(outputs, 1), ["accuracy"])
    with pytest.raises(ValueError, match="accuracy wants"):
        kind.sums(criterion, LOGITS, CLASSES[:, None, None])


def test_probabilities_are_no_logits(kind):
    criterion = kind.criterion("cross_entropy")
    with pytest.raises(ValueError, match="takes logits, but the model gives probabilities; leave") as error:
        kind.check(criterion, kind.chances(LOGITS), CLASSES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", range(3))
def test_a_loss_that_adds_its_samples_up_is_refused(kind, number):
    adding = [
        lambda o, t: kind.total(o**2) / 128,
        lambda o, t: -kind.total(o**2),
        lambda o, t: kind.total(kind.total(o**2, 1)),
    ][number]
    criterion = kind.criterion(adding)
    with pytest.raises(ValueError, match="a loss that is the mean of its batch was wanted, but .* adds its samples up"):
        kind.check(criterion, LOGITS, CLASSES)


@pytest.mark.parametrize("number", range(5))
def test_a_loss_that_does_not_is_let_alone(kind, number):
    loss = [
        lambda o, t: kind.total(o**2) / len(o),
        lambda o, t: kind.total(o**2, 1),
        lambda o, t: 0 * kind.total(o),
        lambda o, t: kind.total(kind.square(o) ** 2),  # every sample against every other
        lambda o, t: kind.total(o * kind.ones(SAMPLES, 3)),  # knows its batch size
    ][number]
    assert kind.check(kind.criterion(loss), LOGITS, CLASSES) is None


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [
        (lambda o, t: 1.0, TypeError, "returns a tensor, a value a sample or one mean, but a float came; let it ret"),
        (lambda o, t: (o, t), TypeError, "a value a sample or one mean, but a tuple came"),
        (
            lambda o, t: o[:1],
            ValueError,
            r"returns one value a sample, \(10, ...\), or one mean, \(\), but shape \(1, 3\)",
        ),
    ],
)
def test_what_is_no_value_of_a_loss_is_refused(kind, loss, error, words):
    criterion = kind.criterion(loss)
    with pytest.raises(error, match=words):
        kind.sums(criterion, LOGITS, CLASSES)


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [
        (lambda kind: "cross_entropi", ValueError, "is no loss or metric by name; did you mean 'cross_entropy'"),
        (lambda kind: "accuracy", ValueError, "'accuracy' is no loss or metric by name"),
        (
            lambda kind: "zzz",
            ValueError,
            "there are cross_entropy, nll, mse, mae, smooth_l1, huber, binary_cross_entropy",
        ),
        (lambda kind: kind.kind, TypeError, "a loss is a name or a callable .*, but the class .* came; call it"),
        (lambda kind: 3, TypeError, r"a loss is a name or a callable f\(outputs, targets\), but a int came"),
        (lambda kind: kind.summed, ValueError, "gradvis draws means, but .* has reduction='sum'; give it reduction="),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(kind, loss, error, words):
    with pytest.raises(error, match=words) as raised:
        kind.criterion(loss(kind))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("loss", "options", "words"),
    [
        (
            "mse",
            {"metrics": ["accuracy", "accuracy"]},
            "every metric needs a name of its own, but loss, accuracy, accura",
        ),
        ("mse", {"metrics": [lambda o, t: o, lambda o, t: t]}, "every metric needs a name of its own"),
        ("mse", {"batch_loss": abs}, "one of loss and batch_loss was wanted, but both came"),
        (
            None,
            {"batch_loss": abs, "metrics": ["accuracy"]},
            "metrics are computed from the outputs, which batch_loss hi",
        ),
    ],
)
def test_losses_and_metrics_that_exclude_each_other_are_refused(kind, loss, options, words):
    with pytest.raises(ValueError, match=words):
        kind.criterion(loss, **options)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (
            lambda kind: kind.total(kind.ones(2)),
            ValueError,
            r"returned a mean; say over how many items with weight=f\(b",
        ),
        (lambda kind: None, TypeError, "a value a sample or one mean, but a NoneType came"),
    ],
)
def test_a_batch_loss_that_says_too_little_is_refused(name, result, error, words):
    data = [{"x": np.ones((2, 6), "float32")}]
    with pytest.raises(error, match=words):
        gradvis.objective(network(name), data, batch_loss=lambda model, batch: result(KINDS[name]))
