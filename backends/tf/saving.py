"""Files of Keras that name their objective: a note beside the weights, which Keras does not look at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import h5py  # type: ignore[import-untyped]
import keras

from gradvis.backends.formats import ARCHIVE, HDF5, check_named

_MARK = "gradvis"
_MEMBER = "gradvis.json"
_SAVED = ".weights.h5"


def save_checkpoint(path: str | os.PathLike[str], model: Any, objective: str | None = None, **extra: Any) -> None:
    """Write a Keras model, and the name of its objective, so that `gradvis-surface PATH` needs nothing else.

    Args:
        path: The file: `.keras` for the whole model, `.weights.h5` for its weights. An earlier file stays as it is
            until the new one is whole.
        model: A `keras.Model`.
        objective: `FILE.py:NAME`, a function that returns the Objective; FILE.py lies in the folder
            from which the command is run.
        **extra: Numbers and strings to store beside it, such as `step=100`.

    Raises:
        ValueError: If the objective is not named as FILE.py:NAME, or the file would be of another kind.
        TypeError: If the model is none of Keras, or something else than numbers and strings is to be stored.
    """
    check_named(objective)
    kind = next((end for end in (ARCHIVE, _SAVED) if os.fspath(path).endswith(end)), None)
    if kind is None:
        raise ValueError(
            f"gradvis.save_checkpoint writes .keras and .weights.h5 files of Keras models, but {path} came; name it so"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"a keras.Model was wanted, but {type(model).__name__} came; save it by tf.train.Checkpoint")
    mark = _text(objective, extra)
    partial = Path(f"{os.fspath(path).removesuffix(kind)}.partial{kind}")
    try:
        (model.save if kind == ARCHIVE else model.save_weights)(partial)
        _put(partial, mark)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _text(objective: str | None, extra: dict[str, Any]) -> str:
    try:
        return json.dumps({"objective": objective, "extra": extra})
    except (TypeError, ValueError) as error:
        raise TypeError(f"numbers and strings may be stored beside a model, but {error}; leave it out") from error


def _put(file: Path, text: str) -> None:
    if file.suffix == ARCHIVE:
        with ZipFile(file, "a") as archive:
            archive.writestr(_MEMBER, text)
    else:
        with h5py.File(file, "a") as group:
            group.attrs[_MARK] = text


def objective_name(path: str | os.PathLike[str]) -> str | None:
    """The objective that a file names, or None."""
    try:
        content = json.loads(_text_of(Path(path)) or "{}")
    except (OSError, BadZipFile, ValueError):
        return None
    name = content.get("objective") if isinstance(content, dict) else None
    return name if isinstance(name, str) else None


def _text_of(file: Path) -> Any:
    if file.suffix == ARCHIVE and file.is_file():
        with ZipFile(file) as archive:
            return archive.read(_MEMBER) if _MEMBER in archive.namelist() else None
    if file.suffix in HDF5 and file.is_file():
        with h5py.File(file) as group:
            return group.attrs.get(_MARK)
    return None
