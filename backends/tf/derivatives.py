"""Gradients and products: the half of a KerasObjective that takes derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from gradvis.arrays import Matrix, Values, Vector
from gradvis.backends.operators import check, check_vectors
from gradvis.backends.policies import check_derivable
from gradvis.backends.room import even, fastest, samples_at_once, sizes_near
from gradvis.backends.tf.compute import Graphs
from gradvis.backends.tf.criterion import Criterion
from gradvis.backends.tf.data import Batches
from gradvis.backends.tf.guard import untouched
from gradvis.backends.tf.operators import Chosen, product
from gradvis.backends.tf.room import with_room
from gradvis.objective import Objective

T = TypeVar("T")


class Derivatives(Objective):
    """A loss on fixed data that knows its derivatives; `KerasObjective` fills in what it needs."""

    _criterion: Criterion
    _data: Batches
    _graphs: Graphs
    _device: str
    _dtype: str
    _policy: str | None
    _rest: list[Any]
    _state: Mapping[int, np.ndarray] | None = None  # a checkpoint's values by the variable's id; else the model's own
    _micro: int | None  # into how many samples the data is cut, if it is
    _room: int  # bytes that a pass may take
    _chosen: Chosen
    _counts: tuple[float, float] | None = None  # samples and units of the whole, in a shard of it

    def _tensor(self, values: Matrix) -> Any:
        return tf.constant(np.asarray(values, self._dtype))

    def _recut(self) -> None:
        raise NotImplementedError

    def _buffers(self) -> list[Any]:
        return [tf.constant(v.numpy() if self._state is None else self._state[id(v)]) for v in self._rest]

    def _even(self, micro: int) -> int:
        """Pieces of nearly one length."""
        return even(self._data.samples, micro)

    def _with_room(self, compute: Callable[[], T]) -> T:
        """What it computes; where the device runs out of memory, fewer samples go through at once from then on."""

        def halve(micro: int) -> None:
            self._micro = micro
            self._recut()

        return with_room(compute, self._device, lambda: self._micro, halve)

    def _count(self) -> tuple[float, float]:
        """How many samples there are, and over how many samples, tokens or pixels the whole mean goes."""
        with untouched(self._device):
            theta, rest = self._tensor(self.parameters()), self._buffers()
            sums: Any = tf.zeros((len(self._graphs.names), 6), tf.float64)
            for number, batch in self._data:
                sums = self._graphs.measure(sums, theta, rest, tf.constant(number), batch)
        samples, units = sums.numpy()[0, :2].tolist()
        return samples, units

    def gradient(self, theta: Vector) -> Vector:
        """See `Objective.gradient`."""
        check_derivable(self._policy)
        self.space.check(theta)

        def compute() -> Values:
            where, rest = self._tensor(theta), self._buffers()
            total, count = tf.zeros(where.shape, tf.float64), tf.zeros((), tf.float64)
            for number, batch in self._data:
                slope, units = self._graphs.gradient(where, rest, tf.constant(number), batch)
                total, count = total + tf.cast(slope, tf.float64), count + tf.cast(units, tf.float64)
            return np.asarray((total / (count if self._counts is None else self._counts[1])).numpy(), self._dtype)

        with untouched(self._device):
            return self._with_room(compute)

    def hvp(self, theta: Vector, vectors: Matrix, operator: str = "hessian") -> Matrix:
        """See `Objective.hvp`."""
        check(operator, self._criterion.sees_outputs, "loss_stderr" in self.metrics)
        check_vectors(vectors, self.space.d)
        check_derivable(self._policy)
        self.space.check(theta)

        def compute() -> Values:
            found = product(
                self._graphs.products, operator, self._tensor(theta), self._tensor(vectors), self._buffers(),
                self._data, self._counts, self._product_micro(len(vectors)),
            )  # fmt: skip
            return np.asarray(found.numpy(), self._dtype)

        with untouched(self._device):
            return self._with_room(compute)

    def _product_micro(self, vectors: int) -> int | None:
        """How many samples go with so many vectors; never more than without."""
        most = self._data.micro
        if most is None:
            return None
        rule = samples_at_once(self._graphs.facts.sample_bytes, vectors, self._room)
        return min(self._chosen.micro or rule, most)

    def tune_products(self, theta: Vector, r: int) -> Mapping[str, Any]:
        """See `Objective.tune_products`; times some sizes of micro-batches."""
        along = np.random.default_rng(0).normal(size=(r, self.space.d))
        micro = self._product_micro(r)
        if micro is None:
            return self.how
        ways = [{"product_micro_batch": each} for each in sizes_near(micro, micro)]
        best = fastest(ways, lambda way: self.again({**self.how, **way}).hvp(theta, along))
        return {**self.how, **best}
