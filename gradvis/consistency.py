"""Whether numbers on curvature hold together: each is found again in another way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradvis.arrays import Values, Vector
from gradvis.eigenpairs import hessian_eigenpairs
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.restart import Pairs

_DENSE = 500  # parameters up to which the whole matrix is formed
_VECTORS = 64  # of it at once


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: What was compared.
        found: What the product or the pairs say.
        wanted: What it is by the other way.
        allowed: How far they may be apart.
    """

    name: str
    found: float
    wanted: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether they agree; NaN does not."""
        return bool(abs(self.found - self.wanted) <= self.allowed)

    @property
    def sharp(self) -> bool:
        """Whether what is allowed is at most a tenth of what is wanted, so that to agree means something."""
        return self.allowed <= 0.1 * abs(self.wanted) or not self.wanted


def check_curvature(
    objective: Objective, pairs: Pairs | None = None, operator: str = "hessian", seed: int = 0
) -> list[Check]:
    """Hold eigenpairs and products against the loss, against each other, and, for a small model, a dense matrix.

    Args:
        objective: Whose curvature, where its model stands.
        pairs: Its eigenpairs; the three largest are computed where not given.
        operator: What they are of. The loss itself knows the Hessian alone.
        seed: Of the vectors for which symmetry is looked at.
    """
    theta = objective.parameters()
    pairs = pairs or hessian_eigenpairs(objective, min(3, theta.size), operator=operator, seed=seed)
    scale = float(np.abs(pairs.values).max(initial=0.0))
    noise = 50 * float(np.finfo(theta.dtype).eps)
    found = [*_of_product(objective, theta, operator, seed, noise)]
    found += _of_pairs(objective, theta, pairs, operator, noise * scale)
    if operator == "hessian":
        found += _of_loss(objective, theta, pairs)
    return [*found, *(_of_dense(objective, theta, pairs, operator, noise) if theta.size <= _DENSE else [])]


def _of_product(objective: Objective, theta: Vector, operator: str, seed: int, noise: float) -> Iterator[Check]:
    u, v = np.random.default_rng(seed).standard_normal((2, theta.size)).astype(theta.dtype)
    first, second = objective.hvp(theta, np.stack([u, v]), operator), objective.hvp(theta, np.stack([u, v]), operator)
    size = float(np.linalg.norm(u) * np.linalg.norm(first[1]))
    yield Check("symmetry: u'Hv = v'Hu", _dot(u, first[1]), _dot(v, first[0]), noise * size)
    yield Check("the same product twice: largest difference", float(np.abs(first - second).max()), 0.0, 0.0)


def _of_pairs(objective: Objective, theta: Vector, pairs: Pairs, operator: str, noise: float) -> Iterator[Check]:
    products = objective.hvp(theta, pairs.vectors.astype(theta.dtype), operator)
    for number, (value, vector, product) in enumerate(zip(pairs.values, pairs.vectors, products, strict=True), 1):
        yield Check(
            f"eigenvalue {number}: v'Hv",
            _dot(vector, product),
            float(value),
            noise + float(pairs.residuals[number - 1]),
        )


def _of_loss(objective: Objective, theta: Vector, pairs: Pairs) -> Iterator[Check]:
    """Second differences of the loss along eigenvectors, by Richardson's extrapolation; their error is estimated."""
    wide = np.finfo(theta.dtype).eps
    loss, sharpest = abs(objective.measure(theta)["loss"]) or 1.0, float(np.abs(pairs.values).max())
    step = float(np.sqrt(2 * loss * np.sqrt(wide) / (sharpest or 1.0)))
    for number, (value, vector) in enumerate(zip(pairs.values, pairs.vectors, strict=True), 1):
        plane = Plane(theta, vector[None].astype(theta.dtype))
        (far, near, here) = (_second(objective, plane, step * factor) for factor in (2, 1, 0.5))
        best = (4 * here - near) / 3
        allowed = 4 * (abs(here - near) + abs(near - far)) + 64 * float(wide) * loss / (step / 2) ** 2
        yield Check(f"eigenvalue {number}: second difference of the loss", best, float(value), allowed)


def _second(objective: Objective, plane: Plane, step: float) -> float:
    left, middle, right = objective.evaluate(plane, np.array([[-step], [0.0], [step]]))[:, 0]
    return float((left - 2 * middle + right) / step**2)


def _of_dense(objective: Objective, theta: Vector, pairs: Pairs, operator: str, noise: float) -> Iterator[Check]:
    """The whole matrix, by products with all unit vectors; and, for the Hessian, the slopes of its first columns."""
    d = theta.size
    rows = [np.eye(d, dtype=theta.dtype)[start : start + _VECTORS] for start in range(0, d, _VECTORS)]
    whole = np.concatenate([objective.hvp(theta, part, operator) for part in rows]).astype(np.float64)
    norm = float(np.linalg.norm(whole, 2)) or 1.0
    values = np.linalg.eigvalsh((whole + whole.T) / 2)
    yield Check("dense matrix: asymmetry", float(np.abs(whole - whole.T).max()), 0.0, noise * norm)
    for number, value in enumerate(pairs.values, 1):
        nearest = float(values[np.argmin(np.abs(values - value))])
        yield Check(
            f"eigenvalue {number}: dense matrix",
            float(value),
            nearest,
            noise * norm + float(pairs.residuals[number - 1]),
        )


def _dot(left: Any, right: Any) -> float:
    wide: Values = np.asarray(left, np.float64)
    return float(wide @ np.asarray(right, np.float64))
