"""Eigenpairs of the curvature to a tolerance, and the planes that they span."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradvis.arrays import Vector
from gradvis.krylov import Product
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.probing import WHICH, product_of
from gradvis.restart import Pairs, Which, eigenpairs
from gradvis.schedule import Scheduler, default_scheduler, together

_RISE = 9.0  # ours: a plane reaches to where the quadratic model has ten times the loss


def hessian_eigenpairs(
    objective: Objective,
    k: int = 5,
    which: Which = "largest",
    *,
    tol: float = 1e-4,
    operator: str = "hessian",
    start: Any = None,
    seed: int = 0,
    scheduler: Scheduler | None = None,
) -> Pairs:
    """Extreme eigenpairs of the curvature where the model stands, by thick-restart Lanczos.

    Args:
        objective: Whose; see `gradvis.hessian_spectrum`.
        k: How many; of each end if `which` is `both`.
        which: `largest`, `smallest` or `both`, algebraic.
        tol: Largest residual of a converged pair, as a share of the operator's norm.
        operator: `hessian`, `ggn` or `fisher`.
        start: What to go on from: a `Spectrum`, whose pairs are near, or a vector, (d,); random where not given.
        seed: Of what is random.
        scheduler: Whose ranks share the data.

    Returns:
        Values (descending), vectors of unit length, residuals, and which are converged.

    Raises:
        ValueError: If an argument does not fit.
        TaskError: If a product raises; on every rank.
    """
    scheduler = scheduler or default_scheduler()
    theta = objective.parameters()
    if which not in WHICH:
        raise ValueError(f"which must be one of {', '.join(WHICH)}, but {which!r} came")
    rng = np.random.default_rng(seed)
    first = _start(start, theta.size, rng)
    storage = np.dtype(theta.dtype)
    part = objective.shard(scheduler.rank, scheduler.size) if scheduler.size > 1 else objective

    def work(product: Product) -> Pairs:
        return eigenpairs(product, first, k, which, tol=tol, dtype=storage, rng=rng)

    return together(product_of(part, theta, operator), work, scheduler)


def _start(start: Any, d: int, rng: np.random.Generator) -> Vector:
    if start is None:
        return rng.standard_normal(d)
    vector: Vector = np.asarray(start.pairs.vectors.sum(axis=0) if hasattr(start, "pairs") else start)
    return vector


def hessian_plane(
    objective: Objective,
    kind: str = "top",
    k: int = 2,
    *,
    operator: str = "hessian",
    tol: float = 1e-4,
    seed: int = 0,
    scheduler: Scheduler | None = None,
) -> Plane:
    """The plane of the sharpest directions, as they are: eigenvectors of unit length, not filter-normalised.

    Args:
        objective: Whose; the plane is pinned where its model stands.
        kind: `top`: the largest eigenvalues. `ends`: the largest and the smallest. `gradient`: the gradient, and the
            largest.
        k: Dimensions, one to three for `top`; the others have two.
        operator: See `hessian_eigenpairs`.
        tol: See there.
        seed: See there.
        scheduler: See there.

    Returns:
        The plane; `about` has the eigenvalues, and the span, the same in both directions: where the quadratic model
        along the sharpest one has ten times the loss.

    Raises:
        ValueError: If the kind is none, or two directions are one.
    """
    if kind not in {"top", "ends", "gradient"}:
        raise ValueError(f"a Hessian plane is of kind top, ends or gradient, but {kind!r} came")
    if k != 2 and (kind != "top" or not 1 <= k <= 3):
        raise ValueError(f"a Hessian plane has two dimensions, or one to three of kind top, but k={k} came for {kind}")
    theta = objective.parameters()
    which: Which = "both" if kind == "ends" else "largest"
    count = k if kind == "top" else 1
    pairs = hessian_eigenpairs(objective, count, which, tol=tol, operator=operator, seed=seed, scheduler=scheduler)
    if not pairs.converged.all():
        raise ValueError(
            f"eigenvectors to a residual of {tol:g} were wanted, but {pairs.residuals.max():.3g} was reached; "
            "give a larger tol"
        )
    directions = pairs.vectors
    if kind == "gradient":
        slope = objective.gradient(theta)
        if not np.any(slope):
            raise ValueError("a gradient was wanted for the plane, but it is zero here; take kind='top'")
        directions = np.stack([slope / np.linalg.norm(slope), pairs.vectors[0]])
    loss, sharpest = objective.measure(theta)["loss"], float(np.abs(pairs.values).max())
    span = float(np.sqrt(2 * _RISE * abs(loss) / sharpest)) if sharpest > 0 and loss else 1.0
    about = {"kind": "hessian", "directions": kind, "operator": operator, "eigenvalues": pairs.values.tolist()}
    return Plane(theta, directions.astype(theta.dtype), {**about, "residuals": pairs.residuals.tolist(), "span": span})
