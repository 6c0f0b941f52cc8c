"""Chunks of Zarr arrays that grow by a row at a time: uncompressed, with checksums, written in the calling thread.

zarr itself hands every write to an event loop and a pool of threads, which takes tens of milliseconds for a row of
small arrays, and is not possible any more while the interpreter ends. What is written here is read by zarr.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c  # as zarr does
import numpy as np

from gradvis.layout import Array


class Column:
    """An array with a row a step, and its files.

    Attributes:
        name: Of the array.
        row_bytes: What a row takes on disk, its share of a chunk of several.
        chunk_bytes: What the file of a chunk takes.
    """

    def __init__(self, where: Path, array: Array, rows: int) -> None:
        self.name, self._where, self._array = array.basename, where / array.basename, array
        self._rows = (array.shards or array.chunks)[0]
        start = rows - rows % self._rows  # the chunk that the next row lies in
        self._open = np.full((self._rows, *array.shape[1:]), array.metadata.fill_value, array.dtype)
        self._open[: rows - start] = array[start:rows]
        self.chunk_bytes = file_bytes(array)
        self.row_bytes = -(-self.chunk_bytes // self._rows)

    def grow(self, rows: int) -> None:
        """Say in the metadata how many rows there are."""
        rewrite(self._where / "zarr.json", lambda said: {**said, "shape": [rows, *said["shape"][1:]]})

    def write(self, row: int, values: Any) -> None:
        """Write the chunk of a row, with the earlier rows that lie in it."""
        if row % self._rows == 0:
            self._open[...] = self._array.metadata.fill_value
        self._open[row % self._rows] = values
        _write(self._file(row), _shard(self._open, self._array) if self._array.shards else _chunk(self._open))

    def _file(self, row: int) -> Path:
        return file_of(self._where.parent, self._array, row)


def file_of(where: Path, array: Array, row: int) -> Path:
    """Where the chunk or shard of a row lies in the folder of a group."""
    at = (row // (array.shards or array.chunks)[0], 0)[: array.ndim]
    return where / array.basename / array.metadata.encode_chunk_key(at)


def file_bytes(array: Array) -> int:
    """How long the file of a chunk or shard is, for nothing is compressed: with 4 bytes of checksum a chunk."""
    chunk = prod(array.chunks) * array.dtype.itemsize + 4
    if not array.shards:
        return chunk
    count = prod(array.shards) // prod(array.chunks)
    return count * (chunk + 16) + 4


def rewrite(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change a file of metadata; a kill leaves the old or the new one."""
    _write(file, [json.dumps(change(json.loads(file.read_bytes())), indent=2).encode()])


def _chunk(values: np.ndarray) -> list[bytes | memoryview]:
    """Little-endian bytes and their checksum (Zarr 3, codecs bytes and crc32c)."""
    raw = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
    return [raw.data, _checksum(raw)]


def _shard(values: np.ndarray, array: Array) -> list[bytes | memoryview]:
    """The chunks of a row, and where each lies: offset and length (Zarr 3, codec sharding_indexed)."""
    side, whole = array.chunks[1], array.shape[1]
    short = np.full(side, array.metadata.fill_value, array.dtype)  # the last chunk, filled up
    short[: whole % side] = values[0, whole - whole % side :]
    pieces = [values[0, start : start + side] for start in range(0, whole - side + 1, side)]
    pieces += [short] * (whole % side > 0)
    length = side * array.dtype.itemsize + 4
    index = np.array([(number * length, length) for number in range(len(pieces))], "<u8")
    return [part for piece in pieces for part in _chunk(piece)] + _chunk(index)


def _checksum(raw: np.ndarray) -> bytes:
    found: int = google_crc32c.value(raw)
    return found.to_bytes(4, "little")


def _write(file: Path, parts: list[bytes | memoryview]) -> None:
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("wb") as target:
        target.writelines(parts)
    partial.replace(file)
