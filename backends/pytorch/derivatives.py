"""Gradient, products and how they are computed: the half of a TorchObjective that takes derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradvis.arrays import Matrix, Vector
from gradvis.backends.operators import check, check_vectors, mean
from gradvis.backends.policies import check_derivable
from gradvis.backends.pytorch.compute import images_first, with_room
from gradvis.backends.pytorch.criterion import Criterion
from gradvis.backends.pytorch.data import Batches, sample_count
from gradvis.backends.pytorch.first import FirstLook
from gradvis.backends.pytorch.norms import of_each_batch
from gradvis.backends.pytorch.operators import PRODUCTS, Chosen, seen
from gradvis.backends.pytorch.products import differentiable, slope, summed
from gradvis.backends.pytorch.state import Run, State
from gradvis.backends.pytorch.ways import DOUBLE, Piece, Product, pieces, samples_at_once
from gradvis.backends.room import TOGETHER, even, fastest, sizes_near
from gradvis.objective import Objective


class Derivatives(Objective):
    """A loss on fixed data that knows its derivatives; `TorchObjective` fills in what it needs."""

    _state: State
    _criterion: Criterion
    _data: Batches
    _look: FirstLook
    _threads: int | None
    _policy: str | None
    _norms: list[Any]
    _room: int  # bytes that a pass may take
    _chosen: Chosen
    _counts: tuple[float, float] | None = None  # samples and units of the whole, in a shard of it

    def _inside(self, flat: Tensor, run: Run[Tensor]) -> Tensor:
        return self._state.inside(flat, run, self._threads)

    def _batch_statistics(self) -> AbstractContextManager[None]:
        return of_each_batch(self._norms) if self._policy == "batch" else nullcontext()

    def _with_room(self, compute: Callable[[], Tensor], size: Callable[[], int | None] | None = None) -> Tensor:
        """What it computes; where the device runs out of memory, fewer samples go through at once from then on."""

        def halve(micro: int) -> None:
            self._data = replace(self._data, micro=micro)

        return with_room(compute, self._state.device, size or (lambda: self._data.micro), halve)

    def _even(self, micro: int) -> int:
        """Pieces of nearly one length where all the data lies together."""
        kept = self._data.kept
        together = kept is not None and len(kept) == 1
        return even(sample_count(kept[0]), micro) if together else micro  # type: ignore[index]

    def _batches(self) -> Iterator[tuple[int, Any]]:
        return (numbered for chunk in self._data.chunks() for numbered in chunk)

    def _count(self) -> tuple[float, float]:
        """How many samples there are, and over how many samples, tokens or pixels the whole mean goes."""

        def run(model: nn.Module, _: Callable[[], None]) -> Tensor:
            return torch.stack([self._criterion.sums(model, *each)[0, 0, :2] for each in self._batches()]).sum(0)

        with torch.no_grad():
            samples, units = self._inside(self._state.flat(), run).tolist()
        return samples, units

    def _mean(self, theta: Vector, vectors: Matrix | None, operator: str = "hessian") -> Matrix:
        """Of products with the loss of each micro-batch, (r, d); of its gradient, (1, d), without vectors."""
        check_derivable(self._policy)
        self.space.check(theta)
        if vectors is not None and not len(vectors):
            return np.zeros(np.shape(vectors), str(self._state.dtype).removeprefix("torch."))
        along = None if vectors is None else self._state.flat(np.asarray(vectors))
        rows = 1 if along is None else len(along)

        def size() -> int | None:
            return self._data.micro if along is None else self._product_micro(rows)

        def run(model: nn.Module, reset: Callable[[], None]) -> Tensor:
            with self._batch_statistics(), differentiable(model):
                product = slope if along is None else self._product(operator, along, model, flat)
                reset()
                batches: Iterable[tuple[int, Any]] = chain.from_iterable(replace(self._data, micro=size()).chunks())
                if along is not None and self._look.images:
                    batches = ((index, images_first(batch)) for index, batch in batches)
                total, counts = summed(product, rows, flat, self._pieces(model, batches))
            return mean(operator, total, counts if self._counts is None else counts.new_tensor(self._counts))

        with torch.inference_mode(False), torch.enable_grad():
            flat = self._state.flat(theta).requires_grad_()
            found: Matrix = self._with_room(lambda: self._inside(flat, run), size).cpu().numpy()
        return found

    def _pieces(self, model: nn.Module, batches: Iterable[tuple[int, Any]]) -> Iterator[Piece]:
        return pieces(model, self.space, self._criterion, batches)

    def _product(self, operator: str, along: Tensor, model: nn.Module, flat: Tensor) -> Product:
        """By the way that was chosen, which is looked at before it is first gone."""
        if operator not in self._chosen.seen:
            cut = replace(self._data, micro=self._product_micro(1))
            batch = next((batch for chunk in cut.chunks() for _, batch in chunk), None)

            def again(index: int) -> Iterator[Piece]:
                return self._pieces(model, [] if batch is None else [(index, batch)])

            self._chosen = seen(self._chosen, operator, again, flat)
        return PRODUCTS[operator][self._chosen.way](along)

    def _product_micro(self, vectors: int) -> int | None:
        """How many samples go with so many vectors; never more than without."""
        most, chosen = self._data.micro, self._chosen
        if most is None or chosen.whole:
            return most
        rule = samples_at_once(self._look.sample_bytes, TOGETHER, self._state.device, self._room)
        base = self._even(min(chosen.micro or rule, most))
        return self._even(min(base * (TOGETHER + 1) // (min(vectors, TOGETHER) + 1), most))

    def gradient(self, theta: Vector) -> Vector:
        return self._mean(theta, None)[0]

    def hvp(self, theta: Vector, vectors: Matrix, operator: str = "hessian") -> Matrix:
        """See `Objective.hvp`."""
        check(operator, self._criterion.sees_outputs, "loss_stderr" in self.metrics)
        check_vectors(vectors, self.space.d)
        return self._mean(theta, vectors, operator)

    def tune_products(self, theta: Vector, r: int) -> Mapping[str, Any]:
        """See `Objective.tune_products`; times both ways, with some sizes of micro-batches."""
        along = np.random.default_rng(0).normal(size=(r, self.space.d))
        self.hvp(theta, along[:1])
        micro = self._product_micro(TOGETHER)
        micros = [None] if micro is None else sizes_near(micro)
        routes = {self._chosen.way, DOUBLE}
        ways = [{"product": way, "product_micro_batch": each} for way in sorted(routes) for each in micros]
        best = fastest(ways, lambda way: self.again(way).hvp(theta, along))
        return self.again(best).how
