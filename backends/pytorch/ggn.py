"""Generalised Gauss-Newton and empirical Fisher: J' M J with J the Jacobian of the outputs.

Source: Schraudolph, Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent, Neural Computation 14,
2002. The empirical Fisher is as in Kunstner, Balles and Hennig, Limitations of the Empirical Fisher Approximation for
Natural Gradient Descent, NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gradvis.backends.pytorch.products import derivative
from gradvis.backends.pytorch.ways import Maker, Piece, Product

Push = Callable[[Piece, Tensor, Tensor, Tensor], Tensor]
Middle = Callable[[Tensor, Tensor, Tensor], Tensor]


def sandwich(push: Push, middle: Middle) -> Maker:
    """The product with J' M J.

    Args:
        push: J times several vectors.
        middle: M times what comes of it.
    """

    def of(along: Tensor) -> Product:
        def product(piece: Piece, flat: Tensor) -> tuple[Tensor, Tensor]:
            outputs = piece.outputs(flat)
            moved = push(piece, flat, along, outputs)
            given = outputs.detach().requires_grad_()
            sums = piece.judged(given)
            turned = middle(sums[0, 2], given, moved)
            # One at a time: the backward pass of a layer norm is wrong for several at once, torch 2.13.
            rows = [derivative(outputs, flat, each, retain_graph=True) for each in turned]
            return torch.stack(rows), sums

        return product

    return of


def pushed_back(piece: Piece, flat: Tensor, along: Tensor, outputs: Tensor) -> Tensor:
    """J times vectors, (r, d) to (r, b, ...), as the derivative of J'u in u.

    Source: Townsend, A new trick for calculating Jacobian vector products, 2017.
    """
    del piece
    weights = torch.zeros_like(outputs).requires_grad_()
    pulled = derivative(outputs, flat, weights, create_graph=True)
    return torch.stack([derivative(pulled, weights, each, retain_graph=True) for each in along])


def output_curvature(total: Tensor, outputs: Tensor, moved: Tensor) -> Tensor:
    """The Hessian of the loss in the outputs, times (r, b, ...)."""
    first = derivative(total, outputs, create_graph=True)
    return torch.stack([derivative(first, outputs, each, retain_graph=True) for each in moved])


def output_slopes(total: Tensor, outputs: Tensor, moved: Tensor) -> Tensor:
    """Each sample's slope in its outputs, e e', times (r, b, ...): a sample's loss knows its own outputs alone."""
    slopes = derivative(total, outputs)
    along = (slopes * moved).flatten(2).sum(2) if outputs.ndim > 1 else slopes * moved  # (r, b)
    return slopes * along.view(*along.shape, *[1] * (outputs.ndim - 1))
