"""The boundary: a loss, and metrics, as a function of one flat parameter vector on fixed data.

An Objective is the only thing that knows a framework. What crosses it is NumPy arrays and
floats; a backend subclasses it and passes the contract suite (tests/contract).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradvis.arrays import Matrix, Values, Vector
from gradvis.plane import Plane
from gradvis.provenance import digest
from gradvis.space import ParameterSpace


class NotFiniteError(ValueError):
    """A checkpoint has NaN or inf in it, or numbers too large to square."""


@dataclass(frozen=True)
class Reader:
    """A checkpoint that is read in parts, so that many need not be held at once.

    Attributes:
        read: Gives a slice of its vector; what is not finite comes as it is.
        rest: A digest of all else that belongs to the state: buffers and frozen parameters.
    """

    read: Callable[[slice], Vector]
    rest: Callable[[], str]


class Objective(ABC):
    """A loss of one flat vector. The laws it keeps are in CONTRIBUTING.md, section "The boundary".

    Attributes:
        space: Which named array lives where in the vector.
        metrics: The columns of `evaluate`: `loss` first; `NAME_stderr` where per-sample values exist.
        about: What the numbers depend on beside parameters and data (loss, policies, dtype, samples).
            A result is resumed only by an objective that says the same.
        how: What moves nothing but the last bits (micro-batch, device, threads), as used.
        streamed: Whether the data is loaded anew for every call of `evaluate`.
        points: How many points go through the network at once; tiles are made of that many.
    """

    space: ParameterSpace
    metrics: tuple[str, ...]
    streamed: bool = False
    points: int = 1

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """See the class; plain JSON values."""

    @property
    def how(self) -> dict[str, Any]:
        """See the class; plain JSON values."""
        return {}

    @abstractmethod
    def parameters(self) -> Vector:
        """Where the model stands now, a copy, (d,)."""

    @abstractmethod
    def read(self, checkpoint: Any) -> Vector:
        """A checkpoint's place in this space, (d,); the model is not touched.

        Raises:
            ValueError: If the checkpoint is of another architecture.
        """

    def reader(self, checkpoint: Any) -> Reader:
        """The same, to be read in parts."""
        theta = self.read(checkpoint)
        return Reader(theta.__getitem__, lambda: self.at(checkpoint).fingerprint().get("buffers", ""))

    @abstractmethod
    def at(self, checkpoint: Any) -> Objective:
        """The same loss and data in another state: parameters *and* buffers."""

    def on(self, plane: Plane) -> Objective:
        """The same, with the policies that the points of a plane ask for where the user has chosen none."""
        del plane
        return self

    def stored(self) -> Objective:
        """The same, measured with the statistics that belong to the state: a checkpoint's own loss."""
        return self

    def tune(self, plane: Plane) -> Mapping[str, Any]:
        """The fastest way of computing points of a plane, by the clock: a `how` for `again`."""
        del plane
        return self.how

    def tune_products(self, theta: Vector, r: int) -> Mapping[str, Any]:
        """The fastest way of multiplying with r vectors at once at theta, (d,), by the clock: a `how` for `again`."""
        del theta, r
        return self.how

    @abstractmethod
    def evaluate(self, plane: Plane, coords: Values) -> Values:
        """Metrics at points of a plane, mean over the samples.

        Args:
            plane: Origin and directions of this space.
            coords: Points on it, (n, k); k = 0 is the origin alone.

        Returns:
            A row a point and a column a metric, (n, q). NaN and inf are results like any other.
        """

    @abstractmethod
    def gradient(self, theta: Vector) -> Vector:
        """Of the loss, mean over the samples, (d,) to (d,)."""

    @abstractmethod
    def hvp(self, theta: Vector, vectors: Matrix, operator: str = "hessian") -> Matrix:
        """A curvature matrix of the loss times several vectors, mean over the samples.

        Args:
            theta: Where, (d,).
            vectors: Each is multiplied, (r, d); they share what work they can.
            operator: `hessian`. `ggn`: the generalised Gauss-Newton matrix, J' H J with J the Jacobian of the model's
                outputs and H the loss's Hessian in them (Schraudolph 2002). `fisher`: the empirical Fisher, the mean
                over samples of g g', g the gradient of a sample's own loss. A sample is an item of a batch, with all
                its tokens; those losses are scaled so that their mean is the loss: where the mean goes over tokens,
                a sample with more of them counts more.

        Returns:
            The products, (r, d), in the loss's units by parameter squared.

        Raises:
            ValueError: If the loss has no such operator; a `batch_loss` hides the outputs that the last two need.
        """

    @abstractmethod
    def shard(self, index: int, count: int) -> Objective:
        """One of `count` parts of the data, weighted so that the parts' gradients and products sum to the whole's."""

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """Digests of `parameters`, `buffers` and `data`: what must be the same on every rank and on resume."""

    def restrict(self, pattern: str) -> Objective:
        """The blocks whose names match a glob; the rest is held where it stands now."""
        return Restricted(self, pattern)

    def measure(self, theta: Vector) -> dict[str, float]:
        """Every metric at one point, (d,), by name."""
        point = Plane(self.space.check(theta), np.zeros((0, self.space.d), np.asarray(theta).dtype))
        return dict(zip(self.metrics, self.evaluate(point, np.zeros((1, 0)))[0].tolist(), strict=True))

    def memory(self, k: int) -> int:
        """Bytes held while points of a k-dimensional plane are evaluated, an estimate."""
        return (k + 2) * self.space.d * 8

    def again(self, how: Mapping[str, Any]) -> Objective:
        """The same function, computed as an earlier run's `how` says, so that its bits are the same."""
        del how
        return self


