"""The weights of a checkpoint, read without writing to the model they are matched with; no code of a file runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import h5py  # type: ignore[import-untyped]
import keras
import numpy as np
import tensorflow as tf

from gradvis.arrays import Vector
from gradvis.backends.formats import (
    ARCHIVE,
    HDF5,
    INSIDE,
    WEIGHTS,
    checkpoint_prefix,
    exists,
    is_keras_folder,
    is_saved_model,
)
from gradvis.backends.tf.layers import names_of, weights_of
from gradvis.backends.tf.programs import Program
from gradvis.backends.tf.snapshot import recorded_values, slices
from gradvis.backends.tf.trackables import from_checkpoint, from_export, is_export
from gradvis.objective import NotFiniteError, Reader
from gradvis.provenance import digest
from gradvis.recording import Recorded

Found = dict[int, np.ndarray]
"""Values by the id of the model's variable."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, and which of its states is meant; `Objective.read` and `at` take it like a path.

    Attributes:
        source: A path.
        key: Under which name the model was saved, as in `tf.train.Checkpoint(generator=...)`; None for the one
            that fits.
    """

    source: Any
    key: str | None = None


def read_weights(model: Any, checkpoint: Any, needed: Iterable[Any]) -> Found:
    """Values by the id of the model's variable.

    Args:
        model: Says which names and shapes there are.
        checkpoint: A path (`.keras`, `.weights.h5`, `.h5`, a SavedModel, or what `tf.train.Checkpoint` wrote), a list
            as `get_weights` gives it, arrays by name, another model of this architecture, a `Checkpoint`, or a
            recorded step.
        needed: The variables that must be there.

    Raises:
        ValueError: If it is of another architecture, or of no kind that is known.
        NotFiniteError: If weights in it are no numbers.
    """
    found = _checked(model, checkpoint, needed)
    names = names_of(model)
    bad = [v for v in weights_of(model) if id(v) in found and _broken(found[id(v)], v.trainable)]
    if bad:
        raise NotFiniteError(
            f"finite weights were wanted, but in {_called(checkpoint)} {names[id(bad[0])]} holds NaN or inf "
            f"({len(bad)} of {len(found)} arrays do); give a checkpoint from before training diverged"
        )
    return {key: _copied(value) for key, value in found.items()}


def reader(model: Any, moved: list[Any], dtype: str, checkpoint: Any) -> Reader:
    """A checkpoint in parts; its vector lies in a temporary file, so that many of them take no memory.

    Args:
        model: See `read_weights`.
        moved: The variables of the vector, in its order.
        dtype: Of the vector.
        checkpoint: See `read_weights`; what is not finite comes as it is.
    """
    if isinstance(checkpoint, Recorded):
        return slices(model, moved, dtype, checkpoint)
    inside, names = {id(v) for v in moved}, names_of(model)
    others = [v for v in weights_of(model) if id(v) not in inside]
    found = _checked(model, checkpoint, [*moved, *others])
    rest = digest(*(part for v in others for part in (names[id(v)].encode(), found[id(v)])))
    return Reader(_mapped([found[id(v)] for v in moved], dtype).__getitem__, lambda: rest)


def _mapped(arrays: list[np.ndarray], dtype: str) -> Vector:
    """Arrays one after another, in a file that is gone when nobody reads it any more."""
    with tempfile.TemporaryFile() as file:
        for array in arrays:
            array.astype(dtype).tofile(file)
        file.flush()
        return np.memmap(file, dtype, "r")


def _copied(value: np.ndarray) -> np.ndarray:
    """The user may go on writing to his own; what NumPy has no dtype for (float8) as float32, which is exact."""
    return np.array(value, np.float32 if value.dtype.kind == "V" else None)


def _broken(value: np.ndarray, parameter: bool) -> bool:
    """Whether it is no weight; statistics and masks may hold infinities."""
    value = value if value.dtype.kind in "iubf" else value.astype(np.float64)
    return bool((~np.isfinite(value)).any() if parameter else np.isnan(value).any())


def _checked(model: Any, checkpoint: Any, needed: Iterable[Any]) -> Found:
    found = _found(model, checkpoint)
    names = names_of(model)
    for variable in needed:
        _check(names[id(variable)], variable, found.get(id(variable)), _called(checkpoint))
    return found


def _check(name: str, variable: Any, value: np.ndarray | None, called: str) -> None:
    if value is None:
        raise ValueError(f"{called} has no {name!r}, which the model has; it is of another architecture")
    if value.shape != tuple(variable.shape):
        raise ValueError(
            f"{called} has {name!r} of shape {value.shape}, the model {tuple(variable.shape)}; "
            "it is of another architecture"
        )
    dtype = tf.as_dtype(variable.dtype)
    if dtype.is_floating and value.dtype.kind in "biu":
        raise ValueError(
            f"{called} has {name!r} as {value.dtype}, the model as {dtype.name}; give the weights from before they "
            "were quantised"
        )


def _called(checkpoint: Any) -> str:
    source = checkpoint.source if isinstance(checkpoint, Checkpoint) else checkpoint
    return f"the checkpoint {source}" if isinstance(source, (str, PathLike, Recorded)) else "the checkpoint"


def _found(model: Any, checkpoint: Any, key: str | None = None) -> Found:
    if isinstance(checkpoint, Checkpoint):
        return _found(model, checkpoint.source, checkpoint.key)
    if isinstance(checkpoint, (str, PathLike)):
        return _from_path(model, Path(checkpoint), key)
    if key is not None:
        raise ValueError(f"key chooses a state in a file of tf.train.Checkpoint, but {type(checkpoint).__name__} came")
    if isinstance(checkpoint, Recorded):
        return recorded_values(model, checkpoint)
    if isinstance(checkpoint, Mapping):
        return _from_names(model, checkpoint)
    if isinstance(checkpoint, (keras.Layer, tf.Module)):
        if _is_placed(model) != _is_placed(checkpoint):
            raise ValueError(_NO_LAYERS.format("another"))
        return _from_list(model, [variable.numpy() for variable in weights_of(checkpoint)])
    return _from_list(model, checkpoint)


def _from_list(model: Any, arrays: Any) -> Found:
    own = weights_of(model)
    if not isinstance(arrays, (list, tuple)) or len(arrays) != len(own):
        came = f"{len(arrays)} arrays" if isinstance(arrays, (list, tuple)) else type(arrays).__name__
        raise ValueError(
            f"a file of Keras or TensorFlow, arrays by name, or a list of {len(own)} arrays was wanted, but {came} came"
        )
    return {id(v): np.asarray(array) for v, array in zip(own, arrays, strict=True)}


def _from_names(model: Any, arrays: Mapping[str, Any]) -> Found:
    names = names_of(model)
    unknown = set(arrays) - set(names.values())
    if unknown:
        raise ValueError(f"the model has no {sorted(unknown)}; it has {list(names.values())}")
    return {key: np.asarray(arrays[name]) for key, name in names.items() if name in arrays}


def _from_path(model: Any, path: Path, key: str | None) -> Found:
    """What a file or folder holds.

    Raises:
        ValueError: If it is of no kind that is known, or a key is given for one that has a single state.
    """
    prefix = checkpoint_prefix(path)
    if prefix is None and key is not None:
        raise ValueError(f"--key chooses a state in a file of tf.train.Checkpoint, but {path} is none; leave it out")
    if is_saved_model(path) and is_export(path) and _is_placed(model):
        return from_export(model, path)
    try:
        return _by_places(model, path, prefix, key)
    except ValueError as error:
        if not isinstance(model, Program) or not exists(path):
            raise
        raise ValueError(f"{_NO_LAYERS.format(path)} ({error!s:.200})") from error


_NO_LAYERS = (
    "a network that comes as a SavedModel has no layers to place the weights of {} by; save both by model.export, or "
    "give the network in Python: --objective FILE.py:NAME"
)


def _is_placed(model: Any) -> bool:
    """Whether its weights are in the order of its layers."""
    return not isinstance(model, Program) or bool(model.listed)


def _by_places(model: Any, path: Path, prefix: Path | None, key: str | None) -> Found:
    """What a file or folder holds that knows the layers of its weights.

    Raises:
        ValueError: If it is of no kind that is known, damaged, or of another architecture.
    """
    if is_saved_model(path):
        return from_checkpoint(model, path / "variables" / "variables")
    if prefix is not None:
        return from_checkpoint(model, prefix, key)
    if not is_keras_folder(path) and not path.name.endswith((ARCHIVE, *HDF5, *WEIGHTS)):
        raise ValueError(
            f"a .keras, .weights.h5 or .h5 file, a SavedModel, or what tf.train.Checkpoint wrote was wanted, but "
            f"{path} {'came' if path.exists() else 'is not there'}"
        )
    return _from_keras(model, path / INSIDE if path.is_dir() else path)


def _from_keras(model: Any, path: Path) -> Found:
    """Keras loads into a scope that keeps what it would have assigned; the variables stay as they are.

    Raises:
        ValueError: If the file is damaged, or of another architecture.
    """
    if not hasattr(model, "load_weights"):
        raise ValueError(f"{path} is for a keras.Model, but a {type(model).__name__} came; save a tf.train.Checkpoint")
    with path.open("rb"), tempfile.TemporaryDirectory() as folder, keras.StatelessScope() as scope:
        try:
            file = _unpacked(path, Path(folder))
        except (OSError, BadZipFile, KeyError) as error:
            raise ValueError(
                f"a Keras file was wanted, but {path} is none, or it is damaged ({_line(error)}); save it again"
            ) from error
        optimizer = getattr(model, "optimizer", None)
        skipped = {} if file.name == _LEGACY else {"objects_to_skip": [optimizer] if optimizer else []}
        try:
            model.load_weights(file, **skipped)
        except Exception as error:  # layers have load_own_variables of their own
            raise ValueError(
                f"{path} does not hold the weights of this {type(model).__name__} ({_line(error)}); give the "
                "objective of the network that it was saved from"
            ) from error
    values = {id(v): scope.get_current_value(v) for v in model.weights}
    return {key: np.asarray(value) for key, value in values.items() if value is not None}


_LEGACY = "legacy.h5"  # Keras tells its older form by the name


def _unpacked(path: Path, folder: Path) -> Path:
    """The file of weights that `load_weights` takes, under the name by which it tells the form."""
    if path.suffix == ARCHIVE:
        with ZipFile(path) as archive:
            return Path(archive.extract(INSIDE, folder))
    if path.suffix in HDF5:
        with h5py.File(path) as file:
            legacy = "layer_names" in file.attrs or "model_weights" in file
        if legacy:
            (folder / _LEGACY).symlink_to(path.resolve())
            return folder / _LEGACY
        if not path.name.endswith(WEIGHTS):
            (folder / INSIDE).symlink_to(path.resolve())
            return folder / INSIDE
    return path


def _line(error: BaseException) -> str:
    return f"{' '.join(str(error).split()):.300}"
