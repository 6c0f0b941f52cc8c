"""Files and folders of tensors, read without running what they hold."""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import re
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_INDEX = (".safetensors.index.json", ".bin.index.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# Companions of tensors in common checkpoints; making them runs nothing. A pair is a thing and the name it goes by
# in files of other versions and systems.
_HARMLESS: list[Any] = [
    *(list, dict, tuple, int, float, str),  # a defaultdict names its factory
    argparse.Namespace,
    types.SimpleNamespace,
    (lambda *_: {}, "collections.defaultdict"),  # torch fills no defaultdict, but a dict
    datetime.date,
    datetime.datetime,
    datetime.timedelta,
    datetime.timezone,
    np.dtype,
    np.ndarray,
    *((value.__reduce__()[0], f"numpy.{core}.multiarray.{name}")
      for name, value in (("scalar", np.float64()), ("_reconstruct", np.empty(0))) for core in ("core", "_core")),
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
    *((kind, f"{module}.{name}")
      for module in ("pathlib", "pathlib._local")
      for kind, name in (
          (pathlib.PurePosixPath, "PosixPath"), (pathlib.PurePosixPath, "PurePosixPath"),
          (pathlib.PureWindowsPath, "WindowsPath"), (pathlib.PureWindowsPath, "PureWindowsPath"),
      )),
]  # fmt: skip
_PLACE = re.compile(r"^\[enforce fail at [^\]]*\] *\. *")  # in the source of torch
_FOREIGN = re.compile(r"GLOBAL (\S+)|Unsupported class (\S+)")


def read(path: Path, mapped: bool = False) -> Any:
    """All that a checkpoint holds: a file's content, or the tensors of a sharded one by name.

    Args:
        path: The file or folder.
        mapped: See `load`.

    Raises:
        ValueError: If there is none, or it is damaged, or loading it could run code.
    """
    path = located(path)
    return _sharded(path, mapped) if path.name.endswith(_INDEX) else load(path, mapped=mapped)


def plain_file(path: Path) -> Path | None:
    """The file of a checkpoint that may hold more than tensors; None for safetensors and sharded ones.

    Raises:
        ValueError: If there is no checkpoint.
    """
    path = located(path)
    return None if path.suffix == ".safetensors" or path.name.endswith(_INDEX) else path


def located(path: Path) -> Path:
    """The file that is meant by a path to a file or folder.

    Raises:
        ValueError: If there is none, or several, or one that only PyTorch's own tool can read.
    """
    folder = path.parent if path.suffix == ".distcp" else path
    if (folder / ".metadata").is_file():
        raise ValueError(
            f"tensors that load without running code were wanted, but {folder} is a distributed checkpoint, whose "
            f".metadata is a pickle; convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{folder} {folder.resolve().name}.pt"
        )
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"a checkpoint was wanted, but there is no file {path}; give the path of one")
    return _inside(path)


def _inside(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    there = sorted(file for file in folder.iterdir() if file.is_file())
    found = [file for file in there if file.name.endswith(_INDEX)]
    found = found or [file for file in there if file.suffix in SUFFIXES]
    if len(found) == 1:
        return found[0]
    looked = f"{', '.join(_WEIGHTS)}, or a single {', '.join(SUFFIXES)} file"
    came = f"{len(found)} ({', '.join(file.name for file in found[:3])})" if found else "none of these"
    raise ValueError(f"a checkpoint was wanted in the folder {folder} ({looked}), but there is {came}; give one file")


def load(path: Path, where: str = "cpu", mapped: bool = False) -> Any:
    """The content of a file.

    Args:
        path: The file.
        where: On which device the tensors are to be; on `meta`, their data is not read.
        mapped: Whether tensors stay in the file until they are used, where it is of a form that allows it.

    Raises:
        ValueError: If it is damaged, or loading it could run code.
    """
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if kind := archive_kind(path):
        raise ValueError(_refusal(path, kind))
    known = torch.serialization.get_safe_globals()
    mapped = mapped and zipfile.is_zipfile(path)
    with path.open("rb") as file:  # a file that may not be read is the system's refusal, no damage
        try:
            with torch.serialization.safe_globals([kind for kind in _HARMLESS if kind not in known]):
                return torch.load(path if mapped else file, map_location=where, weights_only=True, mmap=mapped)
        except Exception as error:
            if kind := foreign(error):
                raise ValueError(_refusal(path, kind)) from error
            reason = _reason(error)
            raise ValueError(
                f"a file of tensors that loads without running code was wanted, but {path} is not one, or it is "
                f"damaged{f' ({reason})' if ' ' in reason else ''}; save model.state_dict(), or use "
                "gradvis.save_checkpoint"
            ) from error


def _refusal(path: Path, kind: str) -> str:
    return (
        f"a file of tensors that loads without running code was wanted, but {path} is {kind}; if you trust it, "
        "give --trust, else save model.state_dict() or use gradvis.save_checkpoint"
    )


def _reason(error: BaseException) -> str:
    """What torch says of a file, without its advice to load it unsafely."""
    first = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
    return " ".join(_PLACE.sub("", first).partition(". ")[0].split())[:200]


def archive_kind(path: Path) -> str | None:
    """What program a zip archive is, by the names inside; None if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    if "archive_format" in names or any(name.startswith("models/") for name in names):
        return "a torch.export archive"
    return "a TorchScript program" if "constants.pkl" in names else None


def foreign(error: BaseException | None) -> str | None:
    """Which object kept a pickle from loading as tensors; None if it was something else."""
    found = _FOREIGN.search(str(error))
    return f"a pickle that makes a {next(filter(None, found.groups()))}" if found else None


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file  # an extra: only who has such files needs it
    except ModuleNotFoundError as error:
        raise ValueError(f"to read {path}, safetensors is needed; install it with: pip install safetensors") from error
    with path.open("rb"):
        pass
    try:
        return load_file(path)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"a safetensors file was wanted, but {path} is not one, or it is damaged ({reason:.200}); save it again"
        ) from error


def _sharded(index: Path, mapped: bool) -> dict[str, Any]:
    """The tensors of all files that an index names.

    Raises:
        ValueError: If one of them is not where the index says.
    """
    files: dict[str, list[str]] = {}
    for name, file in _weight_map(index).items():
        files.setdefault(file, []).append(name)
    found: dict[str, Any] = {}
    beside = {file.name for file in index.parent.iterdir() if file.is_file()}
    for file, names in files.items():
        if file not in beside:
            raise ValueError(f"{index} names the shard {file!r:.80}, but no such file lies beside it; fetch all shards")
        shard = load(index.parent / file, mapped=mapped)
        if not isinstance(shard, dict) or (missing := [name for name in names if name not in shard]):
            raise ValueError(
                f"{index} places {(missing if isinstance(shard, dict) else names)[0]} in {file}, but it is not there; "
                "fetch index and shards of one version"
            )
        found |= {name: shard[name] for name in names}
    return found


def _weight_map(index: Path) -> dict[str, str]:
    content = index.read_bytes()
    try:
        weights = json.loads(content)["weight_map"]
        if all(isinstance(file, str) for file in weights.values()):
            return weights
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError(f"an index with a weight_map, file names by tensor names, was wanted, but {index} has none")
