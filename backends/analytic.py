"""Losses with closed forms, for tests and for play: their surface, gradient and spectrum are known exactly."""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np

from gradvis.arrays import Matrix, Values, Vector
from gradvis.backends.given import check_shard
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.space import Block, ParameterSpace

Self = TypeVar("Self", bound="Analytic")


class Analytic(Objective):
    """A loss whose value, gradient and Hessian are formulas, in float64; it stands at its minimum.

    Args:
        minimum: Where it is least, (d,).
        space: How the vector is cut into blocks; one block of d weights where not given.

    Raises:
        ValueError: If the space has another number of parameters.
    """

    metrics = ("loss",)

    def __init__(self, minimum: Vector, space: ParameterSpace | None = None) -> None:
        self.minimum = np.array(minimum, np.float64)
        self.space = space or ParameterSpace([Block("theta", self.minimum.shape)])
        self._stand = self._wide(self.minimum)
        self._share = 1.0

    @abstractmethod
    def _losses(self, thetas: Values) -> Values:
        """(n, d) to (n,)."""

    @abstractmethod
    def _slope(self, theta: Values) -> Values:
        """(d,) to (d,)."""

    @abstractmethod
    def _curve(self, theta: Values, vectors: Values) -> Values:
        """Hessian times vectors, (d,) and (r, d) to (r, d)."""

    @property
    def about(self) -> dict[str, Any]:
        name = type(self).__name__
        return {
            "backend": "analytic", "model": name, "loss": name, "metrics": ["loss"], "unit": "sample", "samples": 1,
            "dtype": "float64", "batch_norm": None,
        }  # fmt: skip

    @property
    def how(self) -> dict[str, Any]:
        return {"device": "cpu", "micro_batch": 1, "threads": 1}

    def parameters(self) -> Values:
        return self._stand.copy()

    def read(self, checkpoint: Any) -> Values:
        """A checkpoint here is a plain vector, (d,)."""
        return self._wide(np.array(checkpoint, np.float64))

    def at(self: Self, checkpoint: Any) -> Self:
        """The same loss, standing elsewhere, (d,)."""
        other = copy.copy(self)
        other._stand = self.read(checkpoint)
        return other

    def evaluate(self, plane: Plane, coords: Values) -> Values:
        self.space.check(plane.origin)
        where = np.asarray(coords, np.float64).reshape(len(coords), plane.k)
        wide = Plane(plane.origin.astype(np.float64), plane.directions.astype(np.float64))
        # one point after another: a product of matrices would give other last bits for another number of rows
        points = np.array([wide.point(at) for at in where], np.float64)
        return self._share * self._losses(points.reshape(-1, self.space.d))[:, None]

    def gradient(self, theta: Vector) -> Values:
        return self._share * self._slope(self._wide(theta))

    def hvp(self, theta: Vector, vectors: Matrix, operator: str = "hessian") -> Values:
        if operator != "hessian":
            raise ValueError(
                f"operator={operator!r} was wanted, but a closed form has no outputs to take it of; take "
                "operator='hessian'"
            )
        rows = [self._curve(self._wide(theta), self._wide(vector)[None])[0] for vector in vectors]
        return self._share * np.array(rows).reshape(-1, self.space.d)

    def shard(self: Self, index: int, count: int) -> Self:
        """There is one sample; each shard is its count-th part."""
        check_shard(index, count)
        other = copy.copy(self)
        other._share = self._share / count
        return other

    def fingerprint(self) -> dict[str, str]:
        return {"parameters": _digest(self._stand), "buffers": _digest(), "data": _digest(*self._data())}

    def _data(self) -> list[Values]:
        """What the formula is made of."""
        return [self.minimum]

    def _wide(self, theta: Vector) -> Values:
        wide: Values = np.asarray(theta, np.float64)
        self.space.check(wide)
        return wide


