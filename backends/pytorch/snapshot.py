"""What of a module is recorded at a step, and its way to the host in one copy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from math import inf, nan

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradvis.arrays import Values, Vector
from gradvis.backends.pytorch.checkpoints import is_plain
from gradvis.backends.pytorch.matching import Tensors, bare
from gradvis.backends.recorded import STORED, check_any, check_unchanged, storage
from gradvis.rows import Plan, place_parts

_SHARDED = {"DTensor", "FlatParameter", "FullyShardedDataParallel"}  # by name: to import them takes seconds


class Snapshots:
    """Takes a module's recorded tensors, again and again.

    Attributes:
        dtype: In which parameters are stored.
    """

    def __init__(self, model: nn.Module, patterns: Sequence[str], dtype: str | torch.dtype | None) -> None:
        self._model, self._patterns = model, patterns
        _check(model)
        self._persistent = {bare(name) for name in model.state_dict()}
        self._parameters, self._buffers = self._split()
        check_any(self._parameters, patterns, _named(model), "layer3.*")
        asked = None if dtype is None else str(dtype).removeprefix("torch.")
        self.dtype = getattr(torch, storage((_short(v.dtype) for v in self._parameters.values()), asked))

    def plan(self, groups: int) -> Plan:
        """What a row has, of an optimizer with so many parameter groups."""
        taken = {**self._parameters, **self._buffers}
        return Plan(
            parameters=place_parts(
                (n, tuple(v.shape), _short(v.dtype), v.numel()) for n, v in self._parameters.items()
            ),
            buffers=place_parts((n, tuple(v.shape), _short(_kept(v)), _length(v)) for n, v in self._buffers.items()),
            dtype=_short(self.dtype),
            groups=groups,
            left_out=tuple(name for name in _named(self._model) if name not in taken),
        )

    def take(self, spare: Vector | None = None) -> tuple[Vector, np.ndarray, Values]:
        """Parameters (d,), in `spare` if that is given, bytes of buffers, and gradient norms (layers,)."""
        parameters, buffers = self._split()
        for now, then in ((parameters, self._parameters), (buffers, self._buffers)):
            shapes = [{name: value.shape for name, value in tensors.items()} for tensors in (now, then)]
            check_unchanged(shapes[0] == shapes[1])
        raw = (_raw(value) for value in buffers.values())
        return _flat(parameters.values(), self.dtype, spare), _flat(raw, torch.uint8), _norms(parameters.values())

    def _split(self) -> tuple[Tensors, Tensors]:
        """Parameters and buffers; a parameter that holds no floating numbers counts as a buffer."""
        parameters: Tensors = {}
        buffers: Tensors = {}
        for name, value in _named(self._model).items():
            chosen = not isinstance(value, nn.Parameter) or any(fnmatchcase(name, each) for each in self._patterns)
            if chosen and name in self._persistent and is_plain(value):
                floats = isinstance(value, nn.Parameter) and value.is_floating_point()
                (parameters if floats else buffers)[name] = value
        return parameters, buffers


def _named(model: nn.Module) -> Tensors:
    """Parameters and buffers by their first names, without what wrappers put into them."""
    return {bare(name): value for name, value in (*model.named_parameters(), *model.named_buffers())}


def _check(model: nn.Module) -> None:
    """See that the model's tensors are whole and there.

    Raises:
        ValueError: If not.
    """
    things = {**dict(model.named_modules()), **_named(model)}
    if any(kind.__name__ in _SHARDED for thing in things.values() for kind in type(thing).__mro__):
        raise ValueError(
            "parameters that are whole on each rank were wanted, but this model is sharded (FSDP, DTensor), which "
            "cannot be recorded; save full checkpoints instead"
        )
    if empty := [name for name, value in _named(model).items() if is_lazy(value) or value.is_meta]:
        raise ValueError(f"{empty[0]} has no values yet; run the model once (or move it off the meta device) before")


def _kept(value: Tensor) -> torch.dtype:
    """In which dtype a buffer's bytes are: its own, or float32 where NumPy has none such (bfloat16)."""
    return torch.float32 if value.is_floating_point() and _short(value.dtype) not in STORED else value.dtype


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _length(value: Tensor) -> int:
    return value.numel() * _kept(value).itemsize


def _raw(value: Tensor) -> Tensor:
    return value.detach().to(_kept(value)).contiguous().reshape(-1).view(torch.uint8)


def _flat(values: Iterable[Tensor], dtype: torch.dtype, spare: np.ndarray | None = None) -> np.ndarray:
    """One after the other on the host: flattened on their device, then one copy (for each device in turn)."""
    groups = groupby(values, key=lambda value: value.device)
    parts = [(device, [value.detach().reshape(-1).to(dtype) for value in group]) for device, group in groups]
    out = None if spare is None else torch.from_numpy(spare)
    if len(parts) == 1 and parts[0][0].type == "cpu":
        flat = torch.cat(parts[0][1], out=out)
    else:
        flat = torch.cat([torch.empty(0, dtype=dtype), *(torch.cat(part).cpu() for _, part in parts)], out=out)
    whole: np.ndarray = flat.numpy()
    return whole


def _norms(parameters: Iterable[Tensor]) -> Values:
    """Euclidean norms of the gradients, (layers,); NaN where there is none, inf where one is not finite."""
    return _flat(map(_norm, parameters), torch.float64)


def _norm(value: Tensor) -> Tensor:
    """In float32 at least: squares of float16 overflow."""
    gradient = value.grad
    if gradient is None:
        return torch.full((1,), nan, device=value.device)
    numbers = gradient.coalesce().values() if gradient.is_sparse else gradient
    norm = torch.linalg.vector_norm(numbers, dtype=torch.promote_types(numbers.dtype, torch.float32))
    return norm.nan_to_num(nan=inf, posinf=inf).reshape(1)
