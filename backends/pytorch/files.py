"""Data files: `inputs` and `targets`, mapped into memory, so that the ranks of a machine share one copy."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from gradvis.backends.given import NAMES, ContentError, first_line, leaves, named, read_file, read_npz
from gradvis.backends.pytorch.batch import is_array
from gradvis.backends.pytorch.reading import foreign


def read_data(path: str | os.PathLike[str]) -> tuple[tuple[Any, Any], bool]:
    """The inputs and targets of a file, and whether they are mapped rather than read.

    Args:
        path: Of an `.npz` as `numpy.savez` writes it, a `.safetensors`, or a `.pt` with a dict of tensors; in
            the last the inputs may be nested.

    Raises:
        ValueError: If there is no such file, it is damaged, or it holds something else.
    """
    return read_file(path, {".npz": read_npz, ".safetensors": _safetensors, ".pt": _torch}, _reason)


def _reason(error: Exception) -> str:
    kind = foreign(error)
    return f"Weights only load failed: {kind}" if kind else first_line(error)


def _safetensors(path: Path) -> tuple[tuple[Any, Any], bool]:
    with safe_open(path, framework="pt") as file:
        named(file.keys())
        return (file.get_tensor(NAMES[0]), file.get_tensor(NAMES[1])), True


def _torch(path: Path) -> tuple[tuple[Any, Any], bool]:
    mapped = zipfile.is_zipfile(path)  # torch before 1.6 wrote another kind of file, which cannot be mapped
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(content, dict):
        raise ContentError(f"holds a {type(content).__name__}; save a dict with {' and '.join(NAMES)}")
    named(content)
    for path_, leaf in leaves([content[name] for name in NAMES]):
        if not is_array(leaf):
            raise ContentError(f"holds a {type(leaf).__name__} under {NAMES[int(path_[1])]}; save tensors")
    return (content[NAMES[0]], content[NAMES[1]]), mapped
