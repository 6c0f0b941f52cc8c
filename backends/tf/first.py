"""What is settled before anything is measured: in which dtype, what a sample costs, which columns there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gradvis.arrays import Values
from gradvis.backends.given import check_dtype
from gradvis.backends.tf.compute import Graphs, Traced
from gradvis.backends.tf.data import Batches, size
from gradvis.backends.tf.layers import compute_dtype
from gradvis.backends.tf.room import activation_bytes
from gradvis.notes import note

Tensor = Any
# Kinds of operations that keep a state; those of keras.random and tf.random.stateless_... get theirs as an input.
_DRAWING = ("Random", "Stateful", "TruncatedNormal", "ParameterizedTruncatedNormal", "Multinomial", "NonDeterministic")


def dtypes(model: Any, moved: list[Any], dtype: str | None) -> tuple[str, str | None]:
    """The dtype of the flat vector, float32 at least, and that in which layers are made to compute, if another.

    Args:
        model: The user's.
        moved: The variables of the vector.
        dtype: The one asked for, if any.

    Raises:
        ValueError: If a model without layers should change its own.
    """
    check_dtype(dtype)
    own = "float64" if any(v.dtype in {"float64", tf.float64} for v in moved) else "float32"
    if dtype is None:
        return own, None
    wide = "float64" if dtype == "float64" else "float32"
    if not isinstance(model, keras.Model):
        if dtype != own:
            raise ValueError(
                f"this tf.Module computes in {own}, but dtype={dtype!r} came; make its variables in that dtype"
            )
        return own, None
    return wide, None if compute_dtype(model) == dtype else dtype


def first_look(graphs: Graphs, dtype: str, data: Batches, *point: Any) -> Values:
    """Run the model on the first batch: the moments of every term, (q, 6).

    Args:
        graphs: Of the model; their `facts` are set.
        dtype: What the user asked for.
        data: Its first batch is looked at.
        *point: Where, (d,), and the buffers.

    Raises:
        ValueError: If the model cannot compute in the dtype that was asked for, or the loss does not take what the
            model gives.
        TypeError: What the model itself raises; so are other errors.
        OpError: What TensorFlow raises.
    """
    number, batch = next(iter(data))
    arguments = (*point, tf.constant(number), batch)
    try:
        graph = graphs.look.of(*arguments)
        outputs, sums = _run(graphs, graph, arguments)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        if graphs.computes is None:
            raise
        policy = {"bfloat16": "mixed_bfloat16"}.get(dtype, dtype)
        raise ValueError(
            f"a model whose layers can compute in {dtype} was wanted, but not all of these can "
            f"({type(error).__name__}); build it in that dtype: keras.config.set_dtype_policy({policy!r})"
        ) from error
    operations = graph.graph.get_operations()
    _see_that_it_repeats(graph.graph, operations)
    if graphs.computes == "float64" and any(map(_narrows, operations)):
        note("a part of this model computes in float32 whatever the dtype: its last digits are those of float32")
    graphs.facts.sample_bytes = max(activation_bytes(operations, size(batch)), 1)
    if graphs.criterion.sees_outputs:
        graphs.criterion.check(outputs, batch)
    return np.asarray(sums)


def _run(graphs: Graphs, graph: Any, arguments: Any) -> Any:
    """What the graph gives; where it raises, what is wrong with the targets has the first word.

    Raises:
        InvalidArgumentError: If it does for another reason.
    """
    try:
        return graph(*arguments)
    except tf.errors.InvalidArgumentError:
        if graphs.criterion.sees_outputs:
            graphs.criterion.check(Traced(graphs.outputs_of)(*arguments), arguments[-1])
        raise


def _see_that_it_repeats(graph: Any, operations: Sequence[Any]) -> None:
    """See that nothing draws random numbers of a state that goes on from call to call.

    Raises:
        ValueError: If something does.
    """
    inner = {node.op for function in graph.as_graph_def().library.function for node in function.node_def}
    if drawing := sorted(kind for kind in inner | {each.type for each in operations} if _draws(kind)):
        raise ValueError(
            "a model that gives the same each time was wanted, but this one draws anew "
            f"({', '.join(drawing)}); draw with keras.random and a keras.random.SeedGenerator of the model's own"
        )


def _draws(kind: str) -> bool:
    """Whether operations of a kind do; the function calls among them are looked into."""
    return kind.startswith(_DRAWING) and not kind.startswith("StatefulPartitionedCall")


def _narrows(operation: Any) -> bool:
    """Whether it makes single precision of double precision."""
    if operation.type != "Cast":
        return False
    return bool(operation.inputs[0].dtype == tf.float64 and operation.outputs[0].dtype == tf.float32)


def compiles(graphs: Graphs, *arguments: Any) -> bool:
    """Whether XLA compiles the model and finds the same; a note says if it does not."""
    none = tf.zeros((len(graphs.names), 6), tf.float64)
    wanted = graphs.plain(none, *arguments).numpy()
    try:
        found = graphs.measure(none, *arguments).numpy()
    except Exception as error:  # whatever kind it is: what the model itself raises came before
        note(f"the forward pass is not compiled, as XLA raises {type(error).__name__} for this model")
        return False
    near = 10 * np.finfo(graphs.dtype).eps ** 0.5
    if np.allclose(found, wanted, rtol=near, atol=near, equal_nan=True):
        return True
    note("the forward pass is not compiled, as XLA gives other numbers for this model")
    return False