class Quadratic(Analytic):
    """offset + 1/2 (theta - m)' H (theta - m).

    Args:
        spectrum: The eigenvalues of H, (d,).
        hessian: H itself, (d, d), instead of a spectrum.
        minimum: m, (d,); zero where not given.
        offset: The loss there.
        rotate_seed: Turns the eigenvectors of a spectrum away from the axes, by a random rotation.
        space: See `Analytic`.

    Raises:
        ValueError: If there is not just one of spectrum and hessian, or H is not symmetric, or m does not fit.

    >>> bowl = Quadratic([1.0, 4.0], minimum=[1.0, 1.0], offset=0.5)
    >>> bowl.measure(np.array([3.0, 2.0])), bowl.gradient(np.array([3.0, 2.0])).tolist()
    ({'loss': 4.5}, [2.0, 4.0])
    """

    def __init__(
        self,
        spectrum: Any = None,
        hessian: Any = None,
        minimum: Any = None,
        offset: float = 0.0,
        rotate_seed: int | None = None,
        space: ParameterSpace | None = None,
    ) -> None:
        if (spectrum is None) == (hessian is None):
            raise ValueError("either a spectrum (d,) or a hessian (d, d) was wanted, and not both")
        self.offset = float(offset)
        self._h = np.array(hessian if spectrum is None else spectrum, np.float64)
        if spectrum is not None and rotate_seed is not None:
            axes = _rotation(len(self._h), rotate_seed)
            self._h = (axes * self._h) @ axes.T
            self._h = (self._h + self._h.T) / 2
        if self._h.ndim == 2 and not np.array_equal(self._h, self._h.T):
            raise ValueError(f"a symmetric hessian (d, d) was wanted, but the one of shape {self._h.shape} is not")
        lowest = np.zeros(len(self._h)) if minimum is None else np.array(minimum, np.float64)
        if lowest.shape != (len(self._h),):
            raise ValueError(f"a minimum of shape {(len(self._h),)} was wanted, but {lowest.shape} came")
        super().__init__(lowest, space)

    @property
    def hessian(self) -> Values:
        """H, (d, d)."""
        return self._h.copy() if self._h.ndim == 2 else np.diag(self._h)

    def _times(self, vectors: Values) -> Values:
        return vectors * self._h if self._h.ndim == 1 else vectors @ self._h

    def _losses(self, thetas: Values) -> Values:
        steps = thetas - self.minimum
        return np.array([self.offset + 0.5 * (step * self._times(step)).sum() for step in steps])

    def _slope(self, theta: Values) -> Values:
        return self._times(theta - self.minimum)

    def _curve(self, theta: Values, vectors: Values) -> Values:
        return self._times(vectors)

    def _data(self) -> list[Values]:
        return [self._h, self.minimum, np.array(self.offset)]


class Rosenbrock(Analytic):
    """The sum of 100 (x[i+1] - x[i]^2)^2 + (1 - x[i])^2 (Rosenbrock 1960, in d dimensions); least at all ones.

    Args:
        d: How many parameters, at least 2.
        space: See `Analytic`.

    Raises:
        ValueError: If d is less than 2.

    >>> Rosenbrock(2).measure(np.array([-1.0, 2.0]))
    {'loss': 104.0}
    """

    def __init__(self, d: int, space: ParameterSpace | None = None) -> None:
        if d < 2:
            raise ValueError(f"a valley needs at least 2 parameters, but {d} came")
        super().__init__(np.ones(d), space)

    def _losses(self, thetas: Values) -> Values:
        x, after = thetas[:, :-1], thetas[:, 1:]
        return (100 * (after - x**2) ** 2 + (1 - x) ** 2).sum(axis=1)

    def _slope(self, theta: Values) -> Values:
        x, rise = theta[:-1], theta[1:] - theta[:-1] ** 2
        slope = np.zeros_like(theta)
        slope[:-1] = -400 * x * rise - 2 * (1 - x)
        slope[1:] += 200 * rise
        return slope

    def _curve(self, theta: Values, vectors: Values) -> Values:
        x, after = theta[:-1], theta[1:]
        curved = np.zeros_like(vectors)
        curved[:, :-1] = (1200 * x**2 - 400 * after + 2) * vectors[:, :-1] - 400 * x * vectors[:, 1:]
        curved[:, 1:] += 200 * vectors[:, 1:] - 400 * x * vectors[:, :-1]
        return curved


def _rotation(d: int, seed: int) -> Values:
    """A random orthogonal matrix, (d, d), uniform (Stewart 1980: QR of a Gaussian with the signs of R undone)."""
    basis, triangle = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    return basis * np.sign(np.diag(triangle))


def _digest(*arrays: Values) -> str:
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(f"{array.shape}".encode() + array.tobytes())
    return found.hexdigest()
