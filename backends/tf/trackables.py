"""Checkpoints of TensorFlow's own form, matched with a model: `tf.train.Checkpoint`, SavedModel; nothing is assigned.

Such a file has a graph of the objects that were saved: nodes with named children, and under which key each variable's
numbers lie. The same walk over the model tells which variable is meant by which node.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from gradvis.backends.tf.layers import names_of, weights_of
from gradvis.backends.tf.programs import Program

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"


def from_checkpoint(model: Any, prefix: Path, key: str | None = None) -> dict[int, np.ndarray]:
    """Values by the id of the model's variable; of one that the checkpoint does not have, none.

    Args:
        model: A `keras.Model` or a `tf.Module`.
        prefix: What `tf.train.Checkpoint` returned, or its folder, for the last one in it.
        key: Under which name the model was saved: `tf.train.Checkpoint(generator=...)`.

    Raises:
        ValueError: If it is no such checkpoint, if no object in it is this model, or if several are.
    """
    reader, nodes = _opened(prefix)
    shapes, wanted = reader.get_variable_to_shape_map(), weights_of(model)
    found = {where: _matched(model, nodes, start) for where, start in _walk(nodes) if _meant(where, key)}
    missing = {where: [v for v in wanted if not _has(shapes, keys.get(id(v)), v)] for where, keys in found.items()}
    fits = {tuple(keys[id(v)] for v in wanted): where for where, keys in found.items() if not missing[where]}
    if not fits:
        raise ValueError(f"{prefix} does not fit the model: {_wrong(model, missing, key, nodes)}")
    if len(fits) > 1:
        shown = ", ".join(where or "the top" for where in fits.values())
        raise ValueError(f"several states of {prefix} fit the model ({shown}); give one as key (--key)")
    with _whole(prefix):
        return {id(v): reader.get_tensor(name) for v, name in zip(wanted, next(iter(fits)), strict=True)}


def _has(shapes: dict[str, Any], name: str | None, variable: Any) -> bool:
    return name in shapes and tuple(shapes[name]) == tuple(variable.shape)


def _wrong(model: Any, missing: dict[str, list[Any]], key: str | None, nodes: Any) -> str:
    """What the object that comes nearest to the model has not."""
    if not missing:
        return f"nothing was saved under {key}, but {', '.join(sorted(_children(nodes, 0)))}; give one of these as key"
    where = min(missing, key=lambda where: len(missing[where]))
    names = names_of(model)
    shown = ", ".join(f"{names[id(v)]} {tuple(v.shape)}" for v in missing[where][:3])
    more = ", ..." if len(missing[where]) > 3 else ""
    return (
        f"{where or 'the top'} has not {shown}{more}; give the objective of the network that it was saved from, or "
        "save it as .weights.h5 (tf.train.Checkpoint leaves out Keras layers that lie in a list of a model)"
    )


def is_export(folder: Path) -> bool:
    """Whether `model.export` wrote a SavedModel: that lists the variables, but not to which layer they belong.

    Raises:
        ValueError: If it is damaged.
    """
    with _whole(folder):
        names = [name for name, _ in tf.train.list_variables(str(folder / "variables" / "variables"))]
    return any(name.startswith("_all_variables/") for name in names)


def from_export(model: Any, folder: Path) -> dict[int, np.ndarray]:
    """The same of what `model.export` wrote, which has a list of all variables in the model's order.

    Raises:
        ValueError: If that is not this model's.
    """
    reader, nodes = _opened(folder / "variables" / "variables")
    listed = _children(nodes, _children(nodes, 0).get("variables", 0))
    there = [nodes[listed[str(place)]] for place in range(len(listed)) if str(place) in listed]
    measured = {id(v) for metric in getattr(model, "metrics", []) for v in metric.variables}
    own = [v for v in model.variables if id(v) not in measured]
    if isinstance(model, Program) and len(there) == model.count:  # it has those alone that its outputs depend on
        there = [there[model.listed[id(v)]] for v in own]
    stored, shapes = [_key(node) for node in there], reader.get_variable_to_shape_map()
    if [tuple(shapes.get(name, "?")) for name in stored] != [tuple(v.shape) for v in own]:
        raise ValueError(
            f"{folder} does not fit the model: it was exported with {len(stored)} variables of other shapes or in "
            f"another order than the model's {len(own)}; give a .weights.h5 or .keras file of the same network"
        )
    kept = {id(v) for v in weights_of(model)}
    with _whole(folder):
        return {id(v): reader.get_tensor(name) for v, name in zip(own, stored, strict=True) if id(v) in kept}


def _opened(prefix: Path) -> tuple[Any, Any]:
    """The reader of a checkpoint, and its nodes.

    Raises:
        ValueError: If there is none, it is damaged, or it is of TensorFlow 1.
    """
    with _whole(prefix):
        reader = tf.train.load_checkpoint(str(prefix))
        if not reader.has_tensor(_GRAPH):
            raise ValueError("it names no objects, as checkpoints of TensorFlow 1 do not")
        return reader, TrackableObjectGraph.FromString(reader.get_tensor(_GRAPH)).nodes


@contextmanager
def _whole(prefix: Path) -> Iterator[None]:
    """Inside, a checkpoint is read.

    Raises:
        ValueError: If that fails: TensorFlow raises by what it was doing when a file ended.
    """
    try:
        yield
    except (ValueError, RuntimeError, IndexError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"a checkpoint of tf.train.Checkpoint was wanted, but {prefix} is not one, or it is damaged "
            f"({reason:.200}); save it again"
        ) from error


def _meant(where: str, key: str | None) -> bool:
    return key is None or f"/{where}".endswith(f"/{key}")


def _children(nodes: Any, node: int) -> dict[str, int]:
    return {child.local_name: child.node_id for child in nodes[node].children}


def _key(node: Any) -> str:
    """Under which name the numbers of a variable lie; nothing for other objects."""
    return next((str(each.checkpoint_key) for each in node.attributes if each.name == _VALUE), "")


def _walk(nodes: Any) -> Iterator[tuple[str, int]]:
    """Every object with its shortest path, from the top."""
    queue, seen = [("", 0)], {0}
    for where, node in queue:
        yield where, node
        for name, child in _children(nodes, node).items():
            if child not in seen:
                seen.add(child)
                queue.append((f"{where}/{name}".lstrip("/"), child))


def _matched(model: Any, nodes: Any, start: int) -> dict[int, str]:
    """Keys by the id of the variable, where object and node have children of the same names."""
    found, queue, seen = {}, [(model, start)], {start}
    for thing, node in queue:
        if name := _key(nodes[node]):
            found[id(thing)] = name
        own = tf.train.TrackableView.children(thing)
        for child, there in _children(nodes, node).items():
            if child in own and there not in seen:
                seen.add(there)
                queue.append((own[child], there))
    return found
