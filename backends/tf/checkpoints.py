"""The weights of a checkpoint, read without writing to the model they are matched with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import keras
import numpy as np

from gradvis.backends.tf.layers import names_of

_INSIDE = "model.weights.h5"  # what a .keras archive calls its weights


def read_weights(model: Any, checkpoint: Any, needed: list[Any]) -> dict[int, np.ndarray]:
    """Values by the id of the model's variable.

    Args:
        model: Says which names and shapes there are.
        checkpoint: A `.weights.h5` or `.keras` path (only its weights are read: no code runs), a list as
            `get_weights` gives it, arrays by name, or another model of this architecture.
        needed: The variables that must be there.

    Raises:
        ValueError: If it is of another architecture, or of no kind that is known.
    """
    if isinstance(checkpoint, (str, Path)):
        found = _from_path(model, Path(checkpoint))
    elif isinstance(checkpoint, Mapping):
        found = _from_names(model, checkpoint)
    else:
        arrays = checkpoint.get_weights() if isinstance(checkpoint, keras.Model) else checkpoint
        found = _from_list(model, arrays)
    for variable in needed:
        _check(names_of(model)[id(variable)], variable, found.get(id(variable)))
    return found


def _check(name: str, variable: Any, value: np.ndarray | None) -> None:
    if value is None:
        raise ValueError(f"the checkpoint has no {name!r}, which the model has; it is of another architecture")
    if value.shape != tuple(variable.shape):
        raise ValueError(
            f"the checkpoint's {name!r} has shape {value.shape}, the model's {tuple(variable.shape)}; "
            "it is of another architecture"
        )


def _from_list(model: Any, arrays: Any) -> dict[int, np.ndarray]:
    if not isinstance(arrays, (list, tuple)) or len(arrays) != len(model.weights):
        came = f"{len(arrays)} arrays" if isinstance(arrays, (list, tuple)) else type(arrays).__name__
        raise ValueError(
            f"a .weights.h5 or .keras file, arrays by name, or a list of {len(model.weights)} arrays was wanted, "
            f"but {came} came"
        )
    return {id(v): np.asarray(array) for v, array in zip(model.weights, arrays, strict=True)}


def _from_names(model: Any, arrays: Mapping[str, Any]) -> dict[int, np.ndarray]:
    names = names_of(model)
    unknown = set(arrays) - set(names.values())
    if unknown:
        raise ValueError(f"the model has no {sorted(unknown)}; it has {list(names.values())}")
    return {key: np.asarray(arrays[name]) for key, name in names.items() if name in arrays}


def _from_path(model: Any, path: Path) -> dict[int, np.ndarray]:
    """Keras loads into a scope that keeps what it would have assigned; the variables stay as they are.

    Raises:
        ValueError: If the file is none of ours, or of another architecture.
    """
    if not path.name.endswith((".weights.h5", ".keras")):
        raise ValueError(f"a .weights.h5 or .keras file was wanted, but {path} came")
    with TemporaryDirectory() as folder, keras.StatelessScope() as scope:
        file = path
        if path.suffix == ".keras":
            with ZipFile(path) as archive:
                file = Path(archive.extract(_INSIDE, folder))
        try:
            model.load_weights(file, objects_to_skip=[model.optimizer] if model.optimizer else [])
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} does not hold the weights of this {type(model).__name__}: {error}") from error
    values = {id(v): scope.get_current_value(v) for v in model.weights}
    return {key: np.asarray(value) for key, value in values.items() if value is not None}
