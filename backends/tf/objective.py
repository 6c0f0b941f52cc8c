"""The loss of a Keras model as a function of one flat vector; the model itself is never changed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gradvis import machine
from gradvis.arrays import Matrix, Values, Vector
from gradvis.backends.tf.checkpoints import read_weights
from gradvis.backends.tf.compute import Graphs
from gradvis.backends.tf.data import load
from gradvis.backends.tf.guard import device_name, untouched
from gradvis.backends.tf.layers import compute_dtype, has_batch_norm, last_activation, moved_variables, parameter_space
from gradvis.backends.tf.losses import LOSSES, PROBABILITIES, Term, accuracy, compiled_loss, term
from gradvis.objective import Objective, summarise
from gradvis.plane import Plane

_DATA_SHARE = 4  # a quarter of the free memory may hold data


class KerasObjective(Objective):
    """A loss and metrics of a `keras.Model` on fixed data, run by TensorFlow with `training=False`.

    Means are over samples; what `model.losses` adds (regularisation) is no part of them.

    Args:
        model: Built; found again as it was.
        data: A pair of arrays (or of dicts of them), a tf.data.Dataset of batches, or a finite iterable of batches.
        loss: `cross_entropy` and `binary_cross_entropy` (of logits), `mse`, `mae`, a keras loss, or
            `f(outputs, targets)`; the one the model was compiled with where not given.
        metrics: More of what `loss` can be, or `accuracy`; all come from one forward pass.
        batch_size: For arrays, 128 where not given.
        batch_norm: `eval`: moving statistics as stored.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        dtype: Only to say which one is expected: a Keras model computes in the dtype it was built with.
        include_frozen: Whether variables of layers with `trainable=False` are moved too.
        data_budget: Bytes of data kept on the device; a quarter of the free memory where not given.

    Raises:
        ValueError: If an option or the data does not fit; the message says what was wanted.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        loss: Any = None,
        *,
        metrics: Any = (),
        batch_size: int | None = None,
        batch_norm: str = "eval",
        device: str | None = None,
        dtype: str | None = None,
        include_frozen: bool = False,
        data_budget: int | None = None,
    ) -> None:
        if batch_norm != "eval":
            raise ValueError(f"batch_norm must be 'eval', the stored statistics, for Keras, but {batch_norm!r} came")
        self._model, self._include_frozen = model, include_frozen
        self._moved = moved_variables(model, include_frozen)
        self.space = parameter_space(model, self._moved)
        moved = {id(v) for v in self._moved}
        self._rest = [v for v in model.weights if id(v) not in moved]
        self._state: Mapping[int, np.ndarray] | None = None
        self._dtype = _own_dtype(self._moved)
        if dtype not in {None, self._dtype}:
            raise ValueError(
                f"this model computes in {self._dtype}, but dtype={dtype!r} came; Keras chooses the dtype when a "
                f"model is built: keras.config.set_dtype_policy({dtype!r})"
            )
        self._loss_name, self._terms = _read_terms(model, loss, metrics)
        self._device = device_name(device)
        self._graphs = Graphs(model, self._moved, self._rest, self._terms, self._dtype)
        budget = machine.memory() // _DATA_SHARE if data_budget is None else data_budget
        with untouched(self._device):
            self._data = load(data, self._dtype, batch_size, budget)
            self.metrics = self._columns()
        self.streamed = self._data.kept is None

    def _columns(self) -> tuple[str, ...]:
        """The first batch goes through once, which tells where there are values per sample.

        Raises:
            ValueError: If the loss takes logits and the model gives probabilities.
        """
        number, inputs, targets = next(iter(self._data))
        outputs, values = self._graphs.look(
            self._tensor(self.parameters()), self._buffers(), tf.constant(number), inputs, targets
        )
        if self._loss_name == "cross_entropy" and _sums_to_one(outputs.numpy()):
            raise ValueError(PROBABILITIES)
        spreads = {name for name, value in zip(self._terms, values, strict=True) if value.shape.rank}
        return tuple(c for name in self._terms for c in ([name, f"{name}_stderr"] if name in spreads else [name]))

    # ------------------------------------------------------------------ what it is

    @property
    def about(self) -> dict[str, Any]:
        return {
            "backend": "keras",
            "model": type(self._model).__name__,
            "loss": self._loss_name,
            "metrics": [name for name in self.metrics if not name.endswith("_stderr")],
            "unit": "sample",
            "samples": self._data.samples,
            "dtype": compute_dtype(self._model),
            "batch_norm": "eval" if has_batch_norm(self._model) else None,
            "include_frozen": self._include_frozen,
        }

    @property
    def how(self) -> dict[str, Any]:
        threads = tf.config.threading.get_intra_op_parallelism_threads() or len(machine.affinity())
        return {"device": self._device.strip("/").lower(), "micro_batch": self._data.micro, "threads": threads}

    def memory(self, k: int) -> int:
        return (k + 2) * self.space.d * np.dtype(self._dtype).itemsize + self._data.nbytes

    def fingerprint(self) -> dict[str, str]:
        values = self._values()
        return {
            "parameters": _digest(values[id(v)] for v in self._moved),
            "buffers": _digest(values[id(v)] for v in self._rest),
            "data": self._data.digest,
        }

    def again(self, how: Mapping[str, Any]) -> KerasObjective:
        """See `Objective.again`; data that brings its own batches keeps them."""
        other = copy.copy(self)
        with untouched(self._device):
            other._data = self._data.recut(how.get("micro_batch"))
        return other

    # ------------------------------------------------------------------ states

    def _values(self) -> Mapping[int, np.ndarray]:
        """Every weight by the id of its variable, as it stands now or as the checkpoint has it."""
        if self._state is not None:
            return self._state
        return {id(v): v.numpy() for v in self._model.weights}

    def _vector(self, values: Mapping[int, np.ndarray]) -> Vector:
        return np.concatenate([values[id(v)].astype(self._dtype).reshape(-1) for v in self._moved])

    def parameters(self) -> Vector:
        return self._vector(self._values())

    def read(self, checkpoint: Any) -> Vector:
        """See `Objective.read`; what a checkpoint can be is in `checkpoints.read_weights`."""
        with untouched(self._device):
            return self._vector(read_weights(self._model, checkpoint, self._moved))

    def at(self, checkpoint: Any) -> KerasObjective:
        other = copy.copy(self)
        with untouched(self._device):
            other._state = read_weights(self._model, checkpoint, self._model.weights)
        return other

    def shard(self, index: int, count: int) -> KerasObjective:
        """See `Objective.shard`; `evaluate` of a shard is the mean over its own samples.

        Raises:
            ValueError: If there is no such shard.
        """
        if not 0 <= index < count:
            raise ValueError(f"a shard is numbered 0 to {count - 1}, but {index} came")
        other = copy.copy(self)
        other._data = self._data.shard(index, count)
        return other

    # ------------------------------------------------------------------ computing

    def _tensor(self, values: Matrix) -> Any:
        return tf.constant(np.asarray(values, self._dtype))

    def _buffers(self) -> list[Any]:
        values = self._values()
        return [tf.constant(values[id(v)]) for v in self._rest]

    def evaluate(self, plane: Plane, coords: Values) -> Values:
        """See `Objective.evaluate`; every point of a loaded batch is evaluated before the next is loaded."""
        self.space.check(plane.origin)
        wide = np.result_type(plane.origin.dtype, self._dtype)
        at = np.asarray(coords, np.float64).reshape(len(coords), plane.k).astype(wide)
        with untouched(self._device):
            origin, directions = tf.constant(plane.origin.astype(wide)), tf.constant(plane.directions.astype(wide))
            points, rest = [tf.constant(row) for row in at], self._buffers()
            sums: list[Any] = [0.0] * len(points)
            for number, *pair in self._data:
                for index, point in enumerate(points):
                    sums[index] += self._graphs.point(origin, directions, point, rest, tf.constant(number), *pair)
            moments = tf.stack(sums).numpy() if points else np.zeros((0, len(self._terms), 6))
        means, spreads = summarise(moments)
        found = []
        for index, name in enumerate(self._terms):
            found += [means[:, index]] + ([spreads[:, index]] if f"{name}_stderr" in self.metrics else [])
        return np.stack(found, axis=1)

    def _accumulate(self, graph: Callable[..., Any], *arguments: Values | Vector | Matrix) -> Values:
        """Sum what a graph gives for each batch, in the shape of the last argument, and divide by the samples."""
        with untouched(self._device):
            placed, rest = [self._tensor(argument) for argument in arguments], self._buffers()
            total = tf.zeros(placed[-1].shape, tf.float64)
            for number, *pair in self._data:
                total += tf.cast(graph(*placed, rest, tf.constant(number), *pair), tf.float64)
            return np.asarray((total / self._data.samples).numpy(), self._dtype)

    def gradient(self, theta: Vector) -> Vector:
        return self._accumulate(self._graphs.gradient, self.space.check(theta))

    def hvp(self, theta: Vector, vectors: Matrix, operator: str = "hessian") -> Matrix:
        if operator != "hessian":
            raise ValueError(
                f"operator={operator!r} was wanted, but for Keras there is the Hessian alone; take operator='hessian'"
            )
        return self._accumulate(self._graphs.hvp, self.space.check(theta), vectors)


