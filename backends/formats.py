"""What names tell of checkpoints: which framework they are for. Nothing is opened, and no framework is imported."""

from __future__ import annotations

import os
from pathlib import Path

HDF5 = (".h5", ".hdf5")
WEIGHTS = (".weights.h5", ".weights.json")
ARCHIVE = ".keras"
INDEX = ".index"
INSIDE = "model.weights.h5"  # what a .keras archive calls its weights
_LATEST = "checkpoint"  # the file in which tf.train.Checkpoint.save notes the last one


def is_keras(path: str | os.PathLike[str]) -> bool:
    """Whether a path means a file of Keras or TensorFlow; all others are PyTorch's.

    Args:
        path: A file or folder, or what `tf.train.Checkpoint` returns, which is the beginning of file names.

    >>> is_keras("net.weights.h5"), is_keras("net.pt")
    (True, False)
    """
    path = Path(path)
    if path.suffix in {*HDF5, ARCHIVE} or path.name.endswith(WEIGHTS):
        return True
    return is_saved_model(path) or is_keras_folder(path) or checkpoint_prefix(path) is not None


def is_saved_model(path: Path) -> bool:
    """Whether it is the folder of a SavedModel."""
    return (path / "saved_model.pb").is_file()


def is_keras_folder(path: Path) -> bool:
    """Whether it is what `keras.saving.save_model(model, path, zipped=False)` writes."""
    return (path / "config.json").is_file() and (path / INSIDE).is_file()


def checkpoint_prefix(path: Path) -> Path | None:
    """The prefix that `tf.train.load_checkpoint` takes, or the folder whose last one is meant; None if it is none."""
    if path.is_dir():
        return path if (path / _LATEST).is_file() else None
    if path.name.endswith(INDEX) and path.is_file():
        return path.with_name(path.name.removesuffix(INDEX))
    name, mark, _ = path.name.partition(".data-")
    prefix = path.with_name(name) if mark and path.is_file() else path
    return prefix if prefix.with_name(f"{prefix.name}{INDEX}").is_file() else None


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a file or folder, or such files for a prefix."""
    return Path(path).exists() or checkpoint_prefix(Path(path)) is not None


def check_named(objective: str | None) -> None:
    """See that an objective is named as files may name it: by a file of the folder from which commands are run.

    Raises:
        ValueError: If not.
    """
    if objective is None:
        return
    file, _, name = objective.partition(":")
    if not file.endswith(".py") or not name:
        raise ValueError(f"an objective is named as FILE.py:NAME, but {objective!r} came")
    if Path(file).name != file:
        raise ValueError(
            f"a checkpoint may name only a .py file of the folder from which commands are run, but {file} came; "
            f"give {Path(file).name}:{name}"
        )
