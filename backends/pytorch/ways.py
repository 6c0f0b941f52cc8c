"""Two ways of multiplying with the Hessian, which of them a model goes, and how many samples at once.

Forward over reverse: the derivative of the gradient along each vector, in forward mode; several vectors share the
forward and the backward pass (`torch.func.vmap`). Double backward: the gradient of the gradient's product with each
vector; they share the graph of the first gradient, and every operation that has a second derivative can go there.

Source: Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6, 1994.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any

import torch
from torch import Tensor, nn

from gradvis.backends.pytorch.compute import call
from gradvis.backends.pytorch.criterion import Criterion
from gradvis.backends.pytorch.folding import Forward
from gradvis.backends.pytorch.programs import Script
from gradvis.backends.room import TOGETHER, micro_batch
from gradvis.backends.room import samples_at_once as in_memory
from gradvis.space import ParameterSpace

FORWARD, DOUBLE = "forward over reverse", "double backward"


@dataclass(frozen=True)
class Piece:
    """A micro-batch, as functions of the parameters.

    Attributes:
        sums: From parameters, (d,), to the moments of the loss, (3, 3), see `losses.moments`.
        outputs: From parameters, (d,), to what the model gives, (b, ...).
        judged: From such outputs to the moments.
    """

    sums: Callable[[Tensor], Tensor]
    outputs: Callable[[Tensor], Tensor]
    judged: Callable[[Tensor], Tensor]


Product = Callable[[Piece, Tensor], tuple[Tensor, Tensor]]  # with theta, (d,), to (rows, d) and the moments, (3, 3)
Maker = Callable[[Tensor], Product]  # from the vectors, (r, d)


def pieces(
    model: nn.Module, space: ParameterSpace, criterion: Criterion, batches: Iterable[tuple[int, Any]]
) -> Iterator[Piece]:
    """One after the other, so that only one graph is alive.

    Args:
        model: With the buffers to measure with.
        space: How the vector is cut into its parameters.
        criterion: Whose first term is the loss.
        batches: On the device, with their numbers.
    """
    host = _Host(model)

    def at(run: Callable[[nn.Module], Tensor], flat: Tensor) -> Tensor:
        parts = flat.split([block.size for block in space])  # not by slices: the gradient of each is as long as flat
        views = {f"model.{block.name}": part.view(block.shape) for block, part in zip(space, parts, strict=True)}
        result: Tensor = torch.func.functional_call(host, views, (run,))
        return result

    def piece(index: int, batch: Any) -> Piece:
        return Piece(
            partial(at, lambda model: criterion.sums(model, index, batch)[0]),
            partial(at, lambda model: _outputs(criterion, model, index, batch)),
            lambda outputs: criterion.terms(outputs, batch)[0],
        )

    return starmap(piece, batches)


class _Host(nn.Module):
    """Lets `functional_call` run more than the model while its parameters are others."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[nn.Module], Tensor]) -> Tensor:
        return run(self.model)


def _outputs(criterion: Criterion, model: nn.Module, index: int, batch: Any) -> Any:
    """What the model gives while the criterion measures it: seeded, and under its autocast."""
    given: list[Any] = []

    def forward(inputs: Any) -> Any:
        given.append(call(model, inputs))
        return given[0]

    criterion.sums(model, index, batch, forward)
    return given[0]


def forward_over_reverse(along: Tensor) -> Product:
    """The Hessian with several vectors, (r, d): the gradient's derivative along each, in forward mode."""

    def product(piece: Piece, flat: Tensor) -> tuple[Tensor, Tensor]:
        here = flat.detach()
        shared: Any = (0, None)  # a product each, and one table of moments

        gradient = torch.func.grad(lambda at: _split(piece.sums(at)), has_aux=True)

        def one(vector: Tensor) -> tuple[Tensor, Tensor]:
            _, curved, sums = torch.func.jvp(gradient, (here,), (vector,), has_aux=True)  # type: ignore[misc]
            return curved, sums

        with _quiet(), Forward():
            each = [torch.func.vmap(one, (0,), shared)(part) for part in along.split(TOGETHER)]
        return torch.cat([curved for curved, _ in each]), each[0][1]

    return product


def _split(sums: Tensor) -> tuple[Tensor, Tensor]:
    return sums[0, 2], sums


@contextmanager
def _quiet() -> Iterator[None]:
    """Forward mode loads parts of torch that warn of torch's own TorchScript, and vmap says where it loops."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


def pushed_forward(piece: Piece, flat: Tensor, along: Tensor, outputs: Tensor) -> Tensor:
    """How the outputs move along vectors, (r, d) to (r, b, ...): forward mode."""
    del outputs
    here = flat.detach()

    def one(vector: Tensor) -> Tensor:
        moved: Tensor = torch.func.jvp(piece.outputs, (here,), (vector,))[1]
        return moved

    with _quiet(), Forward():
        return torch.cat([torch.func.vmap(one)(part) for part in along.split(TOGETHER)])


def first_way(model: nn.Module) -> str:
    """By the kinds of its layers; whether it can be gone is seen when it is.

    An embedding with `padding_idx` has no gradient there by decree, and a derivative in forward mode that is not told.
    """
    padded = any(getattr(layer, "padding_idx", None) is not None for layer in model.modules())
    return DOUBLE if padded or isinstance(model, Script) else FORWARD


def samples_at_once(sample_bytes: int, vectors: int, device: torch.device, room: int) -> int:
    """How many samples a product takes at once: a power of two.

    Each vector moves all activations, so that with it as many again have to be near the processor.

    Args:
        sample_bytes: Activations of one sample, summed over the layers.
        vectors: How many go along.
        device: Where.
        room: Bytes that may be taken in all.

    >>> samples_at_once(85_000, 10, torch.device("cpu"), 1 << 30)
    64
    """
    near = micro_batch(sample_bytes * (vectors + 1), on_cpu=device.type == "cpu")
    return min(near, in_memory(sample_bytes, vectors, room))
