"""Extreme eigenpairs to a tolerance, in bounded memory: block Lanczos with thick restarts.

Wu and Simon 2000, "Thick-restart Lanczos method for large symmetric eigenvalue problems", SIAM J. Matrix Anal. Appl.
22(2). When the basis is full, the wanted Ritz vectors and some of their neighbours are kept and the run goes on from
what was left over. Golub and Underwood 1977, "The block Lanczos method for computing eigenvalues": vectors that go
together share a pass through the network, and know as many copies of an eigenvalue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gradvis.arrays import Matrix, Values, Vector
from gradvis.krylov import Product, combine, orthogonalise, rounding

Which: TypeAlias = Literal["largest", "smallest", "both"]

_TOGETHER = 2  # ours: two take more products than one would, but each then costs about 0.7 of one alone
_LOOK = 20  # products from fresh vectors that look for copies


@dataclass(frozen=True, eq=False)
class Pairs:
    """Eigenpairs, values descending.

    Attributes:
        values: Rayleigh quotients of the vectors, (k,).
        vectors: Unit vectors, (k, d), a row each.
        residuals: True ones, ||A v - value v||, (k,).
        converged: Whether the residual is within the tolerance, (k,).
    """

    values: Values
    vectors: Matrix
    residuals: Values
    converged: NDArray[np.bool_]


def eigenpairs(
    product: Product,
    start: Vector,
    k: int,
    which: Which = "largest",
    *,
    tol: float = 1e-4,
    max_products: int | None = None,
    basis: int | None = None,
    dtype: DTypeLike = np.float64,
    rng: np.random.Generator | None = None,
) -> Pairs:
    """Extreme eigenpairs of a symmetric operator, each with its true residual.

    A Krylov space of two vectors knows two copies of a multiple eigenvalue. So when all pairs have converged, 20 more
    products from random vectors orthogonal to them look for copies; what they find is brought to convergence too. An
    invariant space is left in the same way.

    Args:
        product: The operator; its products may come in float32.
        start: Where to start, (d,), of any length; a random vector goes beside it.
        k: How many pairs: of each end for "both", so that 2 k come back.
        which: The end: "largest" or "smallest" in the algebraic sense, or "both".
        tol: A pair has converged if its residual is at most so much of the operator's norm, which is taken to be the
            largest absolute Ritz value seen.
        max_products: Rows that are multiplied at most, the final residuals included; 50 k + 500 unless given.
        basis: Vectors that are kept before a restart; max(2 k + 20, 40) unless given, with 2 k for k if both ends are
            wanted. With hardly more than there are pairs a run is slow and may overlook copies.
        dtype: In which they are kept, float32 or float64.
        rng: Draws the fresh vectors; seeded with 0 unless given.

    Raises:
        ValueError: If more pairs are wanted than there are dimensions, the basis or the number of products is too
            small for them, the start is zero, or a product is not finite.

    >>> found = eigenpairs(lambda rows: rows * [1.0, 5.0, 5.0, -7.0], np.ones(4), 3)
    >>> found.values.round(12).tolist(), found.converged.tolist()
    ([5.0, 5.0, 1.0], [True, True, True])
    """
    d, wanted = start.size, 2 * k if which == "both" else k
    size = min(d, max(2 * wanted + 20, 40) if basis is None else basis)
    room = (50 * k + 500 if max_products is None else max_products) - wanted
    _check(start, k, which, size, room)
    space = _Space(product, start, size, dtype, np.random.default_rng(0) if rng is None else rng)
    seen, look, scale = None, 0, 0.0
    while True:
        space.step(room)
        if space.n < wanted:
            continue
        values, inside = np.linalg.eigh(space.projected[: space.n, : space.n])
        ends, scale = _ends(space.n, wanted, which), max(scale, float(np.abs(values).max()))
        if space.n == d or space.products == room:
            break
        if space.products >= look and np.all(space.residuals(inside[:, ends]) <= tol / 4 * scale):
            if seen is not None and np.all(np.abs(values[ends] - seen) <= tol * scale):
                break
            seen = values[ends]
            space.restart(values[ends], inside[:, ends])  # others would lose the direction in which they improve
            space.refresh()
            look = space.products + _LOOK
        elif space.n + space.waiting > size:
            kept = _ends(space.n, min(size - space.waiting, wanted + max(1, (size - wanted) // 3)), which)
            space.restart(values[kept], inside[:, kept])
    return _measured(product, space, inside[:, ends], tol, scale)


def _check(start: Vector, k: int, which: Which, size: int, room: int) -> None:
    """Refuse what cannot be done.

    Raises:
        ValueError: If it cannot.
    """
    wanted = 2 * k if which == "both" else k
    if which not in {"largest", "smallest", "both"} or not 1 <= wanted <= start.size:
        raise ValueError(
            f'between 1 and d = {start.size} pairs, "largest", "smallest" or "both" (k of each end), were wanted, but '
            f"k = {k} and {which!r} came; ask for fewer"
        )
    if size < min(start.size, wanted + 2) or room < wanted:
        raise ValueError(
            f"{wanted} pairs need a basis of at least {min(start.size, wanted + 2)} and {2 * wanted} products, but "
            f"{size} and {room + wanted} came; give more"
        )


def _ends(n: int, wanted: int, which: Which) -> NDArray[np.int_]:
    """Places of the wanted ones among n ascending values."""
    places = np.arange(n)
    low = {"largest": 0, "smallest": wanted, "both": wanted // 2}[which]
    return np.concatenate([places[:low], places[n - (wanted - low) :]])


def _measured(product: Product, space: _Space, inside: Values, tol: float, scale: float) -> Pairs:
    """Ritz vectors with their true residuals, from one product of all."""
    vectors = np.empty((inside.shape[1], space.basis.shape[1]), space.basis.dtype)
    combine(space.basis[: space.n], inside, vectors)
    values, residuals = np.zeros((2, len(vectors)))
    for i, (vector, row) in enumerate(zip(vectors, product(vectors), strict=True)):
        wide = vector.astype(np.float64, copy=False)
        left = np.array(row, np.float64)
        values[i] = wide @ left
        left -= values[i] * wide
        residuals[i] = np.sqrt(left @ left)
    order = np.argsort(-values, kind="stable")
    return Pairs(values[order], vectors[order], residuals[order], residuals[order] <= tol * scale)


class _Space:
    """An orthonormal basis that grows, and the operator's projection on it.

    The next directions wait behind it, orthogonal to it and to each other. The projection is made of inner products
    with the whole basis, so that what a restart or a fresh vector couples needs no book-keeping.
    """

    def __init__(self, product: Product, start: Vector, size: int, dtype: DTypeLike, rng: np.random.Generator) -> None:
        self.product, self.rng = product, rng
        self.basis = np.zeros((size + _TOGETHER, start.size), dtype)
        self.projected = np.zeros((size, size))
        self.n = self.waiting = self.products = 0
        self.norm = 0.0  # of the operator as far as known
        first = start.astype(np.float64)
        length = float(np.sqrt(first @ first))
        if not (np.isfinite(length) and length > 0):
            raise ValueError(f"a start that is finite and not zero was wanted, but its length is {length}")
        self._wait(first, length)
        self._fill()

    def step(self, room: int) -> None:
        """Take in what waits, as far as there is room for products.

        Raises:
            ValueError: If a product is not finite.
        """
        count = min(self.waiting, room - self.products)
        products = self.product(self.basis[self.n : self.n + count])
        left = np.array(products, np.float64)
        sizes = np.sqrt(np.einsum("rd,rd->r", left, left))
        if not np.isfinite(sizes).all():
            number = self.products + 1 + int(np.argmin(np.isfinite(sizes)))
            raise ValueError(f"finite products were wanted, but number {number} is not; is the loss?")
        self.n, self.products, self.waiting = self.n + count, self.products + count, 0
        self.norm = max(self.norm, float(sizes.max()))
        noise = rounding(products.dtype, self.basis.dtype) * self.norm
        self.coupling = np.zeros((count, count))  # of what is left over, in the next directions
        for i, row in enumerate(left):
            inside, length = orthogonalise(self.basis[: self.n + self.waiting], row)
            place = self.n - count + i
            self.projected[: self.n, place] = self.projected[place, : self.n] = inside[: self.n]
            self.coupling[: self.waiting, i] = inside[self.n :]
            if length > noise:
                self.coupling[self.waiting, i] = length
                self._wait(row, length)
        self._fill()

    def residuals(self, inside: Values) -> Values:
        """Norms of the residuals of Ritz vectors, (k,), as far as the recurrence knows, from their columns, (n, k)."""
        return np.linalg.norm(self.coupling @ inside[-len(self.coupling) :], axis=0)

    def restart(self, values: Values, inside: Values) -> None:
        """Keep so many Ritz vectors of the basis, and what waits."""
        kept = len(values)
        combine(self.basis[: self.n], inside, self.basis[:kept])
        self.basis[kept : kept + self.waiting] = self.basis[self.n : self.n + self.waiting]
        self.projected[:] = 0
        self.projected[:kept, :kept] = np.diag(values)
        self.n = kept

    def refresh(self) -> None:
        """Go on from random directions in place of those that wait."""
        self.waiting = 0
        self._fill()

    def _fill(self) -> None:
        while self.waiting < min(_TOGETHER, self.basis.shape[1] - self.n):
            row = self.rng.normal(size=self.basis.shape[1])
            self._wait(row, orthogonalise(self.basis[: self.n + self.waiting], row)[1])

    def _wait(self, direction: Values, length: float) -> None:
        np.divide(direction, length, out=self.basis[self.n + self.waiting], casting="same_kind")
        self.waiting += 1