class Restricted(Objective):
    """An objective of some blocks; the other parameters stay fixed."""

    def __init__(self, whole: Objective, pattern: str) -> None:
        blocks = whole.space.matching(pattern)
        self.whole, self.pattern = whole, pattern
        self.space = ParameterSpace(blocks)
        self.metrics = whole.metrics
        self.streamed, self.points = whole.streamed, whole.points
        self._fixed = whole.parameters()
        self._index = np.concatenate([np.arange(block.slice.start, block.slice.stop) for block in blocks])

    def _embed(self, part: np.ndarray, rest: Vector | float = 0.0) -> np.ndarray:
        """Put (..., selected) into (..., d) with the rest as given."""
        whole = np.empty((*part.shape[:-1], self.whole.space.d), part.dtype)
        whole[...] = rest
        whole[..., self._index] = part
        return whole

    @property
    def about(self) -> dict[str, Any]:
        return {**self.whole.about, "parameters": self.pattern}

    @property
    def how(self) -> dict[str, Any]:
        return self.whole.how

    def parameters(self) -> Vector:
        return self._fixed[self._index]

    def read(self, checkpoint: Any) -> Vector:
        return self.whole.read(checkpoint)[self._index]

    def reader(self, checkpoint: Any) -> Reader:
        whole = self.whole.reader(checkpoint)

        def gathered(places: np.ndarray) -> Vector:
            turns = np.flatnonzero(np.diff(places) != 1) + 1
            runs = [run for run in np.split(places, turns) if run.size]
            return np.concatenate([whole.read(slice(int(run[0]), int(run[-1]) + 1)) for run in runs])

        def rest() -> str:
            others = np.setdiff1d(np.arange(self.whole.space.d), self._index)  # they move the checkpoint's own loss too
            return digest(whole.rest().encode(), *([gathered(others)] if others.size else []))

        return Reader(lambda part: gathered(self._index[part]), rest)

    def at(self, checkpoint: Any) -> Objective:
        return Restricted(self.whole.at(checkpoint), self.pattern)

    def _wider(self, plane: Plane) -> Plane:
        origin, directions = self._embed(plane.origin, self._fixed), self._embed(plane.directions)
        return Plane(origin, directions, plane.about, plane.checkpoints)

    def on(self, plane: Plane) -> Objective:
        return self._around(self.whole.on(self._wider(plane)))

    def stored(self) -> Objective:
        return self._around(self.whole.stored())

    def tune(self, plane: Plane) -> Mapping[str, Any]:
        return self.whole.tune(self._wider(plane))

    def tune_products(self, theta: Vector, r: int) -> Mapping[str, Any]:
        return self.whole.tune_products(self._embed(self.space.check(theta), self._fixed), r)

    def evaluate(self, plane: Plane, coords: Values) -> Values:
        return self.whole.evaluate(self._wider(plane), coords)

    def gradient(self, theta: Vector) -> Vector:
        return self.whole.gradient(self._embed(self.space.check(theta), self._fixed))[self._index]

    def hvp(self, theta: Vector, vectors: Matrix, operator: str = "hessian") -> Matrix:
        where = self._embed(self.space.check(theta), self._fixed)
        return self.whole.hvp(where, self._embed(vectors), operator)[:, self._index]

    def shard(self, index: int, count: int) -> Objective:
        return self._around(self.whole.shard(index, count))

    def fingerprint(self) -> dict[str, str]:
        return self.whole.fingerprint()

    def memory(self, k: int) -> int:
        return self.whole.memory(k)

    def again(self, how: Mapping[str, Any]) -> Objective:
        return self._around(self.whole.again(how))

    def _around(self, whole: Objective) -> Restricted:
        """The same part of another form of the whole."""
        part = Restricted(whole, self.pattern)
        part._fixed = self._fixed
        return part


def summarise(moments: Values) -> tuple[Values, Values]:
    """Means and standard errors of a ratio of sums, from sums over samples.

    Sample i brings s_i (its values, summed) and c_i (how many units it has: 1, or its tokens).
    The mean is sum(s) / sum(c). Its standard error is that of a ratio estimator (Cochran,
    Sampling Techniques, 3rd ed., section 2.11), which for c_i = 1 is sd / sqrt(n).

    Args:
        moments: The sums of 1, c, s, s s, s c and c c over samples, (..., 6).

    Returns:
        Means and standard errors, (...) each; the latter NaN for a single sample.

    >>> values = np.array([1.0, 2.0, 4.0, 9.0])
    >>> moments = np.array([4, 4, values.sum(), (values**2).sum(), values.sum(), 4.0])
    >>> [round(float(number), 12) for number in summarise(moments)]
    [4.0, 1.779513042005]
    >>> round(float(values.std(ddof=1) / 2), 12)
    1.779513042005
    """
    n, units, total, squares, cross, lengths = np.moveaxis(np.asarray(moments, np.float64), -1, 0)
    with np.errstate(all="ignore"):
        mean = total / units
        residual = squares - 2 * mean * cross + mean**2 * lengths  # sum of (s_i - mean c_i)^2
        spread = np.sqrt(np.maximum(residual, 0) * n / (n - 1)) / units
    return mean, np.where(n > 1, spread, np.nan)
