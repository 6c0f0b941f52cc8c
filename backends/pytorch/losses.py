"""Losses and metrics by name or callable, all reduced to sums over samples.

Every one of them becomes a `Term`: a function of outputs and targets that gives values (b, ...)
and the weights (b, ...) of their mean, or one value that is already the mean of its batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradvis.backends.given import each
from gradvis.backends.rows import describe

IGNORED = -100  # torch's own mark of a target that does not count

Term = Callable[[Any, Any], tuple[Tensor, Tensor | None]]


def _same_shape(name: str, outputs: Tensor, targets: Tensor) -> None:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"{name} wants outputs and targets of one shape, but {tuple(outputs.shape)} and {tuple(targets.shape)} "
            "came; they would be broadcast against each other: reshape the targets"
        )


def _elementwise(name: str, function: Callable[..., Tensor]) -> Term:
    def term(outputs: Tensor, targets: Tensor) -> tuple[Tensor, None]:
        _same_shape(name, outputs, targets)
        return function(outputs, targets.to(outputs.dtype), reduction="none"), None

    return term


def _cross_entropy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    weights = None if targets.is_floating_point() else (targets != IGNORED)
    return F.cross_entropy(outputs, targets, reduction="none"), weights


def _nll(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return F.nll_loss(outputs, targets, reduction="none"), targets != IGNORED


def _hits(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    """Whether the largest output is the target's, (b, ...), and which count; one logit is compared with zero.

    Raises:
        ValueError: If the targets are not of the outputs' shape without its classes.
    """
    if outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1):
        if outputs.numel() != targets.numel():
            _same_shape("accuracy", outputs, targets)
        return (outputs.reshape(-1) > 0) == (targets.reshape(-1) > 0.5), None
    if targets.is_floating_point() and targets.shape == outputs.shape:
        targets = targets.argmax(1)
    classes = outputs.argmax(1)
    _same_shape("accuracy", classes, targets)
    return classes == targets, targets != IGNORED


def _error(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    hits, counted = _hits(outputs, targets)
    return ~hits if counted is None else ~hits & counted, counted


_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)

LOSSES: Mapping[str, Term] = {
    "cross_entropy": _cross_entropy,
    "nll": _nll,
    "mse": _elementwise("mse", F.mse_loss),
    "mae": _elementwise("mae", F.l1_loss),
    "smooth_l1": _elementwise("smooth_l1", F.smooth_l1_loss),
    "huber": _elementwise("huber", F.huber_loss),
    "binary_cross_entropy": _elementwise("binary_cross_entropy", F.binary_cross_entropy_with_logits),
}
METRICS: Mapping[str, Term] = {**LOSSES, "accuracy": _hits, "error": _error}
_FUNCTIONS: Mapping[Any, str] = {
    F.cross_entropy: "cross_entropy",
    F.nll_loss: "nll",
    F.mse_loss: "mse",
    F.l1_loss: "mae",
    F.smooth_l1_loss: "smooth_l1",
    F.huber_loss: "huber",
    F.binary_cross_entropy_with_logits: "binary_cross_entropy",
}


def term(what: Any, known: Mapping[str, Term] = METRICS) -> tuple[str, Term]:
    """The name and the term of a loss or metric given by name, torch function, loss module or callable.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it cannot be called.
    """
    what = _FUNCTIONS.get(what, what) if callable(what) else what
    if isinstance(what, str):
        if what not in known:
            near = get_close_matches(what, known, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
            raise ValueError(f"{what!r} is no loss or metric by name; {hint} A callable f(outputs, targets) works too")
        return what, known[what]
    if isinstance(what, nn.Module) and hasattr(what, "reduction"):
        return type(what).__name__, _module(what)
    if not callable(what) or isinstance(what, type):
        came = f"the class {what.__name__} came; call it" if isinstance(what, type) else f"a {type(what).__name__} came"
        raise TypeError(f"a loss is a name or a callable f(outputs, targets), but {came}")
    return getattr(what, "__name__", type(what).__name__), lambda outputs, targets: (what(outputs, targets), None)


def _module(loss: nn.Module) -> Term:
    """A loss module without its reduction; class weights and `ignore_index` become weights of the mean.

    Raises:
        ValueError: If its reduction is no mean.
    """
    if loss.reduction not in {"mean", "none"}:
        raise ValueError(
            f"gradvis draws means, but {type(loss).__name__} has reduction={loss.reduction!r}; "
            "give it reduction='mean', or pass a function that returns per-sample values"
        )
    each = copy.deepcopy(loss)
    each.reduction = "none"  # type: ignore[assignment]

    def weighted(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        if isinstance(loss, _ELEMENTWISE):
            _same_shape(type(loss).__name__, outputs, targets)
            targets = targets.to(outputs.dtype)
        values = each.to(outputs)(outputs, targets)
        if not isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) or targets.is_floating_point():
            return values, None
        kept = targets != loss.ignore_index
        if loss.weight is None:
            return values, kept
        return values, loss.weight.to(outputs)[targets.where(kept, 0)] * kept

    return weighted


def moments(values: Tensor, weights: Tensor | None, size: int, dtype: torch.dtype) -> Tensor:
    """Sums over the samples of a batch of all products of (1, c, s), (3, 3): see `gradvis.objective.summarise`.

    Args:
        values: Per unit, (b, ...), or the mean of the batch, ().
        weights: Of the units, (b, ...); None for one each.
        size: How many samples the batch has.
        dtype: To add in.

    Raises:
        TypeError: If the values are no tensor.
        ValueError: If they are neither one a sample nor one in all.
    """
    if not isinstance(values, Tensor):
        came = type(values).__name__
        raise TypeError(
            f"a loss or metric returns a tensor, a value a sample or one mean, but a {came} came; let it return one"
        )
    if values.ndim == 0:
        return batch_sum(values * size, size, dtype)
    if values.shape[0] != size:
        raise ValueError(
            f"a loss or metric returns one value a sample, ({size}, ...), or one mean, (), "
            f"but shape {tuple(values.shape)} came; reduce over the other axes only"
        )
    s = values.to(dtype).reshape(size, -1).sum(1)
    units = values[0].numel()
    c = s.new_full((size,), units) if weights is None else weights.to(dtype).reshape(size, -1).sum(1)
    table = torch.stack([torch.ones_like(s), c, s])
    return table @ table.T


def batch_sum(total: Tensor, units: Tensor | float, dtype: torch.dtype) -> Tensor:
    """The same from a sum that hides its samples: no sample is counted, so no standard error comes of it."""
    sums = torch.zeros(3, 3, dtype=dtype, device=total.device)
    sums[0, 1], sums[0, 2] = units, total.to(dtype)
    return sums


_CLASSES = {"cross_entropy", "nll", "CrossEntropyLoss", "NLLLoss"}
_BINARY = {"binary_cross_entropy", "BCEWithLogitsLoss", "BCELoss"}


def check_targets(loss: Any, outputs: Tensor, targets: Any, size: int | None = None) -> None:
    """See that the targets of a batch are what a loss that torch or gradvis has a name for takes.

    Args:
        loss: As given to `term`; a callable of the user's judges for itself.
        outputs: Of the model for any samples, (b, ...): only what one sample looks like counts.
        targets: Of a batch, of any number of samples.
        size: How many samples the batch has.

    Raises:
        ValueError: If they are of another kind, shape or length, or out of range.
    """
    name = known_name(loss)
    if name is None:
        return
    if not isinstance(targets, Tensor):
        raise ValueError(f"{name} wants a tensor of targets, but {describe(targets)} came; pass f(outputs, targets)")
    if size is not None and (targets.ndim == 0 or len(targets) != size):
        raise ValueError(f"{name} wants a target for each of {size} samples, but {describe(targets)} came")
    if name in _CLASSES:
        _see_classes(name, outputs, targets, getattr(loss, "ignore_index", IGNORED))
        return
    shown = min(len(outputs), len(targets))
    _same_shape(name, outputs[:shown], targets[:shown])
    if name in _BINARY and targets.numel():
        low, high = (float(end) for end in targets.aminmax())
        if low < 0 or high > 1:
            raise ValueError(f"{name} wants targets from 0 to 1, but they go from {low:g} to {high:g}; scale them")


def known_name(loss: Any) -> str | None:
    """The name of a loss or metric that is ours or torch's own; None for the user's own, whatever it is called."""
    if isinstance(loss, nn.Module):
        known = type(loss) in {*_ELEMENTWISE, nn.CrossEntropyLoss, nn.NLLLoss}
        return type(loss).__name__ if known else None
    name = _FUNCTIONS.get(loss) if callable(loss) else loss
    return name if name in METRICS else None


def _see_classes(name: str, outputs: Tensor, targets: Tensor, ignored: int) -> None:
    """See that every target is one of the classes that the outputs tell apart, or a share of each.

    Raises:
        ValueError: If it is not.
    """
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        raise ValueError(
            f"{name} wants outputs of shape (samples, classes, ...), but {describe(outputs)} came; for one logit a "
            "sample take binary_cross_entropy"
        )
    classes, came = outputs.shape[1], tuple(targets.shape[1:])
    if targets.is_floating_point():
        if name in {"nll", "NLLLoss"} or came != tuple(outputs.shape[1:]):
            raise ValueError(f"{name} wants classes as integers, but {describe(targets)} came; take targets.long()")
        return
    if came != tuple(outputs.shape[2:]):
        raise ValueError(
            f"{name} wants a class for each sample{' and place' * (outputs.ndim > 2)} of outputs "
            f"{describe(outputs)}, but targets {describe(targets)} came; {_shape_hint(outputs, came)}"
        )
    counted = targets[targets != ignored]
    low, high = (int(end) for end in counted.aminmax()) if counted.numel() else (0, 0)
    if low < 0 or high >= classes:
        hint = "subtract 1 from them" if low == 1 and high == classes else f"{ignored} marks those that do not count"
        raise ValueError(
            f"{name} wants classes 0 to {classes - 1}, as many as the model has outputs, but the targets hold "
            f"{low if low < 0 else high}; {hint}"
        )


def _shape_hint(outputs: Tensor, came: tuple[int, ...]) -> str:
    """What to do with targets of another shape than the outputs'."""
    if came == tuple(outputs.shape[1:]):
        return "one-hot targets become classes by targets.argmax(1), and shares by targets.float()"
    if came and came == tuple(outputs.shape[1:-1]):
        return "the classes belong on axis 1 of the outputs: outputs.movedim(-1, 1)"
    return "targets.squeeze(1) drops an axis of length 1" if came[:1] == (1,) else "reshape them"


def check_mean(function: Callable[[Any, Any], Any], outputs: Any, targets: Any) -> None:
    """See that a loss of one number a batch does not add its samples up: twice the batch must not double it.

    What neither stays nor doubles (a contrast of samples within the batch, say) is left alone.

    Args:
        function: As the user gave it.
        outputs: Of the model, (b, ...).
        targets: Of the same samples.

    Raises:
        ValueError: If it does.
    """
    try:
        with torch.no_grad():
            one = function(outputs, targets)
            both = function(each(_twice, outputs), each(_twice, targets))
    except Exception:  # one that knows its batch size, say; what else is wrong shows when it is used
        return
    if not all(isinstance(value, Tensor) and value.ndim == 0 for value in (one, both)):
        return
    first, second = float(one), float(both)
    if first and abs(second - 2 * first) < 1e-3 * abs(first):
        name = getattr(function, "__name__", type(function).__name__)
        raise ValueError(
            f"a loss that is the mean of its batch was wanted, but {name} adds its samples up: the same batch twice "
            "gives twice as much; use reduction='mean', or return a value a sample"
        )


def _twice(leaf: Any) -> Any:
    return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.ndim else leaf
