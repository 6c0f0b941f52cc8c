"""Data files: `inputs` and `targets`, mapped into memory, so that the ranks of a machine share one copy.

A mapping is copy-on-write: whatever is written to it stays in this process and never reaches the file.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import safe_open

from gradvis.backends.pytorch.batch import is_array, leaves
from gradvis.backends.pytorch.reading import foreign
from gradvis.notes import note

_NAMES = ("inputs", "targets")
_LOCAL_HEADER = 30  # bytes of a zip member's own header before its name (APPNOTE.TXT 6.3.10, section 4.3.7)


def read_data(path: str | os.PathLike[str]) -> tuple[tuple[Any, Any], bool]:
    """The inputs and targets of a file, and whether they are mapped rather than read.

    Args:
        path: Of an `.npz` as `numpy.savez` writes it, a `.safetensors`, or a `.pt` with a dict of tensors; in
            the last the inputs may be nested.

    Raises:
        ValueError: If there is no such file, it is damaged, or it holds something else.
    """
    path = Path(path).expanduser()
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"a data file ends in {', '.join(_READERS)}, but {str(path)!r} came; numpy.savez('data.npz', inputs=..., "
            "targets=...) writes one"
        )
    if not path.is_file():
        raise ValueError(f"a data file was wanted, but {path} is {'a folder' if path.is_dir() else 'not there'}")
    try:
        return reader(path)
    except _ContentError as error:
        raise ValueError(f"{path} {error}") from None
    except (Exception, RecursionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if kind := foreign(error):
            reason = f"Weights only load failed: {kind}"
        raise ValueError(
            f"a {path.suffix} file with {' and '.join(_NAMES)} was wanted, but {path} cannot be read ({reason}); "
            "it may be cut short or damaged"
        ) from error


class _ContentError(ValueError):
    """What is wrong with a file that can be read."""


def _named(found: Iterable[str]) -> None:
    """See that both names are there.

    Raises:
        _ContentError: If one is not.
    """
    there = sorted(map(str, found))
    if missing := [name for name in _NAMES if name not in there]:
        shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
        raise _ContentError(f"has no {' and no '.join(missing)}, but {shown or 'nothing'}; save both under these names")


def _npz(path: Path) -> tuple[tuple[Any, Any], bool]:
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
        _named(members)
        inputs, targets = (_array(archive, path, members[name]) for name in _NAMES)
        mapped = all(members[name].compress_type == zipfile.ZIP_STORED for name in _NAMES)
    if not mapped:
        note(
            f"{path.name} is compressed, so each rank reads a copy of its own; numpy.savez, without compression, "
            "lets the ranks of a machine share one"
        )
    return (inputs, targets), mapped


def _array(archive: zipfile.ZipFile, path: Path, member: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    """A member as it lies in the file, or read if it is compressed.

    Raises:
        _ContentError: If it holds no numbers.
    """
    with archive.open(member) as stream:
        if member.compress_type != zipfile.ZIP_STORED:
            return np.lib.format.read_array(stream, allow_pickle=False)
        shape, by_column, dtype = _header(stream)
        start = _start(path, member) + stream.tell()
    if dtype.hasobject:
        raise _ContentError(f"holds Python objects under {member.filename.removesuffix('.npy')}; save numbers")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize == 0:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, mode="c", offset=start, shape=shape, order="F" if by_column else "C")


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


def _safetensors(path: Path) -> tuple[tuple[Any, Any], bool]:
    with safe_open(path, framework="pt") as file:
        _named(file.keys())
        return (file.get_tensor(_NAMES[0]), file.get_tensor(_NAMES[1])), True


def _torch(path: Path) -> tuple[tuple[Any, Any], bool]:
    mapped = zipfile.is_zipfile(path)  # torch before 1.6 wrote another kind of file, which cannot be mapped
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(content, dict):
        raise _ContentError(f"holds a {type(content).__name__}; save a dict with {' and '.join(_NAMES)}")
    _named(content)
    for path_, leaf in leaves([content[name] for name in _NAMES]):
        if not is_array(leaf):
            raise _ContentError(f"holds a {type(leaf).__name__} under {_NAMES[int(path_[1])]}; save tensors")
    return (content[_NAMES[0]], content[_NAMES[1]]), mapped


_READERS: dict[str, Callable[[Path], tuple[tuple[Any, Any], bool]]] = {
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".pt": _torch,
}
