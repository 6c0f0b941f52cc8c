"""Gradients and products with the Hessian by double backward, summed over micro-batches.

Some of torch's fastest kernels have no second derivative; inside `differentiable`, slower ones take their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from gradvis.backends.pytorch.ways import Piece, Product
from gradvis.notes import note

_RECURRENT = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})
_told: WeakSet[nn.Module] = WeakSet()


def summed(product: Product, rows: int, flat: Tensor, pieces: Iterable[Piece]) -> tuple[Tensor, Tensor]:
    """Sum products over micro-batches.

    Args:
        product: Of the loss of each.
        rows: How many it gives.
        flat: The vector that the losses depend on, (d,).
        pieces: The micro-batches, one after the other.

    Returns:
        total: The sum of the products, (rows, d).
        counts: How many samples there are, and over how many units the mean of the loss goes, (2,).
    """
    total = torch.zeros(rows, len(flat), dtype=flat.dtype, device=flat.device)
    counts = torch.zeros(2, dtype=torch.float32 if flat.device.type == "mps" else torch.float64, device=flat.device)
    for piece in pieces:
        rows_of_piece, sums = product(piece, flat)
        total += rows_of_piece.detach()
        counts += sums[0, :2].detach()
    return total, counts


def slope(piece: Piece, flat: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient, (1, d)."""
    sums = piece.sums(flat)
    return derivative(sums[0, 2], flat)[None], sums


def curvature(along: Tensor) -> Product:
    """The Hessian with several vectors, (r, d), by double backward; they share the graph of the first gradient."""

    def product(piece: Piece, flat: Tensor) -> tuple[Tensor, Tensor]:
        sums = piece.sums(flat)
        first = derivative(sums[0, 2], flat, create_graph=True)
        return torch.stack([derivative(first, flat, vector, retain_graph=True) for vector in along]), sums

    return product


def derivative(value: Tensor, flat: Tensor, along: Tensor | None = None, **options: bool) -> Tensor:
    """Of a scalar, or of a vector along another; zero where the value does not depend on flat."""
    if not value.requires_grad:
        return torch.zeros_like(flat)
    return torch.autograd.grad(value, flat, along, materialize_grads=True, allow_unused=True, **options)[0]


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Inside, attention and recurrent layers can be differentiated twice; a note says so if the model has any.

    Args:
        model: The one that will run; it is said once a model.

    Raises:
        ValueError: If torch has no second derivative for an operation of the model.
        RuntimeError: What the model itself raises.
    """
    paths = _Paths()
    try:
        with sdpa_kernel(SDPBackend.MATH), paths:
            yield
    except RuntimeError as error:
        if found := re.search(r"derivative for '?([\w:]+)'? is not implemented", str(error)):
            raise ValueError(
                f"an operation with second derivatives was wanted, but torch has none for {found[1]}; "
                "write that part of the model with other operations"
            ) from error
        raise
    if paths.changed and model not in _told:
        _told.add(model)
        note(f"gradients and products go through {' and '.join(sorted(paths.changed))}")


class _Paths(TorchFunctionMode):
    """Sees which calls take another path, and sends recurrent layers and weight norm along theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_fused(func, kwargs):
            self.changed.add("plain attention, as fused kernels cannot be differentiated twice")
        elif func in _RECURRENT and args[0].is_cuda:
            self.changed.add("torch's own recurrent layers, as cuDNN's cannot be differentiated twice")
            with _without_cudnn():
                return func(*args, **kwargs)
        elif func is torch._weight_norm:
            self.changed.add("weight norm written out, as the second derivative of torch's own is wrong")
            return _weight_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Of torch's own, torch 2.13, the Hessian is not even symmetric, and not that of its gradient."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _is_fused(func: Any, kwargs: Any) -> bool:
    """Whether a call would go to a fused kernel; attention that gives out its weights never does."""
    if func is F.multi_head_attention_forward:
        return not kwargs.get("need_weights", True)
    return func is F.scaled_dot_product_attention


@contextmanager
def _without_cudnn() -> Iterator[None]:
    found = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = found
