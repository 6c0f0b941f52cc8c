"""Writes a recording, row after row; a kill at any moment leaves one that opens and can be continued."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from math import ceil, nan
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from gradvis import folder
from gradvis.arrays import Values, Vector
from gradvis.chunks import Column, rewrite
from gradvis.folder import FORMAT, StoreError, explained, restored
from gradvis.layout import open_array
from gradvis.provenance import differences, versions
from gradvis.recording import BIG, KIND, SMALL, Part, valid_rows

INNER = 2**19  # bytes of an inner chunk, at most: what is read for a slice of a step
_SMALL_CHUNK, _SMALL_ROWS = 2**17, 1024  # bytes and rows: rewritten with every row, yet few files
_METADATA = 2**16  # bytes of zarr.json, more than enough


@dataclass
class Row:
    """A step of training, on its way into a recording.

    Attributes:
        step: How many optimizer steps had been taken.
        parameters: (d,), in the dtype of storage.
        buffers: Raw bytes, (bytes,).
        gradient_norm: Euclidean, of each parameter, (layers,); NaN where it has no gradient,
            inf where one is not finite.
        learning_rate: Of each parameter group, (groups,).
        loss: Of the step's batch; NaN where it is not known.
    """

    step: int
    parameters: Vector
    buffers: np.ndarray
    gradient_norm: Values
    learning_rate: Values
    loss: float = nan


@dataclass(frozen=True)
class Plan:
    """What is recorded of a model at each step.

    Attributes:
        parameters: In the order of the flat vector.
        buffers: In the order of their bytes.
        dtype: In which parameters are stored.
        groups: How many parameter groups the optimizer has; 1 if there is none.
        left_out: Names of what is not recorded, and stays as a model has it when the recording is read.
    """

    parameters: tuple[Part, ...]
    buffers: tuple[Part, ...]
    dtype: str
    groups: int
    left_out: tuple[str, ...] = ()

    @property
    def d(self) -> int:
        """How many parameters are recorded."""
        return self.parameters[-1].stop

    @property
    def bytes(self) -> int:
        """How many bytes of buffers are recorded."""
        return self.buffers[-1].stop if self.buffers else 0

    @property
    def row_bytes(self) -> int:
        """What a recorded step takes in memory, and but for checksums on disk."""
        return self.d * np.dtype(self.dtype).itemsize + self.bytes

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a recording to be continued."""
        return {
            "parameters": {part.name: _words(part) for part in self.parameters},
            "buffers": {part.name: _words(part) for part in self.buffers},
            "stored as": self.dtype,
            "parameter groups": self.groups,
        }