def _own_dtype(variables: list[Any]) -> str:
    """That of the flat vector: float32 at least."""
    return "float64" if any(v.dtype == "float64" for v in variables) else "float32"


def _read_terms(model: Any, loss: Any, metrics: Any) -> tuple[str, dict[str, Term]]:
    """The loss's name, and what is computed, by column.

    Raises:
        ValueError: If two columns would have one name.
    """
    activation = last_activation(model)
    known = {**LOSSES, "accuracy": accuracy(0.5 if activation == "sigmoid" else 0.0)}
    name, first = term(compiled_loss(model) if loss is None else loss, activation)
    metrics = [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics)
    more = [term(metric, activation, known) for metric in metrics]
    names = ["loss", *(column for column, _ in more)]
    if len(set(names)) < len(names):
        raise ValueError(f"every metric needs a name of its own, beside 'loss', but the names were {names}")
    return name, {"loss": first, **dict(more)}


def _sums_to_one(outputs: np.ndarray) -> bool:
    """Whether these can only be probabilities."""
    return outputs.shape[-1] > 1 and bool((outputs >= 0).all() and np.allclose(outputs.sum(-1), 1, atol=1e-3))


def _digest(arrays: Iterable[np.ndarray]) -> str:
    """Of weights in their order; their names tell only how many models the process has made before."""
    found = hashlib.blake2b(digest_size=16)
    for value in arrays:
        found.update(f"{value.dtype} {value.shape}".encode())
        found.update(value.tobytes())
    return found.hexdigest()
