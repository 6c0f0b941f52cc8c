"""Where a module stands: its own tensors, or a checkpoint's, put in for the length of a call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from gradvis.arrays import Vector
from gradvis.backends.pytorch.checkpoints import fitting
from gradvis.backends.pytorch.guard import remembered, untouched
from gradvis.backends.pytorch.slices import slices
from gradvis.objective import Reader
from gradvis.recording import Recorded
from gradvis.space import ParameterSpace

T = TypeVar("T")
Run = Callable[[nn.Module, Callable[[], None]], T]


@dataclass(frozen=True)
class State:
    """A module and the tensors it is to have.

    Attributes:
        model: Never changed.
        space: The parameters that make up the vector.
        device: Where it is computed.
        dtype: In which floating type.
        checkpoint: The tensors of another state; None for those that the model has at the moment.
    """

    model: nn.Module
    space: ParameterSpace
    device: torch.device
    dtype: torch.dtype
    checkpoint: Mapping[str, Tensor] | None = None

    def own(self) -> dict[str, Tensor]:
        """The model's parameters and buffers, each by its first name."""
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

    def tensors(self) -> Mapping[str, Tensor]:
        """Those of this state."""
        return self.own() if self.checkpoint is None else self.checkpoint

    def of(self, checkpoint: Any) -> dict[str, Tensor]:
        """A checkpoint's tensors by the model's names; what no state_dict has stays as the model has it.

        Raises:
            ValueError: If it is of another architecture.
        """
        return {name: value.detach().clone() for name, value in fitting(self.model, checkpoint).items()}

    def reader(self, checkpoint: Any) -> Reader:
        """A checkpoint in parts: a file stays a file, of which the system keeps what it has room for."""
        if isinstance(checkpoint, Recorded):
            part_of, rest = slices(self.model, self.space, self.dtype, checkpoint)
            return Reader(part_of, lambda: _digest((left := rest()), left))
        found = fitting(self.model, checkpoint, mapped=True)
        blocks = list(self.space)
        flats = [self._flat(found[block.name]) for block in blocks]
        starts = np.array([block.start for block in blocks])

        def read(part: slice) -> Vector:
            first, last = (int(np.searchsorted(starts, at, "right")) for at in (part.start, part.stop - 1))
            pieces = [self._piece(flats[index], blocks[index].start, part) for index in range(first - 1, last)]
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

        own = {block.name for block in blocks}
        return Reader(read, lambda: _digest((name for name in found if name not in own), found))

    def _flat(self, tensor: Tensor) -> Tensor | Vector:
        """A tensor as it is, for NumPy if it can be: slices of it are taken by the ten thousand."""
        tensor = tensor.detach()
        return tensor.numpy() if tensor.device.type == "cpu" and tensor.dtype == self.dtype else tensor

    def _piece(self, found: Tensor | Vector, start: int, part: slice) -> Vector:
        """What a tensor that starts there in the vector has of a slice."""
        inside = found.reshape(-1)[max(part.start - start, 0) : part.stop - start]
        values: Vector = inside if isinstance(inside, np.ndarray) else inside.to("cpu", self.dtype).numpy()
        return values

    def vector(self, tensors: Mapping[str, Tensor]) -> Vector:
        """The parameters among them, (d,)."""
        parts = [tensors[block.name].detach().to("cpu", self.dtype).reshape(-1) for block in self.space]
        flat: Vector = torch.cat(parts).numpy()
        return flat

    def flat(self, theta: Vector | None = None) -> Tensor:
        """A vector on the device, (d,), a copy; this state's parameters if not given."""
        values = self.vector(self.tensors()) if theta is None else theta
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def inside(self, flat: Tensor, run: Run[T], threads: int | None) -> T:
        """Call `run` while the model's parameters are views of `flat`, and its buffers copies to write to.

        Args:
            flat: The parameters; may be written to meanwhile.
            run: Gets the model, and a function that puts the buffers back if they were written to.
            threads: Of torch, while it runs.
        """
        views = {block.name: flat[block.slice].view(block.shape) for block in self.space}
        found = self.tensors()
        rest = {
            name: value.detach().to(self.device, self.dtype if value.is_floating_point() else None, copy=True)
            for name, value in found.items()
            if name not in views
        }
        seen = {name: value._version for name, value in rest.items()}

        def reset() -> None:
            for name, value in rest.items():
                if value._version != seen[name]:
                    value.copy_(found[name])
                    seen[name] = value._version

        with untouched(self.model, threads):
            host = _Host(self.model)
            state = {f"model.{name}": value for name, value in {**rest, **views}.items()}
            result: T = torch.func.functional_call(host, state, (run, reset))
        return result

    def fingerprint(self) -> dict[str, str]:
        """Digests of the vector's parameters, and of all else: buffers and frozen parameters."""
        names = [block.name for block in self.space]
        tensors = self.tensors()
        return {
            "parameters": _digest(names, tensors),
            "buffers": _digest((name for name in tensors if name not in set(names)), tensors),
        }


class _Host(nn.Module):
    """Lets a whole loop run inside one `functional_call`, which swaps parameters once instead of once a batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Run[T], reset: Callable[[], None]) -> T:
        put_back = remembered(self.model)  # with the tensors that were swapped in

        def fresh() -> None:
            put_back()
            reset()

        return run(self.model, fresh)


def _digest(names: Iterable[str], tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for name in names:
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
