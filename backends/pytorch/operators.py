"""Hessian, generalised Gauss-Newton and empirical Fisher: which product each takes, seen to be right before it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from gradvis.backends.pytorch.ggn import output_curvature, output_slopes, pushed_back, sandwich
from gradvis.backends.pytorch.products import curvature
from gradvis.backends.pytorch.ways import DOUBLE, FORWARD, Maker, Piece, forward_over_reverse, pushed_forward
from gradvis.notes import note

OPERATORS: Mapping[str, Mapping[str, Maker]] = {
    "hessian": {FORWARD: forward_over_reverse, DOUBLE: curvature},
    "ggn": {way: sandwich(push, output_curvature) for way, push in ((FORWARD, pushed_forward), (DOUBLE, pushed_back))},
    "fisher": {way: sandwich(push, output_slopes) for way, push in ((FORWARD, pushed_forward), (DOUBLE, pushed_back))},
}


@dataclass(frozen=True)
class Chosen:
    """How products are computed.

    Attributes:
        way: `forward over reverse` or `double backward`.
        micro: How many samples go with `ways.TOGETHER` vectors; with fewer, more do. None: by the rule.
        seen: The operators for which the way was seen to be right.
        whole: Whether micro-batches must be those of `evaluate`: a random forward draws anew for each.
    """

    way: str
    micro: int | None = None
    seen: frozenset[str] = frozenset()
    whole: bool = False


def check(operator: str, sees_outputs: bool, per_sample: bool) -> None:
    """See that there is such an operator of the loss.

    Args:
        operator: Its name.
        sees_outputs: Whether the loss is one of outputs and targets.
        per_sample: Whether it gives a value a sample.

    Raises:
        ValueError: If there is not.
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(OPERATORS)}, but {operator!r} came")
    if operator != "hessian" and not sees_outputs:
        raise ValueError(
            f"operator={operator!r} needs the model's outputs, but batch_loss hides them; give loss=f(outputs, "
            "targets), or take operator='hessian'"
        )
    if operator == "fisher" and not per_sample:
        raise ValueError(
            "operator='fisher' needs the loss of each sample, but the loss gives the mean of its batch; let it "
            "return a value a sample"
        )


def seen(chosen: Chosen, operator: str, again: Callable[[int], Iterator[Piece]], flat: Tensor) -> Chosen:
    """The same if forward mode gives for this model what double backward gives; else the latter, and a note says so.

    Args:
        chosen: So far.
        operator: The product that will be asked for.
        again: Gives the first micro-batch anew, under any number; nothing if there is none.
        flat: Where to look, (d,).

    Raises:
        RuntimeError: What the model itself raises, by either way.
    """
    with torch.no_grad():
        values = [piece.sums(flat) for index in (0, 0, 1) for piece in again(index)]
    if not all(torch.allclose(each, values[0], rtol=0, atol=0, equal_nan=True) for each in values):
        chosen = replace(chosen, way=DOUBLE, whole=True)
    done = replace(chosen, seen=chosen.seen | {operator})
    along = torch.randn(1, len(flat), generator=torch.Generator().manual_seed(0), dtype=flat.dtype).to(flat)
    if chosen.way == DOUBLE or not values:
        return done
    wanted, found = (partial(_first, OPERATORS[operator][way](along), again, flat) for way in (DOUBLE, FORWARD))
    if reason := _difference(wanted(), found):
        note(f"products go by double backward, as forward mode {reason} for this model")
        return replace(done, way=DOUBLE)
    return done


def _first(
    product: Callable[[Piece, Tensor], tuple[Tensor, Tensor]], again: Callable[[int], Iterator[Piece]], flat: Tensor
) -> Tensor:
    return product(next(again(0)), flat)[0]


def _difference(wanted: Tensor, find: Callable[[], Tensor]) -> str | None:
    """In words, if there is one beyond rounding.

    Raises:
        OutOfMemoryError: If the device has not the memory: that is no difference.
    """
    try:
        off = (find() - wanted).norm()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever kind it is: what the model itself raises came by the other way before
        return f"raises {type(error).__name__}"
    size = wanted.norm()
    near = off <= 10 * torch.finfo(wanted.dtype).eps ** 0.5 * size
    return None if near or not size.isfinite() else "gives other numbers"


def mean(operator: str, total: Tensor, counts: Tensor) -> Tensor:
    """Of the sums of products over the data, (r, d), from how many samples and units there are, (2,).

    The empirical Fisher is the mean over samples of g g'. A sample is an item of a batch, with all its tokens or
    pixels, and its own loss is such that the mean of them is the loss: the sum over its units, in units of the mean
    number (or weight) of units.
    """
    samples, units = counts
    return total * (samples / units**2) if operator == "fisher" else total / units
