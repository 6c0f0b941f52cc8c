"""Curvature seen through random probes: which vectors, how many at once, and what a Krylov run tells of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradvis.arrays import Matrix, Values, Vector
from gradvis.krylov import Krylov, Product, Reorthogonalise, basis_bytes, lanczos, ritz, ritz_vectors
from gradvis.objective import Objective
from gradvis.restart import Which

METRICS = ("node", "weight", "residual")
WHICH = ("largest", "smallest", "both")
_TOGETHER = 5  # ours: most of what probes save by sharing a pass is saved by then, and a kill loses no more


@dataclass(frozen=True)
class Probes:
    """What is asked of the curvature at one point.

    Attributes:
        d: Parameters.
        count: How many probes, r.
        steps: Of each Krylov run, m.
        seed: Of the start vectors.
        full: Whether the basis is kept and made orthogonal, or three vectors of it.
        storage: The dtype of the basis.
        top: How many extreme Ritz pairs of the first probe are wanted.
        which: Of which end.
    """

    d: int
    count: int
    steps: int
    seed: int
    full: bool
    storage: str
    top: int
    which: Which

    @property
    def exact(self) -> bool:
        """Whether the probes span the space, so that nothing is left to chance."""
        return self.count == self.d

    @property
    def pairs(self) -> int:
        """How many pairs there are room for."""
        ends = 2 if self.which == "both" else 1
        return min(ends * self.top, self.steps) if self.full else 0

    def starts(self, indices: Sequence[int]) -> Matrix:
        """Start vectors of some probes, (p, d): Rademacher, or orthonormal ones if they span the space.

        Each has a seed of its own, so that it is the same whoever computes it.
        """
        if self.exact:
            gauss = np.random.default_rng(self.seed).standard_normal((self.d, self.d))
            return np.asarray(np.linalg.qr(gauss)[0].T[list(indices)])
        seeds = np.random.SeedSequence(self.seed).spawn(self.count)
        return np.stack([2.0 * np.random.default_rng(seeds[i]).integers(0, 2, self.d) - 1.0 for i in indices])

    def blocks(self, todo: Sequence[int], ranks: int, budget: int) -> list[Sequence[int]]:
        """The probes that go through the network together: as many as memory has room for, some for every rank."""
        room = budget // self.bytes(1)
        side = max(1, min(room, _TOGETHER, -(-len(todo) // ranks)))
        return [todo[start : start + side] for start in range(0, len(todo), side)]

    def bytes(self, together: int) -> int:
        """What the vectors of some probes take."""
        return basis_bytes(self.steps if self.full else 3, together, self.d, self.storage)

    def run(self, indices: Sequence[int], product: Product) -> tuple[Values, Matrix | None]:
        """The Krylov runs of some probes.

        Args:
            indices: Which.
            product: Of the curvature with several vectors, (p, d) to (p, d).

        Returns:
            Nodes, weights and residuals, (p, m, 3); NaN, 0 and NaN behind the end of a run. And the Ritz vectors of
            the extreme pairs, (k, d), if the first probe is among them.
        """
        way: Reorthogonalise = "full" if self.full else "none"
        found = lanczos(product, self.starts(indices), self.steps, reorthogonalise=way, dtype=self.storage)
        rows = np.stack([self._row(found, place) for place in range(len(indices))])
        return rows, self._extreme(found, indices.index(0)) if 0 in indices and self.pairs else None

    def _row(self, found: Krylov, place: int) -> Values:
        row = np.tile([np.nan, 0.0, np.nan], (self.steps, 1))
        values, weights, residuals, _ = ritz(found, place)
        row[: len(values)] = np.stack([values, weights, residuals], axis=1)
        return row

    def _extreme(self, found: Krylov, place: int) -> Matrix:
        columns = extreme(ritz(found, place)[0], self.top, self.which)
        vectors = np.full((self.pairs, self.d), np.nan, self.storage)
        vectors[: len(columns)] = ritz_vectors(found, place, columns)
        return vectors


def extreme(values: Values, k: int, which: Which) -> list[int]:
    """Which of ascending values are the k largest, the k smallest or both, in descending order.

    >>> extreme(np.array([-1.0, 0.0, 2.0, 3.0]), 1, "both"), extreme(np.array([1.0, 2.0, 3.0]), 2, "both")
    ([3, 0], [2, 1, 0])
    """
    n = len(values)
    top = {"largest": {*range(n - k, n)}, "smallest": {*range(k)}, "both": {*range(n - k, n), *range(k)}}[which]
    return sorted((place for place in top if 0 <= place < n), reverse=True)


def product_of(objective: Objective, theta: Vector, operator: str, told: Callable[[int], Any] | None = None) -> Product:
    """The curvature of an objective at a point as a product.

    Args:
        objective: Whose.
        theta: Where, (d,).
        operator: `hessian`, `ggn` or `fisher`.
        told: Called after each product with the number of its vectors.
    """

    def product(vectors: Matrix) -> Matrix:
        found = objective.hvp(theta, vectors.astype(theta.dtype, copy=False), operator)
        if told:
            told(len(vectors))
        return found

    return product
