"""The graphs that compute a model's loss as a function of one flat vector; traced once a batch shape.

While they are traced, the model's variables stand for other values (`guard.standing_in`), so that none is read or
written when they run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import tensorflow as tf

from gradvis.backends.tf.criterion import Criterion
from gradvis.backends.tf.data import size
from gradvis.backends.tf.guard import computing_in, in_graphs, standing_in
from gradvis.backends.tf.losses import moments
from gradvis.backends.tf.norms import of_each_batch, statistics
from gradvis.backends.tf.products import Products

Tensor = Any  # TensorFlow has no types of its own
REGULARISATION = "regularisation"


class Traced:
    """A graph for each kind of arguments; the user's own errors come out of it unchanged.

    Args:
        function: Of tensors.
        compiled: Whether XLA compiles it.
        free: Which argument may have any number of rows.
    """

    def __init__(self, function: Callable[..., Any], compiled: bool = False, free: int | None = None) -> None:
        # No autograph, as Keras 3 does it: Python that branches on tensors is not for it.
        self._function = tf.function(function, autograph=False, jit_compile=compiled or None)
        self._known: dict[Any, Any] = {}
        self._free = free

    def __call__(self, *arguments: Any) -> Any:
        return self.of(*arguments)(*arguments)

    def of(self, *arguments: Any) -> Any:
        """The graph for arguments like these, kept here: `tf.function` is slower, and warns who makes several."""
        if self._free is not None:
            rows = arguments[self._free]
            spec = tf.TensorSpec((None, *rows.shape[1:]), rows.dtype)
            arguments = (*arguments[: self._free], spec, *arguments[self._free + 1 :])
        kinds = tuple(map(_kind, tf.nest.flatten(arguments)))
        if kinds not in self._known:
            try:
                self._known[kinds] = self._function.get_concrete_function(*arguments)
            except Exception as error:
                if (own := _as_raised(error)) is error:
                    raise
                raise own from None
        return self._known[kinds]


def _kind(leaf: Any) -> Any:
    """What makes another graph: of an object that is no tensor, the object itself."""
    return (*leaf.shape, leaf.dtype) if hasattr(leaf, "shape") and hasattr(leaf, "dtype") else repr(leaf)


def _as_raised(error: BaseException) -> BaseException:
    """The user's own error, which AutoGraph wraps in one of many lines."""
    while hasattr(error.__context__, "ag_error_metadata"):
        assert error.__context__ is not None
        error = error.__context__
    return error


@dataclass
class Facts:
    """What the first look at a model tells.

    Attributes:
        regularised: Whether it adds something to its loss.
        mixes: Whether that is made of a whole batch.
        sample_bytes: What a sample costs: see `room.activation_bytes`.
    """

    regularised: bool = False
    mixes: bool = False
    sample_bytes: int = 1


