"""What losses of torch's own want of their targets, and that what is called a mean is one."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradvis.backends.pytorch.losses import IGNORED, LOSSES, check_mean, check_targets, term

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 3, 1, 2, 2, 0])


def fits(loss, outputs, targets, size=None):
    """What the check lets pass is what torch computes."""
    check_targets(loss, outputs, targets, size)
    values, _ = term(loss, LOSSES)[1](outputs[: len(targets)], targets)
    return bool(values.isfinite().all())


@pytest.mark.parametrize("loss", ["cross_entropy", F.cross_entropy, nn.CrossEntropyLoss()])
def test_what_torch_takes_passes(loss):
    assert fits(loss, LOGITS, CLASSES, 6)
    assert fits(loss, LOGITS, torch.tensor([0, IGNORED, 1, 2, 3, IGNORED]))
    assert fits(loss, LOGITS, LOGITS.softmax(1))
    assert fits(loss, torch.randn(6, 4, 5), torch.randint(4, (6, 5)))
    assert fits(loss, torch.randn(6, 4, 5, 2), torch.randint(4, (6, 5, 2)))
    assert fits(loss, LOGITS, torch.full((6,), IGNORED))


def test_other_losses_take_the_shape_of_the_outputs():
    for loss in ("mse", "mae", "smooth_l1", "huber", nn.MSELoss(), nn.HuberLoss(), F.l1_loss):
        assert fits(loss, LOGITS, LOGITS + 1)
    for loss in ("binary_cross_entropy", nn.BCEWithLogitsLoss()):
        assert fits(loss, torch.randn(5), torch.tensor([0, 1, 1, 0, 0]))
        assert fits(loss, LOGITS, torch.rand(6, 4))


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "match"),
    [
        (nn.CrossEntropyLoss(), LOGITS, CLASSES + 1, r"CrossEntropyLoss wants classes 0 to 3"),
        (F.nll_loss, LOGITS, CLASSES + 1, r"nll wants classes 0 to 3"),
        (
            "cross_entropy",
            LOGITS,
            CLASSES.float(),
            r"wants classes as integers, but float32 .6,. came; take targets.lo",
        ),
        ("cross_entropy", LOGITS, F.one_hot(CLASSES), r"one-hot targets become classes by targets.argmax.1."),
        ("cross_entropy", LOGITS, CLASSES[:, None], r"targets int64 .6, 1. came; targets.squeeze.1. drops"),
        (
            "cross_entropy",
            torch.randn(6, 5, 4),
            torch.zeros(6, 5).long(),
            r"the classes belong on axis 1 of the outputs",
        ),
        ("cross_entropy", LOGITS, torch.zeros(6, 5, 7).long(), r"; reshape them"),
        (nn.L1Loss(), torch.randn(6, 1), torch.randn(6), r"L1Loss wants outputs and targets of one shape"),
        (nn.BCELoss(), LOGITS.sigmoid(), LOGITS.sigmoid() * 3, r"BCELoss wants targets from 0 to 1"),
        ("mse", LOGITS, {"a": LOGITS}, r"mse wants a tensor of targets, but .a: float32 .6, 4.. came"),
        ("cross_entropy", LOGITS, CLASSES[:5], r"wants a target for each of 6 samples, but int64 .5,. came"),
        ("cross_entropy", LOGITS, CLASSES[0], r"wants a target for each of 6 samples, but int64 .. came"),
    ],
)
def test_targets_that_do_not_fit_are_refused_in_one_line(loss, outputs, targets, match):
    with pytest.raises(ValueError, match=match) as error:
        check_targets(loss, outputs, targets, 6)
    assert "\n" not in str(error.value)


def test_a_loss_of_the_users_own_judges_for_itself():
    class Mine(nn.CrossEntropyLoss):
        pass

    for loss in (lambda o, t: o.sum(1), Mine(), nn.CosineEmbeddingLoss(), functools.partial(F.cross_entropy)):
        assert check_targets(loss, LOGITS, {"anything": CLASSES}) is None


# ---------------------------------------------------------------------------------------------- means


class Summing(nn.Module):
    def forward(self, outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="sum") / 128


@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(F.cross_entropy, reduction="sum"),
        lambda o, t: F.cross_entropy(o, t, reduction="none").sum(),
        Summing(),
        lambda o, t: -F.mse_loss(o.softmax(1), F.one_hot(t, 4).float(), reduction="sum"),
    ],
)
def test_a_loss_that_adds_its_samples_up_is_refused(loss):
    with pytest.raises(ValueError, match="a loss that is the mean of its batch was wanted, but .* adds its samples up"):
        check_mean(loss, LOGITS, CLASSES)


@pytest.mark.parametrize(
    "loss",
    [
        lambda o, t: F.cross_entropy(o, t),
        lambda o, t: float(o.sum()),
    ],
)
def test_a_loss_that_does_not_is_let_alone(loss):
    assert check_mean(loss, LOGITS, CLASSES) is None


def test_nested_outputs_and_targets_are_doubled_leaf_by_leaf():
    outputs, targets = {"a": LOGITS, "scale": torch.tensor(2.0)}, (CLASSES, "name")
    assert check_mean(lambda o, t: F.cross_entropy(o["a"] * o["scale"], t[0]), outputs, targets) is None
    with pytest.raises(ValueError, match="adds its samples up"):
        check_mean(lambda o, t: F.cross_entropy(o["a"] * o["scale"], t[0], reduction="sum"), outputs, targets)


def test_ignored_classes_of_log_likelihoods_may_be_any_number():
    assert fits("nll", LOGITS.log_softmax(1), CLASSES)
    assert fits(nn.NLLLoss(ignore_index=-1), LOGITS.log_softmax(1), torch.tensor([-1, 3]))
