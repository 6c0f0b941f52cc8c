"""The boundary: a loss, and metrics, as a function of one flat parameter vector on fixed data.

An Objective is the only thing that knows a framework. What crosses it is NumPy arrays and
floats; a backend subclasses it and passes the contract suite (tests/contract).
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from types import ModuleType
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


_BACKENDS = {
    "torch": "gradvis.backends.pytorch",
    "keras": "gradvis.backends.tf",
    "tensorflow": "gradvis.backends.tf",
}
_OVERRIDES: ContextVar[tuple[dict[str, Any], set[str]]] = ContextVar("gradvis_overrides")


@contextmanager
def overridden(options: Mapping[str, Any]) -> Iterator[set[str]]:
    """Inside, `objective` takes these options in place of those it is called with: the command line has the last word.

    Yields:
        The names of the options that no call has taken yet.
    """
    unused = set(options)
    token = _OVERRIDES.set((dict(options), unused))
    try:
        yield unused
    finally:
        _OVERRIDES.reset(token)


def objective(model: Any, data: Any = None, loss: Any = None, **options: Any) -> Objective:
    """The loss of a model on data as a function of its parameters.

    Args:
        model: A `torch.nn.Module`, a `keras.Model`, or a `tf.Module` with a `batch_loss`. It is never changed.
        data: A pair of arrays (inputs, targets), a Dataset, a DataLoader, a finite iterable of batches, or the path
            of a file with `inputs` and `targets` (.npz, .safetensors, .pt), which must not be written to meanwhile.
        loss: A name (`cross_entropy`, `mse`, ...), or `f(outputs, targets)` that returns per-sample
            values (b, ...) or the mean of its batch.
        **options: `metrics`, `batch_loss`, `batch_size`, `device`, `dtype` and more: see
            `gradvis.backends.pytorch.TorchObjective` and `gradvis.backends.tf.KerasObjective`.

    Raises:
        TypeError: If the model is of no framework that gradvis knows.
        ValueError: If an option or the data does not fit, or Keras does not run on TensorFlow.
    """
    given, unused = _OVERRIDES.get(({}, set()))
    unused.clear()
    made: Objective = _backend(model).objective(model, **{"data": data, "loss": loss, **options, **given})
    return made


def record(model: Any, optimizer: Any = None, *, out: str | PathLike[str], **options: Any) -> Any:
    """Record training: parameters, buffers, loss, learning rate and gradient norms of every n-th step.

    Args:
        model: A `torch.nn.Module`, a `keras.Model` or a `tf.Module`.
        optimizer: Its optimizer, whose steps are counted; without one, `save` records.
        out: The recording, a folder.
        **options: `every_n_steps`, `objective`, `parameters`, `disk_budget` and more: see
            `gradvis.backends.pytorch.record` and `gradvis.backends.tf.record`.

    Returns:
        A `Recorder`, a context manager; `log(loss=...)`, before or after the step, tells it what a hook cannot see.
    """
    return _backend(model).record(model, optimizer, out=out, **options)


def save_checkpoint(path: str | PathLike[str], model: Any, objective: str | None = None, **extra: Any) -> None:
    """Write a model so that `gradvis-surface PATH` needs nothing else.

    Args:
        path: The file: `.pt`; of a Keras model `.keras`, or `.weights.h5` for its weights alone.
        model: A `torch.nn.Module` or a `keras.Model`.
        objective: `FILE.py:NAME`, a function without arguments that returns the Objective; FILE.py lies
            in the folder from which commands are run.
        **extra: Numbers and strings to store beside it, such as `step=100`; beside a torch module tensors too.
    """
    _backend(model).save_checkpoint(path, model, objective, **extra)


def _backend(model: Any) -> ModuleType:
    """By the model's type; never imports a framework that the user has not imported.

    Raises:
        TypeError: If the model is of none that gradvis knows.
        ValueError: If it runs on a framework that it cannot be computed with: Keras has several.
    """
    for kind in type(model).__mro__:
        framework = kind.__module__.partition(".")[0]
        if framework in _BACKENDS and framework in sys.modules:
            try:
                return import_module(_BACKENDS[framework])
            except ImportError as error:
                raise ValueError(str(error)) from error
    came = f"the class {model.__name__} came; call it" if isinstance(model, type) else f"{type(model).__name__} came"
    raise TypeError(f"model must be a torch.nn.Module or a keras.Model, but {came}")
