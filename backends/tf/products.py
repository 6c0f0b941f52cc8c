"""Graphs of products with the Hessian, the generalised Gauss-Newton matrix and the empirical Fisher.

All go backward twice: the gradient of the gradient's product with each vector. Vectors share the forward and the first
backward pass, and each operation that has a second derivative can go there. Forward mode was slower in TensorFlow for
ten vectors and no faster for one, wrong through `tf.nn.moments`, and raised for LSTM.

Sources: Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6, 1994. Schraudolph, Fast Curvature
Matrix-Vector Products for Second-Order Gradient Descent, Neural Computation 14, 2002. Townsend, A new trick for
calculating Jacobian vector products, 2017. The empirical Fisher is as in Kunstner, Balles and Hennig, Limitations of
the Empirical Fisher Approximation for Natural Gradient Descent, NeurIPS 2019.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from gradvis.backends.room import TOGETHER
from gradvis.backends.tf.batch import cut_evenly, size
from gradvis.backends.tf.losses import made_by
from gradvis.notes import note

Tensor = Any  # TensorFlow has no types of its own
Vectorwise = Callable[[Tensor], Tensor]  # of one vector, (d,) to (d,)

_MEAN = "GradvisThroughMean"
_INNER = ("_body_graph", "_true_graph", "_false_graph")  # where TensorFlow keeps what its gradients are made of


class Products:
    """The graphs of one loss: one for each operator and shape of batch, whatever the number of vectors.

    Args:
        loss_of: From parameters, (d,), the other weights, the number of a batch and the batch to the summed loss and
            its units, () each.
        outputs_of: From the same to what the model gives, (b, ...).
        judge: From outputs and their batch to the summed loss and the units of each sample, (b,) each.
        sees_outputs: Whether the loss is one of outputs and targets.
    """

    def __init__(
        self,
        loss_of: Callable[..., tuple[Tensor, Tensor]],
        outputs_of: Callable[..., Any],
        judge: Callable[[Any, Any], tuple[Tensor, Tensor]],
        sees_outputs: bool,
    ) -> None:
        self._loss_of, self._outputs_of, self._judge, self._sees_outputs = loss_of, outputs_of, judge, sees_outputs
        self._makers: Mapping[str, Callable[..., tuple[Vectorwise, Tensor]]] = {
            "hessian": self._hessian, "ggn": self._ggn, "fisher": self._fisher,
        }  # fmt: skip
        self._functions = {
            operator: tf.function(_for_each_vector(maker), autograph=False) for operator, maker in self._makers.items()
        }
        self._known: dict[Any, Any] = {}
        self._told = False  # that outputs are probabilities
        self.draws = False  # whether a graph was seen to depend on the number of its batch: a random forward

    def summed(
        self,
        operator: str,
        theta: Tensor,
        vectors: Tensor,
        rest: Sequence[Tensor],
        batches: Iterable[tuple[int, Any]],
        micro: int | None,
    ) -> tuple[Tensor, Tensor]:
        """Sum products over batches.

        Args:
            operator: `hessian`, `ggn` or `fisher`.
            theta: Where, (d,).
            vectors: What is multiplied, (r, d).
            rest: The other weights.
            batches: On the device, with their numbers.
            micro: The most samples at once; None for whole batches. What draws random numbers is never cut.

        Returns:
            total: The sum of the products, (r, d) in float64.
            counts: How many samples there are, and over how many units the mean of the loss goes, (2,).
        """
        total, counts = tf.zeros(vectors.shape, tf.float64), tf.zeros(2, tf.float64)
        for number, batch in batches:
            for piece, graph in self._pieces(operator, (theta, vectors, rest, tf.constant(number)), batch, micro):
                found, units = graph(theta, vectors, rest, tf.constant(number), piece)
                total += tf.cast(found, tf.float64)
                counts += tf.stack([tf.constant(size(piece), tf.float64), units])
        return total, counts

    def _pieces(
        self, operator: str, arguments: tuple[Any, Any, Any, Any], batch: Any, micro: int | None
    ) -> Iterator[tuple[Any, Any]]:
        pieces = cut_evenly(batch, micro)
        self._graph(operator, *arguments, pieces[0])
        for piece in [batch] if self.draws else pieces:
            yield piece, self._graph(operator, *arguments, piece)

    def _graph(
        self, operator: str, theta: Tensor, vectors: Tensor, rest: Sequence[Tensor], number: Tensor, batch: Any
    ) -> Any:
        """Kept here: `tf.function` is slower, and warns whoever makes several objectives."""
        kinds = (operator, theta.dtype, *map(_kind, tf.nest.flatten(batch)))
        if kinds not in self._known:
            any_number = tf.TensorSpec((None, *vectors.shape[1:]), vectors.dtype)
            with _second_derivatives():
                made = self._functions[operator].get_concrete_function(theta, any_number, rest, number, batch)
            self._known[kinds] = made
            self.draws = self.draws or _depends(made.outputs, made.inputs[2 + len(rest)])
        return self._known[kinds]

    # ------------------------------------------------------------------ inside a graph

    def _hessian(self, theta: Tensor, rest: Sequence[Tensor], number: Tensor, batch: Any) -> tuple[Vectorwise, Tensor]:
        loss, units = self._loss_of(theta, rest, number, batch)
        mend()
        first = _slope(loss, theta)
        return lambda vector: _slope(first, theta, vector), units

    def _ggn(self, *point: Any) -> tuple[Vectorwise, Tensor]:
        """J' H J: with the Hessian of the loss in the outputs."""
        outputs, slopes, units = self._slopes(*point)
        if not self._told and any(map(made_by, outputs)):
            self._told = True
            note(
                "the Gauss-Newton matrix is taken in what the model gives, here probabilities; for the one in logits, "
                "which cross entropies mostly mean, end the model without its softmax and give from_logits=True"
            )
        return _sandwich(outputs, point[0], lambda moved: _slopes_of(slopes, outputs, moved)), units

    def _fisher(self, *point: Any) -> tuple[Vectorwise, Tensor]:
        """J' e e' J: with each sample's slope in its outputs, for a sample's loss knows its own outputs alone."""
        outputs, slopes, units = self._slopes(*point)

        def middle(moved: list[Tensor]) -> list[Tensor]:
            along = tf.add_n([tf.reduce_sum(_flat(e * u), 1) for e, u in zip(slopes, moved, strict=True)])  # (b,)
            return [e * tf.reshape(along, (-1, *[1] * (e.shape.rank - 1))) for e in slopes]

        return _sandwich(outputs, point[0], middle), units

    def _slopes(
        self, theta: Tensor, rest: Sequence[Tensor], number: Tensor, batch: Any
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The outputs, the slope of the loss in each of them, and its units."""
        given = tf.nest.map_structure(_fresh, self._outputs_of(theta, rest, number, batch))
        values, units = self._judge(given, batch)
        mend()
        outputs = [output for output in tf.nest.flatten(given) if output.dtype.is_floating]
        return outputs, _slopes_of(tf.reduce_sum(values), outputs), tf.reduce_sum(units)


def _for_each_vector(
    maker: Callable[..., tuple[Vectorwise, Tensor]],
) -> Callable[..., tuple[Tensor, Tensor]]:
    def products(theta: Tensor, vectors: Tensor, *batch: Any) -> tuple[Tensor, Tensor]:
        product, units = maker(theta, *batch)
        return tf.map_fn(product, vectors, parallel_iterations=TOGETHER), tf.cast(units, tf.float64)

    return products


def _sandwich(outputs: list[Tensor], theta: Tensor, middle: Callable[[list[Tensor]], list[Tensor]]) -> Vectorwise:
    """J' M J, where J times a vector is the derivative of J'u in u (Townsend 2017)."""
    weights = [tf.zeros_like(output) for output in outputs]
    pulled = _slopes_of(outputs, [theta], weights)[0]

    def product(vector: Tensor) -> Tensor:
        return _slopes_of(outputs, [theta], middle(_slopes_of([pulled], weights, [vector])))[0]

    return product


def _slope(value: Tensor, theta: Tensor, along: Tensor | None = None) -> Tensor:
    return _slopes_of(value, [theta], None if along is None else [along])[0]


def _slopes_of(values: Any, places: list[Tensor], along: list[Tensor] | None = None) -> list[Tensor]:
    """Zero where a value does not depend on a place. Not by tapes: they would not heed what `mend` puts right."""
    found: list[Tensor] = tf.gradients(
        values, places, grad_ys=along, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return found


def _fresh(output: Tensor) -> Tensor:
    """The same tensor under another name: Keras' losses look behind a softmax that they know."""
    fresh = tf.identity(output)
    if (mask := getattr(output, "_keras_mask", None)) is not None:
        fresh._keras_mask = mask
    return fresh


def _flat(values: Tensor) -> Tensor:
    """(b, ...) to (b, n)."""
    return tf.reshape(values, (values.shape[0], -1))


def _kind(leaf: Any) -> Any:
    """What a graph is made for; what is no tensor is part of it."""
    return (*leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else leaf


def _depends(outputs: Iterable[Tensor], source: Tensor) -> bool:
    """Whether there is a way in the graph from a tensor to outputs."""
    left, seen = [output.op for output in outputs], set()
    while left:
        operation = left.pop()
        if operation is source.op:
            return True
        if operation not in seen:
            seen.add(operation)
            left += [tensor.op for tensor in operation.inputs] + list(operation.control_inputs)
    return False


@contextmanager
def _second_derivatives() -> Iterator[None]:
    """Say which operation has none.

    Raises:
        ValueError: If there is one.
        LookupError: What else there was to look up.
        NotImplementedError: What else there is not.
    """
    try:
        yield
    except (LookupError, NotImplementedError) as error:
        if found := re.search(r"no gradient defined.*op type: (\w+)|(recompute_grad)", str(error), re.IGNORECASE):
            raise ValueError(
                f"an operation with second derivatives was wanted, but TensorFlow has none for {found[1] or found[2]}; "
                "write that part of the model with other operations"
            ) from error
        raise


# ---------------------------------------------------------------------- tf.nn.moments


@tf.RegisterGradient(_MEAN)  # type: ignore[untyped-decorator]
def _through_mean(op: Any, slope: Tensor) -> Tensor:
    return slope


def mend() -> None:
    """Let second derivatives through the means of `tf.nn.moments` in the graph that is being made, and in its loops.

    Of a variance, TensorFlow stops the gradient with respect to its own mean. That is zero, so first derivatives are
    right, but its own derivative is not: second derivatives of LayerNormalization and GroupNormalization were off by
    some percent.

    Raises:
        ValueError: If that cannot be put right: it happens inside a function that is the user's own.
    """
    graph = tf.compat.v1.get_default_graph()
    reached = {inner.name for inner in _mended(graph)}
    for function in graph.as_graph_def().library.function:
        means = [node for node in function.node_def if _is_mean(node) and "_gradient_op_type" not in node.attr]
        if means and function.signature.name not in reached:
            raise ValueError(
                "a model that normalises (tf.nn.moments) where gradvis can reach it was wanted, but this one does so "
                f"inside a function of its own, {function.signature.name}; leave out its @tf.function"
            )


def _mended(graph: Any) -> Iterator[Any]:
    """The graph and the bodies of its loops and branches, each with its means let through."""
    yield graph
    for operation in graph.get_operations():
        if operation.type == "StopGradient" and _is_mean(operation):
            operation._gradient_function = _through_mean
        for kind in _INNER:
            if (inner := getattr(operation, kind, None)) is not None:
                yield from _mended(inner)


def _is_mean(operation: Any) -> bool:
    return bool(operation.name.endswith("moments/StopGradient"))
