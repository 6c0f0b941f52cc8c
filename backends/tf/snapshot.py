"""What of a model is recorded at a step, its way to the host, and back by the model's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import tensorflow as tf

from gradvis.arrays import Vector
from gradvis.backends.recorded import STORED, Place, check_any, check_unchanged, storage, tell_left_out
from gradvis.backends.recorded import slices as recorded_slices
from gradvis.backends.tf.layers import moved_variables, names_of, weights_of
from gradvis.objective import Reader
from gradvis.provenance import digest
from gradvis.recording import Recorded
from gradvis.rows import Plan, place_parts

Variables = dict[str, Any]


class Snapshots:
    """Takes a model's recorded variables, again and again.

    Attributes:
        parameters: What could be trained, frozen layers too, by name in the order of the flat vector.
        buffers: The rest of the state: moving statistics, and parameters that hold no floating numbers.
        dtype: In which parameters are stored.
    """

    def __init__(self, model: Any, patterns: Sequence[str], dtype: Any) -> None:
        self._model = model
        names, self._all = names_of(model), [id(v) for v in weights_of(model)]
        owned = {id(v) for v in moved_variables(model, include_frozen=True)}
        numbers = {names[id(v)]: v for v in weights_of(model) if _is_number(v)}
        self.parameters: Variables = {
            n: v for n, v in numbers.items() if id(v) in owned and any(fnmatchcase(n, each) for each in patterns)
        }
        self.buffers: Variables = {n: v for n, v in numbers.items() if id(v) not in owned}
        self._left_out = tuple(n for n in names.values() if n not in {**self.parameters, **self.buffers})
        check_any(self.parameters, patterns, names.values(), "dense*/kernel")
        asked = dtype if dtype is None or isinstance(dtype, str) else tf.as_dtype(dtype).name
        self.dtype = tf.as_dtype(storage((_dtype(v).name for v in self.parameters.values()), asked))
        self._read = tf.function(self._values, autograph=False)

    def plan(self, groups: int) -> Plan:
        """What a row has, of an optimizer with so many learning rates."""
        return Plan(
            parameters=place_parts((n, _shape(v), _dtype(v).name, _size(v)) for n, v in self.parameters.items()),
            buffers=place_parts(
                (n, _shape(v), _kept(v).name, _size(v) * _kept(v).size) for n, v in self.buffers.items()
            ),
            dtype=self.dtype.name,
            groups=groups,
            left_out=self._left_out,
        )

    def take(self, spare: Vector | None = None) -> tuple[Vector, np.ndarray]:
        """Parameters (d,), in `spare` if that is given, and the bytes of buffers."""
        check_unchanged([id(v) for v in weights_of(self._model)] == self._all)
        *values, raw = self._read()
        flat = (
            np.empty(sum(map(_size, self.parameters.values())), self.dtype.as_numpy_dtype) if spare is None else spare
        )
        pieces = np.split(flat, np.cumsum([_size(v) for v in self.parameters.values()])[:-1])
        for piece, value in zip(pieces, values, strict=True):  # without a copy on the way, where they lie on the host
            np.copyto(piece.reshape(value.shape), value)
        return flat, raw.numpy()

    def _values(self) -> list[Any]:
        """Parameters in the dtype of storage, and the bytes of all buffers."""
        raw = [tf.zeros(0, tf.uint8), *map(_raw, self.buffers.values())]
        return [*(tf.cast(v, self.dtype) for v in self.parameters.values()), tf.concat(raw, 0)]


def recorded_values(model: Any, recorded: Recorded) -> dict[int, np.ndarray]:
    """A recorded step's values by the id of the model's variable.

    What the recording left out is as the model has it, which is said. A name that it does not know is missing here,
    and shapes are as stored: it is the caller's to see that they fit.
    """
    found = recorded.tensors()
    kept = _left_out(model, recorded)
    return {
        key: found[name] if name in found else kept[name].numpy()
        for key, name in names_of(model).items()
        if name in found or name in kept
    }


def _left_out(model: Any, recorded: Recorded) -> Variables:
    """The variables that a recording of this model has not, by name."""
    named = set(recorded.recording.about.get("left_out") or ())
    names = names_of(model)
    kept = {names[id(v)]: v for v in weights_of(model) if names[id(v)] in named}
    tell_left_out(recorded.recording, kept)
    return kept


def slices(model: Any, moved: Sequence[Any], dtype: str, recorded: Recorded) -> Reader:
    """How a recorded step is read in parts, in the order of a model's vector.

    Args:
        model: Says which names are wanted; it is not touched. What was not recorded is as the model has it.
        moved: The variables that make up the vector.
        dtype: Of the vector.
        recorded: The step.

    Raises:
        ValueError: If it is of another architecture.
    """
    names, blocks, kept = names_of(model), recorded.recording.blocks, _left_out(model, recorded)
    for variable in moved:
        _check(names[id(variable)], variable, recorded, kept)
    stops = np.cumsum([_size(v) for v in moved]).tolist()

    def place(variable: Any, stop: int) -> Place:
        name = names[id(variable)]
        stored = None if name in kept else blocks[name].start
        return Place(stop - _size(variable), stop, stored, lambda part: variable.numpy().reshape(-1)[part])

    read = recorded_slices(list(map(place, moved, stops)), recorded.parameters, dtype)
    return Reader(read, _rest(model, moved, recorded))


def _check(name: str, variable: Any, recorded: Recorded, kept: Variables) -> None:
    part = recorded.recording.blocks.get(name)
    if part is None and name not in kept:
        raise ValueError(
            f"the checkpoint {recorded} has no {name!r}, which the model has; it is of another architecture"
        )
    if part is not None and part.shape != _shape(variable):
        raise ValueError(
            f"{recorded} does not fit the model: {name} is {part.shape}, not {_shape(variable)}; it is of another "
            "architecture"
        )


def _rest(model: Any, moved: Sequence[Any], recorded: Recorded) -> Callable[[], str]:
    """A digest of all that is no part of the vector."""

    def rest() -> str:
        inside, names = {id(v) for v in moved}, names_of(model)
        others = {names[id(v)]: v for v in weights_of(model) if id(v) not in inside}
        stored = recorded.tensors(set(others))
        values = (stored[name] if name in stored else value.numpy() for name, value in others.items())
        return digest(*(part for name, value in zip(others, values, strict=True) for part in (name.encode(), value)))

    return rest


def _is_number(variable: Any) -> bool:
    return _dtype(variable) not in {tf.string, tf.resource, tf.variant}


def _kept(variable: Any) -> tf.DType:
    """In which dtype a buffer's bytes are: its own, or float32 where NumPy has none such (bfloat16)."""
    dtype = _dtype(variable)
    return tf.float32 if dtype.is_floating and dtype.name not in STORED else dtype


def _raw(variable: Any) -> Any:
    value = tf.cast(variable, _kept(variable))
    value = tf.cast(value, tf.uint8) if value.dtype == tf.bool else tf.bitcast(value, tf.uint8)
    return tf.reshape(value, [-1])


def _dtype(variable: Any) -> tf.DType:
    return tf.as_dtype(variable.dtype)


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.shape)


def _size(variable: Any) -> int:
    return int(np.prod(_shape(variable), dtype=np.int64))
