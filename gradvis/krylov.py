"""Lanczos: what a few products with a symmetric operator tell of its spectrum.

Golub and Van Loan, Matrix Computations, 4th ed., sections 10.1 to 10.3. The operator is only asked for products, so
that it may be a Hessian of any framework. Without reorthogonalisation eigenvalues that have converged come back as
copies ("ghosts"; Paige 1971, Parlett, The Symmetric Eigenvalue Problem, chapter 13): good enough for densities, not
for eigenpairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.linalg import eigh_tridiagonal

from gradvis.arrays import Matrix, Values, Vector

Product: TypeAlias = Callable[[Matrix], Matrix]
"""Multiplies each row, (r, d) -> (r, d), by one symmetric operator."""

Reorthogonalise: TypeAlias = Literal["full", "none"]

_EARLY = 8  # roundings of the operator's norm: what couples the next step is noise below it
_CACHE = 2**18  # bytes of float64 that are worked on at once: what fits the second cache of common CPUs


@dataclass(frozen=True, eq=False)
class Krylov:
    """Tridiagonal projections of an operator, one for each probe, and their bases.

    Attributes:
        alphas: Their diagonals, (r, m), NaN after an early end.
        betas: What couples step j and j + 1, (r, m); the last one of a run is what is left over, 0 where the space is
            invariant; NaN after an early end.
        steps: How far each probe came, (r,).
        basis: The Lanczos vectors, (m, r, d), zero after an early end; None without reorthogonalisation.
    """

    alphas: Values
    betas: Values
    steps: NDArray[np.int_]
    basis: Matrix | None


def lanczos(
    product: Product,
    starts: Matrix,
    steps: int,
    *,
    reorthogonalise: Reorthogonalise = "full",
    dtype: DTypeLike = np.float64,
) -> Krylov:
    """Run Lanczos from several probes in lockstep: one call of the product a step, for those not yet at an end.

    A probe ends early where its space is invariant: what is left of the product is rounding (8 units, in the coarser
    of the dtypes of product and basis) of the operator's norm, as far as it is known.

    Args:
        product: The operator; its products may come in float32.
        starts: The probes, (r, d), of any length.
        steps: How many at most, m; never more than d are made.
        reorthogonalise: "full": every new vector against all before it, twice (Giraud et al. 2005, Numer. Math. 101,
            "twice is enough"). "none": the three-term recurrence, which keeps three vectors a probe and has ghosts.
        dtype: In which vectors are kept, float32 or float64. Inner products are float64 always.

    Raises:
        ValueError: If a start is zero or not finite, there are no steps, the mode is unknown, or a product is not
            finite.

    >>> run = lanczos(lambda rows: rows * [1.0, 2.0, 3.0], np.ones((1, 3)), 5)
    >>> run.steps.tolist(), ritz(run, 0)[0].round(12).tolist()
    ([3], [1.0, 2.0, 3.0])
    """
    lengths = np.array([np.sqrt(_dot(row, row)) for row in starts])
    if not (np.isfinite(lengths).all() and np.all(lengths > 0)):
        raise ValueError(f"starts that are finite and not zero were wanted, but their lengths are {lengths}; draw new")
    if steps < 1 or reorthogonalise not in {"full", "none"}:
        raise ValueError(
            f'at least 1 step and "full" or "none" were wanted, but {steps} and {reorthogonalise!r} came; change them'
        )
    count, d = starts.shape
    m = min(steps, d)
    vectors = _Kept(m, count, d, dtype) if reorthogonalise == "full" else _Latest(count, d, dtype)
    alphas, betas = np.full((2, count, m), np.nan)
    done, norms, alive = np.zeros(count, np.int_), np.zeros(count), list(range(count))
    for i in alive:
        vectors.append(0, i, starts[i], lengths[i])
    for step in range(m):
        products = product(vectors.at(step, alive))
        small = rounding(products.dtype, vectors.dtype)
        going = []
        for i, row in zip(alive, products, strict=True):
            left = np.array(row, np.float64)
            size = np.sqrt(left @ left)
            if not np.isfinite(size):
                raise ValueError(f"finite products were wanted, but that of step {step + 1} is not; is the loss?")
            alphas[i, step], beta = vectors.orthogonalise(step, i, left, betas[i, step - 1] if step else 0.0)
            norms[i], done[i] = max(norms[i], size), step + 1
            ends = beta <= small * norms[i]
            betas[i, step] = 0.0 if ends else beta
            if not ends and step + 1 < m:
                vectors.append(step + 1, i, left, beta)
                going.append(i)
        alive = going
        if not alive:
            break
    return Krylov(alphas, betas, done, vectors.basis)


def ritz(krylov: Krylov, probe: int) -> tuple[Values, Values, Values, Values]:
    """Eigenvalues of one probe's projection: the nodes and weights of its Gauss quadrature.

    Golub and Meurant 2010, Matrices, Moments and Quadrature, section 6.2; residuals: Parlett, section 13.2.

    Args:
        krylov: See `lanczos`.
        probe: Which one of the r.

    Returns:
        The Ritz values, ascending, (m,), m being the steps of this probe; their weights, (m,), which sum to 1; the
        residual norms of the Ritz pairs, (m,), as far as the recurrence knows; and the Ritz vectors in the basis,
        (m, m), a column each.
    """
    m = int(krylov.steps[probe])
    values, inside = eigh_tridiagonal(krylov.alphas[probe, :m], krylov.betas[probe, : m - 1], lapack_driver="stev")
    return values, inside[0] ** 2, np.abs(krylov.betas[probe, m - 1] * inside[m - 1]), inside


def ritz_vectors(krylov: Krylov, probe: int, which: Sequence[int] | NDArray[np.int_]) -> Matrix:
    """Unit Ritz vectors of one probe, (k, d), in the dtype of the basis.

    Args:
        krylov: See `lanczos`.
        probe: Which one of the r.
        which: The k places among the ascending Ritz values.

    Raises:
        ValueError: If the basis was not kept.
    """
    if krylov.basis is None:
        raise ValueError('Ritz vectors were wanted, but no basis was kept; run with reorthogonalise="full"')
    inside = ritz(krylov, probe)[3][:, list(which)]
    found = np.empty((inside.shape[1], krylov.basis.shape[2]), krylov.basis.dtype)
    combine(krylov.basis[: len(inside), probe], inside, found)
    return found


def basis_bytes(m: int, r: int, d: int, dtype: DTypeLike = np.float64) -> int:
    """Bytes of the basis that full reorthogonalisation keeps: m steps of r probes in d parameters.

    >>> basis_bytes(80, 10, 10**6, np.float32) / 1e9
    3.2
    """
    return m * r * d * np.dtype(dtype).itemsize


def rounding(*dtypes: DTypeLike) -> float:
    """What is noise, relative to the operator's norm, in the coarsest of these dtypes."""
    return _EARLY * max(float(np.finfo(dtype).eps) for dtype in dtypes)


