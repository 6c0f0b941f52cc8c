"""The graphs that compute a Keras model's loss as a function of one flat vector; traced once a batch shape.

The model is called in a `keras.StatelessScope` with every one of its variables given, so that none is read or written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from gradvis.backends.tf.data import size
from gradvis.backends.tf.losses import Tensor, Term, moments

_ZERO = tf.UnconnectedGradients.ZERO
_MEAN = "GradvisThroughMean"


@tf.RegisterGradient(_MEAN)  # type: ignore[untyped-decorator]
def _through_mean(op: Any, slope: Tensor) -> Tensor | None:
    """Of a variance with respect to its own mean.

    `tf.nn.moments` stops the gradient there. It is zero, so first derivatives are right, but its own derivative
    is not: second derivatives of LayerNormalization and GroupNormalization were off by some percent.
    """
    return slope if _is_mean(op) else None


def _is_mean(op: Any) -> bool:
    return bool(op.name.endswith("moments/StopGradient"))


def _traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Traced once for each kind of arguments; the user's own errors come out of it unchanged."""
    graph = tf.function(function, autograph=False)  # as Keras 3 does it: Python that branches on tensors is not for it
    known: dict[Any, Any] = {}

    def call(*arguments: Any) -> Any:
        kinds = tuple((*leaf.shape, leaf.dtype) for leaf in tf.nest.flatten(arguments))
        if kinds not in known:  # kept here, for tf.function is slower and warns whoever makes several objectives
            known[kinds] = graph.get_concrete_function(*arguments)
        return known[kinds](*arguments)

    return call


class Graphs:
    """The graphs of one model and its terms.

    Args:
        model: The user's.
        moved: Its variables in the order of the flat vector.
        rest: Its other weights: frozen ones and moving statistics.
        terms: What is computed of outputs and targets, the loss first.
        dtype: Of the flat vector.
    """

    def __init__(self, model: Any, moved: list[Any], rest: list[Any], terms: Mapping[str, Term], dtype: str) -> None:
        self._model, self._moved, self._rest, self._terms, self._dtype = model, moved, rest, terms, dtype
        self._training = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
        self.look, self.point = _traced(self._look), _traced(self._point)
        self.gradient, self.hvp = _traced(self._gradient), _traced(self._hvp)

    def _outputs(self, theta: Tensor, rest: list[Tensor], number: Tensor, inputs: Any) -> Any:
        pieces = tf.split(tf.cast(theta, self._dtype), [int(v.shape.num_elements()) for v in self._moved])
        given = {id(v): tf.reshape(piece, v.shape) for v, piece in zip(self._moved, pieces, strict=True)}
        given |= {id(v): value for v, value in zip(self._rest, rest, strict=True)}

        def value(variable: Any) -> Tensor:
            if id(variable) in given:
                return tf.cast(given[id(variable)], variable.dtype)
            # the state of a random generator: the same for a batch each time it comes
            return tf.cast(tf.fill(variable.shape, number), variable.dtype)

        trainable, fixed = self._model.trainable_variables, self._model.non_trainable_variables
        outputs, _ = self._model.stateless_call(
            [value(v) for v in trainable], [value(v) for v in fixed], inputs, **self._training
        )
        return tf.nest.map_structure(
            lambda leaf: tf.cast(leaf, self._dtype) if leaf.dtype.is_floating else leaf, outputs
        )

    def _look(self, theta: Tensor, rest: list[Tensor], number: Tensor, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """The outputs, and what each term makes of them."""
        outputs = self._outputs(theta, rest, number, inputs)
        return outputs, [term(outputs, targets) for term in self._terms.values()]

    def _point(self, origin: Tensor, directions: Tensor, at: Tensor, *batch: Any) -> Tensor:
        """Moments of every term over a batch, (q, 6), at a point of a plane that is formed here."""
        theta = origin + tf.linalg.matvec(directions, at, transpose_a=True)
        _, values = self._look(theta, *batch)
        return tf.stack([moments(value, size(batch[-1])) for value in values])

    def _loss(self, theta: Tensor, rest: list[Tensor], number: Tensor, inputs: Any, targets: Any) -> Tensor:
        """Sum of the loss over the samples of a batch, ()."""
        outputs = self._outputs(theta, rest, number, inputs)
        return moments(self._terms["loss"](outputs, targets), size(targets))[2]

    def _gradient(self, theta: Tensor, *batch: Any) -> Tensor:
        with tf.GradientTape() as tape:
            tape.watch(theta)
            loss = self._loss(theta, *batch)
        return tape.gradient(loss, theta, unconnected_gradients=_ZERO)

    def _hvp(self, theta: Tensor, vectors: Tensor, *batch: Any) -> Tensor:
        """Back over back (Pearlmutter 1994): the first gradient is computed once for all vectors.

        Not by tapes: they would not heed the gradient that `_through_mean` puts right.

        Raises:
            ValueError: If that cannot be put right, because it happens inside a loop.
        """
        graph = tf.compat.v1.get_default_graph()
        with graph.gradient_override_map({"StopGradient": _MEAN}):
            loss = self._loss(theta, *batch)
        if any(_is_mean(node) for inner in graph.as_graph_def().library.function for node in inner.node_def):
            raise ValueError(
                "hvp is not right for a model that normalises (tf.nn.moments) inside a loop; "
                "where it is a recurrent layer, build it with unroll=True"
            )
        first = tf.gradients(loss, theta, unconnected_gradients=_ZERO)[0]

        def product(vector: Tensor) -> Tensor:
            return tf.gradients(first, theta, grad_ys=vector, unconnected_gradients=_ZERO)[0]

        return tf.map_fn(product, vectors, parallel_iterations=1)
