"""Leaves everything of the user's as it was found: variables, layers, random generators, flags of the process."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gradvis import machine
from gradvis.notes import note

Tensor = Any  # TensorFlow has no types of its own
_LOSSES = ("_losses", "_loss_ids")  # what a layer has added to the loss; Keras empties both where it stands


@contextmanager
def untouched(device: str) -> Iterator[None]:
    """Inside: IEEE float32 on one device; afterwards, also after an exception: everything as found.

    Variables need no putting back: they are never written to. Python's and NumPy's generators do, for tracing runs
    the user's own Python code.
    """
    precision = tf.config.experimental
    python, numpy, tf32 = random.getstate(), np.random.get_state(), precision.tensor_float_32_execution_enabled()  # noqa: NPY002 - it is the user's, to be put back
    try:
        precision.enable_tensor_float_32_execution(False)
        with tf.device(device):
            yield
    finally:
        precision.enable_tensor_float_32_execution(tf32)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def device_name(wanted: str | None, local_rank: int = 0) -> str:
    """TensorFlow's name for `auto`, `cpu`, `cuda` or `cuda:N`; without N, the local rank modulo those there are.

    Raises:
        ValueError: If this machine has no such device.
    """
    kind, _, number = (wanted or "auto").partition(":")
    gpus: list[Any] = tf.config.list_logical_devices("GPU")
    if kind == "cpu" or (kind == "auto" and not gpus):
        return "/CPU:0"
    index = int(number) if number.isdigit() else local_rank % max(len(gpus), 1)
    if kind in {"auto", "cuda"} and index < len(gpus):
        return f"/GPU:{index}"
    found = ["cpu", *(f"cuda:{each}" for each in range(len(gpus)))]
    raise ValueError(
        f"device must be auto or one of {', '.join(found)}, which TensorFlow sees here, but {wanted!r} came"
    )


def thread_count(wanted: int | None) -> int:
    """How many threads an operation runs in; a note says so if that is not what was asked for."""
    threading = tf.config.threading
    has = threading.get_intra_op_parallelism_threads()
    if wanted is not None and wanted != has:
        try:
            threading.set_intra_op_parallelism_threads(wanted)
            return wanted
        except RuntimeError:  # it is too late: TensorFlow makes its threads once
            came = f"with {has}" if has else "with as many as it found CPUs"
            note(
                f"TensorFlow runs {came}, for it had started before threads={wanted} came; call "
                f"tf.config.threading.set_intra_op_parallelism_threads({wanted}) before the model is made"
            )
    return has or len(machine.affinity())


# ---------------------------------------------------------------------- while a graph is traced


@contextmanager
def standing_in(model: Any, values: Mapping[int, Tensor]) -> Iterator[Any]:
    """Inside, variables have these values; what the model assigns to them is seen inside only.

    Args:
        model: A `keras.Model` or a `tf.Module`.
        values: By the ids of its variables.

    Yields:
        A `keras.StatelessScope`: where Keras variables have their values.
    """
    with ExitStack() as stack:
        scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)
        scope.state_mapping.update(values)  # its constructor would cast them to the dtype of their variables
        if not isinstance(model, keras.Model):
            for variable in model.variables:
                stack.enter_context(_replaced(variable, values[id(variable)]))
        stack.enter_context(remembered(parts(model)))
        stack.enter_context(_functions_inlined())
        yield stack.enter_context(scope)


def parts(model: Any) -> list[Any]:
    """The model and all layers or modules in it."""
    return list(model._flatten_layers()) if isinstance(model, keras.Model) else [model, *model.submodules]


@contextmanager
def _replaced(variable: Any, value: Tensor) -> Iterator[None]:
    """A `tf.Variable` that is read as a tensor, and written to as one."""
    now = [value]

    def write(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        def assign(value: Any, *_: Any, **__: Any) -> Tensor:
            now[0] = change(now[0], tf.convert_to_tensor(value, now[0].dtype))
            return now[0]

        return assign

    methods = {
        "_read_variable_op": lambda no_copy=False: now[0],
        "sparse_read": lambda indices, name=None: tf.gather(now[0], indices),
        "gather_nd": lambda indices, name=None: tf.gather_nd(now[0], indices),
        "assign": write(lambda _, given: given),
        "assign_add": write(lambda old, given: old + given),
        "assign_sub": write(lambda old, given: old - given),
    }
    vars(variable).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(variable)[name]


@contextmanager
def remembered(objects: Iterable[Any]) -> Iterator[None]:
    """Afterwards, the attributes of these objects are what they were.

    Layers note down what they were called with, and some keep the tensors of their last call.
    """
    found = [(vars(each), dict(vars(each)), [copy(vars(each).get(name, [])) for name in _LOSSES]) for each in objects]
    try:
        yield
    finally:
        for now, before, losses in found:
            for name in [name for name in now if name not in before or now[name] is not before[name]]:
                if name in before:
                    now[name] = before[name]
                else:
                    del now[name]
            for name, values in zip(_LOSSES, losses, strict=True):
                if name in now:
                    now[name].clear()
                    (now[name].update if isinstance(values, set) else now[name].extend)(values)


@contextmanager
def _functions_inlined() -> Iterator[None]:
    """Inside, calls of a `tf.function` trace its Python anew: what it was traced to before reads the variables."""
    found = tf.config.functions_run_eagerly()
    try:
        tf.config.run_functions_eagerly(True)
        yield
    finally:
        tf.config.run_functions_eagerly(found)


@contextmanager
def computing_in(model: Any, dtype: str | None) -> Iterator[None]:
    """Inside, all layers of a Keras model compute in another dtype.

    Args:
        model: Whose layers do.
        dtype: Its name; None leaves them as they are.
    """
    if dtype is None:
        yield
        return
    layers = parts(model)
    graphs = [graph for layer in layers for graph in (layer, getattr(layer, "_functional", None))]
    inputs = {id(each): each for graph in graphs for each in getattr(graph, "_inputs", None) or ()}
    floats = [each for each in inputs.values() if each.dtype.startswith(("float", "bfloat"))]
    found = [(layer, layer._dtype_policy) for layer in layers], [(each, each._dtype) for each in floats]
    try:
        for layer in layers:
            vars(layer)["_dtype_policy"] = _policy(dtype, layer.variable_dtype)
        for each in floats:
            each._dtype = "float64" if dtype == "float64" else "float32"
        yield
    finally:
        for layer, before in found[0]:
            vars(layer)["_dtype_policy"] = before
        for each, before in found[1]:
            each._dtype = before


def _policy(dtype: str, variables: str) -> keras.DTypePolicy:
    """One that differs from that of the variables, so that Keras casts what it reads of them."""
    policy = keras.DTypePolicy(dtype)
    policy._variable_dtype = variables
    return policy


def in_graphs(model: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """With Python control flow as graphs want it, as `tf.function` does it; Keras models are written without."""
    if isinstance(model, keras.Model):
        return function
    autograph = tf.__internal__.autograph
    found: Callable[..., Any] = autograph.tf_convert(function, autograph.control_status_ctx())
    return found
