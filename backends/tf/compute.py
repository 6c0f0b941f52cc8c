"""The graphs that compute a Keras model's loss as a function of one flat vector; traced once a batch shape.

The model is called in a `keras.StatelessScope` with every one of its variables given, so that none is read or written.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from gradvis.backends.tf.data import size
from gradvis.backends.tf.losses import Tensor, Term, moments

_ZERO = tf.UnconnectedGradients.ZERO


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
        # autograph would only wrap the user's error messages: Keras 3 itself does not convert either
        self.look = tf.function(self._look, autograph=False)
        self.point = tf.function(self._point, autograph=False)
        self.gradient = tf.function(self._gradient, autograph=False)
        self.hvp = tf.function(self._hvp, autograph=False)

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
        """Back over back (Pearlmutter 1994): the first gradient is computed once for all vectors."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(theta)
            first = self._gradient(theta, *batch)

        def product(vector: Tensor) -> Tensor:
            return tape.gradient(first, theta, output_gradients=vector, unconnected_gradients=_ZERO)

        return tf.map_fn(product, vectors, parallel_iterations=1)
