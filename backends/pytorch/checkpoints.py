"""Checkpoints of torch models: tensors in, nothing run."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_MARK = "gradvis"
_HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    pathlib.WindowsPath,
    np.dtype,
    np.ndarray,
]


def save_checkpoint(path: str | Path, model: nn.Module, objective: str | None = None, **extra: Any) -> None:
    """Write a model's tensors, and the name of its objective, so that `gradvis-surface PATH` needs nothing else.

    Args:
        path: The file, `.pt`.
        model: Its `state_dict` is stored, parameters and buffers.
        objective: `FILE.py:NAME`, a function that returns the Objective; FILE.py lies in the folder
            from which the command is run.
        **extra: Tensors, numbers and strings to store beside it, such as `step=100`.

    Raises:
        ValueError: If the objective is not named as FILE.py:NAME.
    """
    if objective is not None and not (objective.partition(":")[0].endswith(".py") and objective.partition(":")[2]):
        raise ValueError(f"an objective is named as FILE.py:NAME, but {objective!r} came")
    state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    partial = Path(f"{path}.partial")
    torch.save({"state_dict": state, _MARK: {"objective": objective}, **extra}, partial)
    partial.replace(path)


def objective_name(path: str | Path) -> str | None:
    """The objective that a checkpoint names, or None."""
    if Path(path).suffix == ".safetensors":
        return None
    content = _load(Path(path))
    mark = content.get(_MARK) if isinstance(content, Mapping) else None
    return mark.get("objective") if isinstance(mark, Mapping) else None


def read_tensors(checkpoint: Any) -> dict[str, Tensor]:
    """The named tensors of a checkpoint: a path, a module, or a mapping of them under any key.

    Raises:
        ValueError: If no tensors are found in it.
    """
    if isinstance(checkpoint, nn.Module):
        return dict(checkpoint.state_dict())
    if isinstance(checkpoint, (str, Path)):
        found = _tensors(_load(Path(checkpoint)))
    else:
        found = _tensors(checkpoint)
    if not found:
        raise ValueError(f"a checkpoint with named tensors was wanted, but {checkpoint!s:.80} holds none")
    return _without_prefixes(found)


def _load(path: Path) -> Any:
    if not path.is_file():
        came = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise ValueError(f"a checkpoint file was wanted, but {came}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # an extra: only who has such files needs it

        return load_file(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        why = f" ({reason})" if " " in reason else ""
        raise ValueError(
            f"a file of tensors that loads without running code was wanted, but {path} is not one{why}; "
            "save model.state_dict(), or use gradvis.save_checkpoint"
        ) from error


def _tensors(content: Any) -> dict[str, Tensor]:
    """The mapping with the most tensors, wherever it lies; `state_dict` and `model` go first."""
    if not isinstance(content, Mapping):
        return {}
    own = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if own:
        return own
    first = [content[key] for key in ("state_dict", "model_state_dict", "model") if key in content]
    nested = [_tensors(value) for value in (first or content.values())]
    return max(nested, key=len, default={})


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Less the `module.` of data parallelism and the `_orig_mod.` of compilation."""
    return {name.replace("_orig_mod.", "").removeprefix("module."): value for name, value in tensors.items()}


def matched(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's values for the model's own names.

    Raises:
        ValueError: If it is of another architecture: which names miss, which shapes differ.
    """
    missing = [name for name in wanted if name not in tensors]
    other = [name for name in tensors if name not in wanted]
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if missing or shapes:
        parts = [
            f"{len(missing)} missing ({', '.join(missing[:3])})" if missing else "",
            f"{len(other)} left over ({', '.join(other[:3])})" if other else "",
            "; ".join(shapes[:3]),
        ]
        raise ValueError(
            f"the checkpoint does not fit the model: {'; '.join(part for part in parts if part)}; "
            "give the objective of the network that it was saved from"
        )
    return {name: tensors[name] for name in wanted}
