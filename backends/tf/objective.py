"""The loss of a Keras model, or of a tf.Module, as a function of one flat vector; the model is never changed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gradvis import machine
from gradvis.arrays import Values, Vector
from gradvis.backends.columns import columns, in_words, table
from gradvis.backends.given import check_shard
from gradvis.backends.policies import check_divisible, chosen_policy, on_plane
from gradvis.backends.room import DATA_SHARE, POINTS, TOGETHER, fastest, pays_together, sizes_near
from gradvis.backends.tf import checkpoints
from gradvis.backends.tf.compute import Graphs
from gradvis.backends.tf.criterion import Criterion
from gradvis.backends.tf.data import load
from gradvis.backends.tf.derivatives import Derivatives
from gradvis.backends.tf.first import compiles, dtypes, first_look
from gradvis.backends.tf.guard import device_name, in_graphs, thread_count, untouched
from gradvis.backends.tf.layers import batch_norms, compute_dtype, moved_variables, parameter_space, weights_of
from gradvis.backends.tf.operators import Chosen
from gradvis.backends.tf.passes import numbered, one_by_one, recalibrated, together
from gradvis.backends.tf.room import micro_batch as fitting
from gradvis.objective import Reader
from gradvis.plane import Plane


class KerasObjective(Derivatives):
    """A loss and metrics of a `keras.Model` or a `tf.Module` on fixed data, run by TensorFlow in inference mode.

    What `model.losses` adds to the loss (regularisation) is no part of it: it is a column of its own.

    Args:
        model: Built; found again as it was. A `tf.Module` without Keras needs `batch_loss`.
        data: See `gradvis.objective`; a tf.data.Dataset of batches and a keras.utils.PyDataset too.
        loss: A name, a Keras loss, or `f(outputs, targets)`; the one the model was compiled with where not given.
        batch_loss: Instead of `loss`: `f(model, batch)`, returning per-item values, `(sum, count)` of the batch or,
            for standard errors, of each sample, or a mean together with `weight`.
        weight: Over how many items `batch_loss` took the mean of a batch, `f(batch)`; in a graph, as `batch_loss` is.
        unit: What the mean of the loss goes over, in words (`token`, `pixel`), where that is not the sample.
        metrics: More of what `loss` can be; all come from one forward pass. Those the model was compiled with where
            neither they nor the loss are given.
        batch_size: For data that has no batches of its own.
        micro_batch: How many samples go through the network at once; by a fixed rule where not given.
        batch_norm: `eval`: moving statistics as stored. `batch`: those of each batch; the batches are then part of the
            function, and are never cut. `recalibrate`: at every point one pass over the data makes new ones (see
            `backends.tf.norms`); for surfaces only. Where not given, `eval`; on planes through several checkpoints
            `recalibrate`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        dtype: `float32`, `float64`, or `bfloat16` (of the forward pass alone); the model's own where not given.
        threads: Of each operation on a CPU. TensorFlow makes its threads once: a note says if it comes too late.
        compile: Whether XLA compiles the forward pass of `evaluate`.
        samples: How many of the data's samples to take, a fixed subset of them.
        filters: Which axes count the filters of a weight, by globs of names: see `layers.parameter_space`.
        include_frozen: Whether variables of layers with `trainable=False` are moved too.
        data_budget: Bytes of data kept on the device; this rank's share of a quarter of the free memory where not
            given.
        local: Which rank of this machine this is, and of how many: it picks its GPU, and its share of memory.

    Raises:
        ValueError: If an option or the data does not fit; the message says what was wanted.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        loss: Any = None,
        *,
        batch_loss: Callable[[Any, Any], Any] | None = None,
        weight: Callable[[Any], float] | None = None,
        unit: str | None = None,
        metrics: Any = None,
        batch_size: int | None = None,
        micro_batch: int | None = None,
        batch_norm: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        compile: bool = False,  # noqa: A002 - the contract's name
        samples: int | None = None,
        filters: Mapping[str, int | tuple[int, ...]] | None = None,
        include_frozen: bool = False,
        data_budget: int | None = None,
        local: tuple[int, int] = (0, 1),
    ) -> None:
        self._model, self._include_frozen, self._compile = model, include_frozen, compile
        self._moved = moved_variables(model, include_frozen)
        self.space = parameter_space(model, self._moved, filters)
        moved = {id(v) for v in self._moved}
        self._rest = [v for v in weights_of(model) if id(v) not in moved]
        self._dtype, casts = dtypes(model, self._moved, dtype)
        self._computes = dtype or compute_dtype(model)
        self._norms = batch_norms(model)
        self._asked, self._policy = batch_norm, chosen_policy(batch_norm, bool(self._norms))
        self._device, self._threads = device_name(device, local[0]), thread_count(threads)
        in_graph = batch_loss if batch_loss is None else in_graphs(model, batch_loss)
        self._criterion = Criterion(model, loss, metrics, in_graph, weight, unit)
        graphs = Graphs(
            model, self._moved, self._rest, self._criterion, self._dtype, computes=casts, norms=self._norms,
            compiled=compile,
        )  # fmt: skip
        self._graphs = graphs.of_batches if self._policy == "batch" else graphs
        self._eval_graphs = graphs
        self._room = machine.memory() // local[1] // DATA_SHARE
        budget = self._room if data_budget is None else data_budget
        with untouched(self._device):
            found = load(data, self._dtype, batch_size, budget, samples, self._criterion.sees_outputs)
            self._look(found, micro_batch)
        self._chosen = Chosen()
        self._placed: tuple[Plane, Any, Any] | None = None

    def _look(self, data: Any, micro: int | None) -> None:
        """The first batch goes through once; what it tells, and fixed rules, say how the rest is computed."""
        self._data, theta, rest = data, self._tensor(self.parameters()), self._buffers()
        sums = first_look(self._graphs, self._computes, data, theta, rest)
        if self._criterion.sees_outputs:
            self._data = data.checked(self._criterion.check_batch)
        self.metrics = columns(self._graphs.names, sums[:, 0])
        self._micro = None
        if self._criterion.sees_outputs and not self._batches_count:
            self._micro = self._even(micro or fitting(self._graphs.facts.sample_bytes, self._device))
        self._recut()
        if self._compile and not compiles(self._graphs, theta, rest, *numbered(*next(iter(self._data)))):
            self._compile = False
            self._graphs.measure = self._graphs.plain
        small = pays_together(self.space.d, data.samples) and not self._compile
        self.points = POINTS if small else 1

    def _recut(self) -> None:
        """Micro-batches, or whole batches where they are part of the function."""
        self._data = self._data.recut(None if self._batches_count else self._micro)
        self.streamed = self._data.kept is None

    @property
    def _batches_count(self) -> bool:
        """Whether the batches are part of the function, so that none may be cut."""
        return self._graphs.facts.mixes or self._policy == "batch"

    # ------------------------------------------------------------------ what it is

    @property
    def about(self) -> dict[str, Any]:
        counted = self._batches_count or self._policy == "recalibrate"
        return {
            "backend": "keras" if isinstance(self._model, keras.Model) else "tensorflow",
            "model": type(self._model).__name__,
            "loss": self._criterion.name,
            "metrics": list(self._graphs.names),
            "dtype": self._computes,
            **self._data.about(),
            "unit": self._criterion.unit,
            "batch_norm": self._policy,
            **({"batches": in_words(self._data.were)} if counted else {}),
            "include_frozen": self._include_frozen,
            "compile": self._compile,
        }

    @property
    def how(self) -> dict[str, Any]:
        return {
            "device": self._device.strip("/").lower(),
            "threads": self._threads,
            "micro_batch": self._data.micro,
            "points": self.points,
            "product": self._chosen.way,
            "product_micro_batch": self._product_micro(TOGETHER),
        }

    def again(self, how: Mapping[str, Any]) -> KerasObjective:
        """See `Objective.again`; batches that are part of the function stay as they are."""
        other = copy.copy(self)
        with untouched(self._device):
            if self._micro is not None:
                other._micro = how.get("micro_batch") or self._micro
                other._recut()
        other.points = how.get("points", self.points)
        other._chosen = self._chosen.again(how)
        return other

    def tune(self, plane: Plane) -> Mapping[str, Any]:
        """See `Objective.tune`; times some sizes of micro-batches."""
        if self._micro is None:
            return self.how
        micros = sizes_near(self._micro, self._data.samples)
        best = fastest(micros, lambda micro: self.again({"micro_batch": micro}).evaluate(plane, np.zeros((1, plane.k))))
        return {**self.how, "micro_batch": best}

    def on(self, plane: Plane) -> KerasObjective:
        """See `Objective.on`, and `policies.on_plane`."""
        here, policy = on_plane(self, plane, free=bool(self._norms) and self._asked is None)
        return here if policy is None else here._under(policy)

    def stored(self) -> KerasObjective:
        return self._under("eval") if self._norms else self

    def _under(self, policy: str) -> KerasObjective:
        other = copy.copy(self)
        other._policy, other._graphs = policy, self._eval_graphs
        if self._policy == "batch":
            other._micro = other._even(fitting(self._graphs.facts.sample_bytes, self._device))
        with untouched(self._device):
            other._recut()
        return other

    def memory(self, k: int) -> int:
        points = (k + 2) * self.space.d * np.dtype(self._dtype).itemsize
        return points + self._data.nbytes + (self._data.micro or 1) * self._graphs.facts.sample_bytes

    def fingerprint(self) -> dict[str, str]:
        values = self._values()
        return {
            "parameters": _digest(values[id(v)] for v in self._moved),
            "buffers": _digest(values[id(v)] for v in self._rest),
            "data": self._data.digest,
        }

    # ------------------------------------------------------------------ states

    def _values(self) -> Mapping[int, np.ndarray]:
        """Every weight by the id of its variable, as it stands now or as the checkpoint has it."""
        return self._state if self._state is not None else {id(v): v.numpy() for v in weights_of(self._model)}

    def _vector(self, values: Mapping[int, np.ndarray]) -> Vector:
        return np.concatenate([np.asarray(values[id(v)]).astype(self._dtype).reshape(-1) for v in self._moved])

    def parameters(self) -> Vector:
        return self._vector(self._values())

    def read(self, checkpoint: Any) -> Vector:
        """See `Objective.read`; what a checkpoint can be is in `checkpoints.read_weights`."""
        with untouched(self._device):
            return self._vector(checkpoints.read_weights(self._model, checkpoint, self._moved))

    def reader(self, checkpoint: Any) -> Reader:
        with untouched(self._device):
            return checkpoints.reader(self._model, self._moved, self._dtype, checkpoint)

    def at(self, checkpoint: Any) -> KerasObjective:
        other = copy.copy(self)
        with untouched(self._device):
            other._state = checkpoints.read_weights(self._model, checkpoint, weights_of(self._model))
        return other

    def shard(self, index: int, count: int) -> KerasObjective:
        """See `Objective.shard`."""
        check_shard(index, count)
        check_divisible(self._policy)
        other = copy.copy(self)
        other._counts = self._count() if self._counts is None else self._counts
        other._data = self._data.shard(index, count)
        return other

    # ------------------------------------------------------------------ computing

    def evaluate(self, plane: Plane, coords: Values) -> Values:
        """See `Objective.evaluate`; every point of a loaded batch is evaluated before the next is loaded."""
        origin, directions = self._place_plane(plane)
        at = np.asarray(coords, np.float64).reshape(len(coords), plane.k).astype(origin.dtype.as_numpy_dtype)

        def compute() -> Values:
            if self.points > 1 and self._policy != "recalibrate":
                return together(self._graphs, self._data, (origin, directions), at, self._buffers())
            points = [partial(self._graphs.form, origin, directions, tf.constant(row)) for row in at]
            rests = [self._buffers()] * len(points)
            if self._policy == "recalibrate":
                rests = recalibrated(self._graphs, self._data.recut(None), points, self._rest, self._buffers())
            return one_by_one(self._graphs, self._data, points, rests)

        with untouched(self._device):
            sums = self._with_room(compute)
        return table(sums, self._graphs.names, self.metrics)

    def _place_plane(self, plane: Plane) -> tuple[Any, Any]:
        """Origin and directions on the device; they stay there until another plane comes."""
        if self._placed is None or self._placed[0] is not plane:
            self.space.check(plane.origin)
            wide = np.result_type(plane.origin.dtype, self._dtype)
            with untouched(self._device):
                self._placed = plane, tf.constant(plane.origin.astype(wide)), tf.constant(plane.directions.astype(wide))
        return self._placed[1], self._placed[2]


def _digest(arrays: Iterable[np.ndarray]) -> str:
    """Of weights in their order; their names tell only how many models the process has made before."""
    found = hashlib.blake2b(digest_size=16)
    for value in arrays:
        found.update(f"{value.dtype} {value.shape}".encode())
        found.update(value.tobytes())
    return found.hexdigest()