class Rows:
    """The rows of a recording that is being written.

    Attributes:
        path: Its folder.
        segment: Which of the runs that were continued writes, from 0.
        used: Bytes on disk by now, at most.
        row_bytes: What one more row adds to them.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._inode = path, folder.inode(path)
        for partial in path.rglob("*.partial"):  # as a kill leaves them
            partial.unlink(missing_ok=True)
        group = zarr.open_group(path, mode="r+")
        arrays = [open_array(group, name) for name in (*BIG, *SMALL) if name in group]
        self._count = valid_rows(np.asarray(arrays[-1][...]))
        self.segment = int(np.asarray(open_array(group, "segment")[: self._count]).max(initial=-1)) + 1
        for array in arrays:
            array.resize((self._count, *array.shape[1:]))  # forget a row that was cut off
        self._columns = [Column(path, array, self._count) for array in arrays]
        self.row_bytes = sum(column.row_bytes for column in self._columns)
        small = [column.chunk_bytes for column in self._columns if column.name in SMALL]  # whole from the first row on
        self.used = _size(path) + sum(small) + _METADATA

    def append(self, row: Row) -> None:
        """Write a row; it counts when its step is there, which is written last.

        Raises:
            StoreError: If the folder is not the one that was opened.
        """
        if folder.inode(self.path) != self._inode:
            raise StoreError(f"the folder {self.path.name} is not there any more")
        values = {**vars(row), "finite": np.isfinite(row.parameters).all(), "segment": self.segment}
        for column in self._columns:
            column.grow(self._count + 1)
        for column in self._columns:  # the step last: see SMALL
            column.write(self._count, values[column.name])
        self._count += 1

    def say(self, **facts: Any) -> None:
        """Add to what the recording says of itself."""

        def added(said: dict[str, Any]) -> dict[str, Any]:
            said["attributes"]["gradvis"] |= facts
            return said

        rewrite(self.path / "zarr.json", added)


def begin(
    path: str | os.PathLike[str],
    plan: Plan,
    objective: str | None,
    step: int | None,
    fresh: bool,
    check: Callable[[Rows], object],
) -> Rows:
    """A new recording, or one that is there to go on with.

    Args:
        path: Its folder.
        plan: What a row has.
        objective: The objective that it names.
        step: From which training step an earlier recording is continued; None if it is not to be.
        fresh: Move an earlier one aside.
        check: Raises if it is not to be begun; then all stays as it was.

    Raises:
        StoreError: If something is there and it is not said what to do with it, or it is of another model.
        RefusedError: If the system refuses.
    """
    where = restored(path)
    with explained(f"cannot write {where.name}", "make room or mend the folder, or give another out"):
        vacant = folder.is_vacant(where)
        if not vacant and not fresh:
            return _continued(where, plan, objective, step, check)
        with folder.building(where) as new:
            _create(new, plan, objective)
            check(Rows(new))
            if not vacant:
                folder.move_aside(where)
            if not folder.arrived(new, where):
                raise StoreError(f"another run has made {where.name} meanwhile; give another out")
    return Rows(where)


def _continued(
    where: Path, plan: Plan, objective: str | None, step: int | None, check: Callable[[Rows], object]
) -> Rows:
    about = folder.read_about(where)
    if about["kind"] != KIND:
        raise StoreError(f"{where.name} holds a {about['kind']}, not a recording; give another out")
    if step is None:
        raise StoreError(
            f"{where.name} is there already; give step=N to go on with it from training step N, or fresh=True "
            "to move it aside"
        )
    if found := differences(about["identity"], plan.identity):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise StoreError(
            f"{where.name} was recorded of another model: {found[0]}{more}; give another out, or fresh=True to move "
            "it aside"
        )
    check(rows := Rows(where))
    first = about.get("first_nonfinite")
    kept = first if first is not None and first < step else None
    rows.say(complete=False, first_nonfinite=kept, objective=objective or about.get("objective"))
    return rows


def _create(new: Path, plan: Plan, objective: str | None) -> None:
    about = {"format": FORMAT, "kind": KIND, "complete": False, "identity": plan.identity, "versions": versions()}
    about |= {"objective": objective, "left_out": list(plan.left_out), "first_nonfinite": None}
    group = zarr.create_group(new, attributes={"gradvis": about})
    chunks = ceil(plan.d * np.dtype(plan.dtype).itemsize / INNER)
    side = ceil(plan.d / chunks)
    _array(group, "parameters", "parameter", plan.d, plan.dtype, np.nan, (1, side), (1, side * chunks))
    group["parameters"].update_attributes({"parts": [asdict(part) for part in plan.parameters]})
    if plan.buffers:
        _array(group, "buffers", "byte", plan.bytes, "uint8", 0, (1, plan.bytes))
        group["buffers"].update_attributes({"parts": [asdict(part) for part in plan.buffers]})
    _array(group, "learning_rate", "group", plan.groups, "float64", np.nan)
    _array(group, "gradient_norm", "layer", len(plan.parameters), "float64", np.nan)
    group["gradient_norm"].update_attributes({"layers": [part.name for part in plan.parameters]})
    for name, dtype, fill in (("loss", "float64", np.nan), ("finite", "bool", True), ("segment", "int64", 0)):
        _array(group, name, "", 1, dtype, fill)
    _array(group, "step", "", 1, "int64", -1)


def _array(
    group: zarr.Group,
    name: str,
    dim: str,
    width: int,
    dtype: str,
    fill: Any,
    chunks: tuple[int, ...] = (),
    shards: tuple[int, ...] | None = None,
) -> None:
    """An array without rows: (0, width) along `step` and `dim`, or (0,) without a `dim`."""
    rows = max(1, min(_SMALL_ROWS, _SMALL_CHUNK // (width * np.dtype(dtype).itemsize)))
    group.create_array(
        name,
        shape=(0, width) if dim else (0,),
        chunks=chunks or ((rows, width) if dim else (rows,)),
        shards=shards,
        dtype=dtype,
        dimension_names=("step", dim) if dim else ("step",),
        fill_value=fill,
        compressors=Crc32cCodec(),  # tells a torn chunk; weights hardly compress
        chunk_key_encoding={"name": "default", "separator": "."},
    )


def place_parts(sizes: Iterable[tuple[str, tuple[int, ...], str, int]]) -> tuple[Part, ...]:
    """One after the other: from name, shape, dtype and length to parts.

    >>> [part.slice for part in place_parts([("a", (2, 3), "float32", 6), ("b", (2,), "float32", 2)])]
    [slice(0, 6, None), slice(6, 8, None)]
    """
    found: list[Part] = []
    for name, shape, dtype, length in sizes:
        start = found[-1].stop if found else 0
        found.append(Part(name, shape, dtype, start, start + length))
    return tuple(found)


def _words(part: Part) -> str:
    return f"{' x '.join(map(str, part.shape)) or 'a number'} {part.dtype}"


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