class Graphs:
    """The graphs of one model and what is measured of it.

    Args:
        model: The user's.
        moved: Its variables in the order of the flat vector.
        rest: Its other weights: frozen ones and moving statistics.
        criterion: What is measured.
        dtype: Of the flat vector, and of the outputs that losses see.
        computes: The dtype in which its layers are made to compute, where it is another than their own.
        norms: Its batch norms.
        batch: Whether those normalise by the batch that they see.
        compiled: Whether XLA compiles what `evaluate` runs.
    """

    def __init__(
        self,
        model: Any,
        moved: list[Any],
        rest: list[Any],
        criterion: Criterion,
        dtype: str,
        *,
        computes: str | None = None,
        norms: Sequence[Any] = (),
        batch: bool = False,
        compiled: bool = False,
    ) -> None:
        self.model, self.criterion, self.dtype, self.computes = model, criterion, dtype, computes
        self.norms, self.batch = norms, batch
        self._moved, self._rest = moved, rest
        self._others = [v for v in _all(model) if id(v) not in {id(each) for each in (*moved, *rest)}]
        self.look, self.form, self.plain = Traced(self._look), Traced(self._form), Traced(self._measure)
        self.measure = Traced(self._measure, compiled) if compiled else self.plain
        self.several = Traced(self._several, free=2)
        self.gradient, self.statistics = Traced(self._gradient), Traced(self._statistics)
        self.products = Products(self.loss_of, self.outputs_of, self._judge, criterion.sees_outputs)
        self.facts = Facts()

    @cached_property
    def of_batches(self) -> Graphs:
        """The same under batch_norm='batch'."""
        if self.batch or not self.norms:
            return self
        other = Graphs(
            self.model, self._moved, self._rest, self.criterion, self.dtype, computes=self.computes, norms=self.norms,
            batch=True, compiled=self.measure is not self.plain,
        )  # fmt: skip
        other.facts = self.facts
        return other

    @property
    def names(self) -> tuple[str, ...]:
        """What is measured, the loss first."""
        return (*self.criterion.names, *([REGULARISATION] if self.facts.regularised else []))

    # ------------------------------------------------------------------ inside a graph

    def _values(self, theta: Tensor, rest: Sequence[Tensor], number: Tensor) -> dict[int, Tensor]:
        """Of every variable, by its id; of a random generator, the same for a batch each time it comes."""
        pieces = tf.split(tf.cast(theta, self.dtype), [int(v.shape.num_elements()) for v in self._moved])
        given = [(v, tf.reshape(piece, v.shape)) for v, piece in zip(self._moved, pieces, strict=True)]
        given += zip(self._rest, rest, strict=True)
        given += [(v, tf.fill(v.shape, number)) for v in self._others]
        return {id(v): tf.cast(value, self._dtype_of(v)) for v, value in given}

    def _dtype_of(self, variable: Any) -> Any:
        own = tf.as_dtype(variable.dtype)
        return tf.as_dtype(self.dtype) if self.computes and own.is_floating else own

    def _run(self, theta: Tensor, rest: Sequence[Tensor], number: Tensor, run: Callable[[], Any]) -> Any:
        """What `run` gives while the model stands at theta, and what the model adds to its loss there."""
        values = self._values(theta, rest, number)
        with computing_in(self.model, self.computes), standing_in(self.model, values) as scope:
            result = run()
            losses = list(getattr(self.model, "losses", []))
            self.facts.regularised, self.facts.mixes = bool(losses), bool(scope.losses)
            return result, tf.add_n([tf.cast(each, tf.float64) for each in losses]) if losses else None

    def _forward(self, theta: Tensor, rest: Sequence[Tensor], number: Tensor, batch: Any) -> tuple[Any, Tensor | None]:
        def run() -> Any:
            with of_each_batch(self.norms if self.batch else (), "batch"):
                return self._called(batch[0])

        outputs, extra = self._run(theta, rest, number, run)
        return tf.nest.map_structure(self._in_dtype, outputs), extra

    def _called(self, inputs: Any) -> Any:
        if isinstance(self.model, keras.Model):
            return self.model(inputs, training=False)
        return in_graphs(self.model, self.model)(inputs)

    def _in_dtype(self, leaf: Tensor) -> Tensor:
        if not leaf.dtype.is_floating or leaf.dtype == self.dtype:
            return leaf
        cast = tf.cast(leaf, self.dtype)
        if (mask := getattr(leaf, "_keras_mask", None)) is not None:
            cast._keras_mask = mask
        return cast

    def outputs_of(self, theta: Tensor, rest: Sequence[Tensor], number: Tensor, batch: Any) -> Any:
        """What the model gives for a batch at theta, (b, ...), in the dtype of the vector."""
        return self._forward(theta, rest, number, batch)[0]

    def _judged(
        self, theta: Tensor, rest: Sequence[Tensor], number: Tensor, batch: Any
    ) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
        """The outputs, and the summed values and the units of each sample, a pair for each term."""
        if self.criterion.sees_outputs:
            outputs, extra = self._forward(theta, rest, number, batch)
            terms = list(self.criterion.values(outputs, batch))
        else:

            def run() -> Any:
                with of_each_batch(self.norms if self.batch else (), "batch"):
                    return self.criterion.measured(self.model, batch)

            outputs = None
            terms, extra = self._run(theta, rest, number, run)
        if extra is not None:
            count = tf.constant(size(batch), tf.float64)
            terms = [*terms, (extra * count, count)]
        return outputs, terms

    def loss_of(self, theta: Tensor, rest: Sequence[Tensor], number: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Sums of the loss and of its units over a batch, () each."""
        values, units = self._judged(theta, rest, number, batch)[1][0]
        return tf.reduce_sum(values), tf.reduce_sum(units)

    def _judge(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Summed values and units of the loss of each sample, from the outputs."""
        values, units = self.criterion.values(outputs, batch)[0]
        return values, units

    def _moments(self, terms: Sequence[tuple[Tensor, Tensor]], batch: Any) -> Tensor:
        """Of every term, (q, 6)."""
        return tf.stack([moments(values, units, size(batch)) for values, units in terms])

    # ------------------------------------------------------------------ graphs

    def _look(self, theta: Tensor, rest: list[Tensor], number: Tensor, batch: Any) -> tuple[Any, Tensor]:
        outputs, terms = self._judged(theta, rest, number, batch)
        return outputs, self._moments(terms, batch)

    def _form(self, origin: Tensor, directions: Tensor, at: Tensor) -> Tensor:
        """A point of a plane, (d,)."""
        return tf.cast(origin + tf.linalg.matvec(directions, at, transpose_a=True), self.dtype)

    def _measure(self, sums: Tensor, theta: Tensor, rest: list[Tensor], number: Tensor, batch: Any) -> Tensor:
        """The sums so far, (q, 6), and those of a batch."""
        return sums + self._moments(self._judged(theta, rest, number, batch)[1], batch)

    def _several(
        self, origin: Tensor, directions: Tensor, at: Tensor, rest: list[Tensor], number: Tensor, batch: Any
    ) -> Tensor:
        """The moments of a batch at several points of a plane, (n, q, 6), one after the other."""

        def one(row: Tensor) -> Tensor:
            terms = self._judged(self._form(origin, directions, row), rest, number, batch)[1]
            return self._moments(terms, batch)

        return tf.map_fn(one, at, fn_output_signature=tf.float64, parallel_iterations=1)

    def _gradient(self, theta: Tensor, rest: list[Tensor], number: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(theta)
            loss, units = self.loss_of(theta, rest, number, batch)
        return tape.gradient(loss, theta, unconnected_gradients=tf.UnconnectedGradients.ZERO), units

    def _statistics(self, theta: Tensor, rest: list[Tensor], number: Tensor, batch: Any) -> list[Any]:
        """Mean and variance that each batch norm sees in a whole batch."""

        def run() -> Any:
            with of_each_batch(self.norms, "recalibrate") as seen:
                if self.criterion.sees_outputs:
                    self._called(batch[0])
                else:
                    self.criterion.measured(self.model, batch)
            return statistics(self.norms, seen)

        return self._run(theta, rest, number, run)[0]


def _all(model: Any) -> list[Any]:
    """Every variable of a model, states of random generators too."""
    return [*model.trainable_variables, *model.non_trainable_variables]
