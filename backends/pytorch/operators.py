"""Which product the Hessian, Gauss-Newton matrix and empirical Fisher each take, seen to be right before it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradvis.backends.pytorch.ggn import output_curvature, output_slopes, pushed_back, sandwich
from gradvis.backends.pytorch.products import curvature
from gradvis.backends.pytorch.ways import DOUBLE, FORWARD, Maker, Piece, forward_over_reverse, pushed_forward
from gradvis.notes import note

PRODUCTS: Mapping[str, Mapping[str, Maker]] = {
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

    def again(self, how: Mapping[str, Any]) -> Chosen:
        """As an earlier run did it, where that says so."""
        return replace(self, way=how.get("product", self.way), micro=how.get("product_micro_batch") or self.micro)


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
    wanted, found = (partial(_first, PRODUCTS[operator][way](along), again, flat) for way in (DOUBLE, FORWARD))
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
