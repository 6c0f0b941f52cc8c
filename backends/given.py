"""Data as every backend takes it, as far as no framework is needed: nests of arrays, files, subsets, what never ends.

A file is mapped into memory, so that the ranks of a machine share one copy. A mapping is copy-on-write: whatever is
written to it stays in this process and never reaches the file.
"""

from __future__ import annotations

import itertools
import json
import operator
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from gradvis.notes import note

Array = np.ndarray[Any, Any]
Reader = Callable[[Path], tuple[tuple[Any, Any], bool]]
NAMES = ("inputs", "targets")
DTYPES = ("float32", "float64", "bfloat16")
_LOCAL_HEADER = 30  # bytes of a zip member's own header before its name (APPNOTE.TXT 6.3.10, section 4.3.7)
_SAFE = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bfloat16", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


class ContentError(ValueError):
    """What is wrong with a file that can be read."""


# ---------------------------------------------------------------------------------------------- nests


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What a nest of mappings, tuples and lists holds, each with its path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}.{index}")
    else:
        yield path, value


def each(function: Callable[[Any], Any], value: Any) -> Any:
    """The same nest with every leaf replaced, in the order of `leaves`.

    >>> each(abs, {"a": (-1, [-2]), "b": -3})
    {'a': (1, [2]), 'b': 3}
    """
    if isinstance(value, Mapping):
        return {key: each(function, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [each(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return function(value)


# ---------------------------------------------------------------------------------------------- batches


def check_dtype(dtype: str | None) -> None:
    """See that it is one in which the forward pass can be computed, if any is asked for.

    Raises:
        ValueError: If it is not.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, but {dtype!r} came")


def choose(total: int, samples: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The numbers of so many samples, ascending, drawn without replacement.

    Raises:
        ValueError: If there are not so many.

    >>> choose(10, 4, seed=0).tolist()
    [2, 4, 5, 7]
    """
    if not 1 <= operator.index(samples) <= total:
        raise ValueError(f"samples must be from 1 to {total}, as many as the data has, but {samples} came")
    return np.sort(np.random.default_rng(seed).choice(total, samples, replace=False))


def check_shard(index: int, count: int) -> None:
    """See that there is such a part of the data.

    Raises:
        ValueError: If there is not.
    """
    if not 0 <= index < count:
        raise ValueError(f"a shard is numbered 0 to {count - 1}, but {index} came")


def refuse_endless(data: Any) -> None:
    """See that an iterator is none of those that never end.

    Raises:
        ValueError: If it is.
    """
    endless = isinstance(data, (itertools.cycle, itertools.count))
    if endless or (isinstance(data, itertools.repeat) and operator.length_hint(data, -1) < 0):
        raise ValueError(
            f"data that ends was wanted, but itertools.{type(data).__name__} never does; pass what goes round in it"
        )


# ---------------------------------------------------------------------------------------------- files


def listed(names: Iterable[str]) -> str:
    """The first three, as a user would type them.

    >>> listed(["", "fc.", "conv", "norm"])
    'the top, fc, conv, ...'
    """
    shown = [name.strip(".") or "the top" for name in names]
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_file(
    path: str | os.PathLike[str],
    readers: Mapping[str, Reader],
    reason: Callable[[Exception], str] = first_line,
) -> tuple[tuple[Any, Any], bool]:
    """The inputs and targets of a file, and whether they are mapped rather than read.

    Args:
        path: Of the file.
        readers: What reads it, by its suffix.
        reason: Why a reader could not, in words.

    Raises:
        ValueError: If there is no such file, it is damaged, or it holds something else.
    """
    path = Path(path).expanduser()
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"a data file ends in {', '.join(readers)}, but {str(path)!r} came; numpy.savez('data.npz', inputs=..., "
            "targets=...) writes one"
        )
    if not path.is_file():
        raise ValueError(f"a data file was wanted, but {path} is {'a folder' if path.is_dir() else 'not there'}")
    try:
        return reader(path)
    except ContentError as error:
        raise ValueError(f"{path} {error}") from None
    except (Exception, RecursionError) as error:
        raise ValueError(
            f"a {path.suffix} file with {' and '.join(NAMES)} was wanted, but {path} cannot be read ({reason(error)}); "
            "it may be cut short or damaged"
        ) from error


def named(found: Iterable[str]) -> None:
    """See that both names are there.

    Raises:
        ContentError: If one is not.
    """
    there = sorted(map(str, found))
    if missing := [name for name in NAMES if name not in there]:
        shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
        raise ContentError(f"has no {' and no '.join(missing)}, but {shown or 'nothing'}; save both under these names")


def read_npz(path: Path) -> tuple[tuple[Array, Array], bool]:
    """Of a file as `numpy.savez` writes it; one that is compressed is read whole.

    Raises:
        ContentError: If it holds no numbers under the two names.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
        named(members)
        inputs, targets = (_array(archive, path, members[name]) for name in NAMES)
        mapped = all(members[name].compress_type == zipfile.ZIP_STORED for name in NAMES)
    if not mapped:
        note(
            f"{path.name} is compressed, so each rank reads a copy of its own; numpy.savez, without compression, "
            "lets the ranks of a machine share one"
        )
    return (inputs, targets), mapped


def _array(archive: zipfile.ZipFile, path: Path, member: zipfile.ZipInfo) -> Array:
    """A member as it lies in the file, or read if it is compressed.

    Raises:
        ContentError: If it holds no numbers.
    """
    with archive.open(member) as stream:
        if member.compress_type != zipfile.ZIP_STORED:
            return np.lib.format.read_array(stream, allow_pickle=False)
        shape, by_column, dtype = _header(stream)
        start = _start(path, member) + stream.tell()
    if dtype.hasobject:
        raise ContentError(f"holds Python objects under {member.filename.removesuffix('.npy')}; save numbers")
    return _mapped(path, dtype, start, shape, "F" if by_column else "C")


def _mapped(path: Path, dtype: np.dtype[Any], start: int, shape: tuple[int, ...], order: Any = "C") -> Array:
    if int(np.prod(shape, dtype=object)) * dtype.itemsize == 0:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, mode="c", offset=start, shape=shape, order=order)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and kind (NumPy's NEP 1)."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _start(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin in the file."""
    with path.open("rb") as file:
        file.seek(member.header_offset + _LOCAL_HEADER - 4)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return member.header_offset + _LOCAL_HEADER + name + extra


def read_safetensors(path: Path) -> tuple[tuple[Array, Array], bool]:
    """Of a file of safetensors: eight bytes of length, a header in JSON, the numbers (the format's README).

    Raises:
        ContentError: If one of the two names is not there, or numbers of its kind are not known.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ContentError("is cut short or damaged; write it again")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    named(header)
    inputs, targets = (_tensor(path, 8 + length, name, header[name]) for name in NAMES)
    return (inputs, targets), True


def _tensor(path: Path, start: int, name: str, entry: Mapping[str, Any]) -> Array:
    """A tensor as it lies in the file.

    Raises:
        ContentError: If its numbers are of no known kind, or do not fill their place.
    """
    if entry["dtype"] not in _SAFE:
        raise ContentError(f"holds {entry['dtype']} numbers under {name}; save floats or integers")
    dtype, shape = np.dtype(_SAFE[entry["dtype"]]).newbyteorder("<"), tuple(map(int, entry["shape"]))
    low, high = map(int, entry["data_offsets"])
    if high - low != int(np.prod(shape, dtype=object)) * dtype.itemsize or low < 0 or min(shape, default=0) < 0:
        raise ContentError(f"does not hold as many numbers under {name} as its header says; write it again")
    return _mapped(path, dtype, start + low, shape)
