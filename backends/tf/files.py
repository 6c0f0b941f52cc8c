"""Data files for Keras models: `inputs` and `targets`, mapped into memory, read without torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

from gradvis.backends.given import ContentError, read_file, read_npz, read_safetensors


def read_data(path: str | os.PathLike[str]) -> tuple[tuple[Any, Any], bool]:
    """The inputs and targets of a file, and whether they are mapped rather than read.

    Args:
        path: Of an `.npz` as `numpy.savez` writes it, or a `.safetensors`.

    Raises:
        ValueError: If there is no such file, it is damaged, or it holds something else.
    """
    return read_file(path, {".npz": read_npz, ".safetensors": read_safetensors, ".pt": _torch})


def _torch(path: Path) -> NoReturn:
    """Torch alone reads its files, and is not imported for a Keras model.

    Raises:
        ContentError: Always.
    """
    raise ContentError(
        "is read by torch, which takes no part in a TensorFlow job; write numpy.savez('data.npz', "
        "inputs=inputs.numpy(), targets=targets.numpy()) once, and give that file"
    )