def orthogonalise(basis: Matrix, vector: Values) -> tuple[Values, float]:
    """Take a basis out of a vector, in place: classical Gram-Schmidt, twice.

    Args:
        basis: Orthonormal rows, (m, d).
        vector: A float64 vector, (d,).

    Returns:
        Its coefficients in the basis, (m,), and the length of what is left.
    """
    first, second = np.zeros((2, len(basis)))
    for part, rows in _parts(basis):
        first += rows @ vector[part]
    for part, rows in _parts(basis):
        vector[part] -= first @ rows
        second += rows @ vector[part]
    for part, rows in _parts(basis):
        vector[part] -= second @ rows
    return first + second, float(np.sqrt(vector @ vector))


def combine(basis: Matrix, inside: Values, out: Matrix) -> None:
    """Write combinations of a basis, (m, d), with coefficients (m, k), to `out`, (k, d), which may overlap it."""
    for part, rows in _parts(basis):
        out[:, part] = inside.T @ rows


def _parts(basis: Matrix) -> Iterator[tuple[slice, Matrix]]:
    """The basis in float64, (m, p), a cache's worth of columns at a time."""
    width = max(256, _CACHE // (8 * max(1, len(basis))))
    wide = None if basis.dtype == np.float64 else np.empty((len(basis), width))  # one for all: fresh pages cost most
    for start in range(0, basis.shape[1], width):
        part = slice(start, start + width)
        rows = basis[:, part]
        if wide is not None:
            np.copyto(wide[:, : rows.shape[1]], rows)
            rows = wide[:, : rows.shape[1]]
        yield part, rows


def _dot(left: Vector, right: Vector) -> float:
    return float(np.dot(left.astype(np.float64, copy=False), right.astype(np.float64, copy=False)))


class _Kept:
    """All Lanczos vectors of all probes."""

    def __init__(self, m: int, count: int, d: int, dtype: DTypeLike) -> None:
        self.basis = np.zeros((m, count, d), dtype)
        self.dtype = self.basis.dtype

    def at(self, step: int, alive: list[int]) -> Matrix:
        now = self.basis[step]
        return now if len(alive) == len(now) else now[alive]

    def append(self, step: int, probe: int, vector: Vector, length: float) -> None:
        np.divide(vector, length, out=self.basis[step, probe], casting="same_kind")

    def orthogonalise(self, step: int, probe: int, vector: Values, beta: float) -> tuple[float, float]:
        del beta  # comes out of the inner products again
        inside, left = orthogonalise(self.basis[: step + 1, probe], vector)
        return float(inside[-1]), left


class _Latest:
    """The latest two Lanczos vectors of each probe (Paige 1972, J. Inst. Math. Appl. 10, variant A1)."""

    basis = None

    def __init__(self, count: int, d: int, dtype: DTypeLike) -> None:
        self.pair = np.zeros((2, count, d), dtype)
        self.dtype = self.pair.dtype

    def at(self, step: int, alive: list[int]) -> Matrix:
        now = self.pair[step % 2]
        return now if len(alive) == len(now) else now[alive]

    def append(self, step: int, probe: int, vector: Vector, length: float) -> None:
        np.divide(vector, length, out=self.pair[step % 2, probe], casting="same_kind")

    def orthogonalise(self, step: int, probe: int, vector: Values, beta: float) -> tuple[float, float]:
        now, before = self.pair[step % 2, probe], self.pair[(step + 1) % 2, probe]
        if step:
            vector -= beta * before
        alpha = _dot(now, vector)
        vector -= alpha * now
        return alpha, float(np.sqrt(vector @ vector))
