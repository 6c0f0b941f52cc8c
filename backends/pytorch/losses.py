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
        came = f"the class {what.__name__}; make one of it" if isinstance(what, type) else type(what).__name__
        raise TypeError(f"a loss is a name or a callable f(outputs, targets), but {came} came")
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
        raise TypeError(f"a loss or metric returns a tensor, but {type(values).__name__} came")
    if values.ndim == 0:
        return batch_sum(values * size, size, dtype)
    if values.shape[0] != size:
        raise ValueError(
            f"a loss or metric returns one value a sample, ({size}, ...), or one mean, (), "
            f"but shape {tuple(values.shape)} came"
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
