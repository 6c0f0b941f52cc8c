"""What of a model is recorded at a step, its way to the host, and back by the model's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import reduce
from typing import Any

import numpy as np
import tensorflow as tf

from gradvis.arrays import Vector
from gradvis.backends.tf.layers import moved_variables, names_of, weights_of
from gradvis.notes import note
from gradvis.objective import Reader
from gradvis.provenance import digest
from gradvis.recording import Recorded
from gradvis.rows import Plan, place_parts

_STORED = (tf.float16, tf.float32, tf.float64)

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
        if not self.parameters:
            raise ValueError(
                f"no parameter matches {', '.join(map(repr, patterns))}; there are {_listed(names.values())}: give a "
                "glob such as 'dense*/kernel', or leave it out"
            )
        self.dtype = _storage(self.parameters.values(), dtype)
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
        """Parameters (d,), in `spare` if that is given, and the bytes of buffers.

        Raises:
            ValueError: If the model has other variables than at the start.
        """
        if [id(v) for v in weights_of(self._model)] != self._all:
            raise ValueError("the model has other parameters or buffers than at the start; record it anew")
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
    if kept:
        note(
            f"{recorded.recording.path.name} has not {_listed(sorted(kept))} ({len(kept)} in all): these stay as the "
            "model has them"
        )
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
    stops = np.cumsum([_size(v) for v in moved])

    def read(part: slice) -> Vector:
        pieces: list[tuple[int, int] | Vector] = []
        for variable, stop in zip(moved, stops.tolist(), strict=True):
            start = stop - _size(variable)
            first, last = max(part.start, start) - start, min(part.stop, stop) - start
            if first >= last:
                continue
            if (name := names[id(variable)]) in kept:
                pieces.append(variable.numpy().reshape(-1)[first:last])
                continue
            place = blocks[name].start + first, blocks[name].start + last
            before = pieces[-1] if pieces else None
            if isinstance(before, tuple) and before[1] == place[0]:  # one reading for what lies together
                pieces[-1] = before[0], place[1]
            else:
                pieces.append(place)
        found = [recorded.parameters(*each) if isinstance(each, tuple) else each for each in pieces]
        return np.concatenate([np.empty(0, dtype), *(each.astype(dtype, copy=False) for each in found)])

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


def _storage(values: Any, dtype: Any) -> tf.DType:
    """In which dtype all parameters are stored.

    Raises:
        ValueError: If a dtype is asked for that NumPy does not have.
    """
    if dtype is None:
        own = (found if (found := _dtype(v)) in _STORED else tf.float32 for v in values)
        return reduce(lambda one, other: one if one.size >= other.size else other, own)
    for known in _STORED:
        if known.name == (dtype if isinstance(dtype, str) else tf.as_dtype(dtype).name):
            return known
    raise ValueError(f"dtype must be one of {', '.join(k.name for k in _STORED)}, but {dtype} came; leave it out")


def _kept(variable: Any) -> tf.DType:
    """In which dtype a buffer's bytes are: its own, or float32 where NumPy has none such (bfloat16)."""
    dtype = _dtype(variable)
    return tf.float32 if dtype.is_floating and dtype not in _STORED else dtype


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


def _listed(names: Any) -> str:
    """The first three."""
    shown = list(names)
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")
