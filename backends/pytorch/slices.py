"""Slices of a recorded step, in the order of a model's parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from gradvis.arrays import Vector
from gradvis.backends.pytorch.checkpoints import places
from gradvis.backends.pytorch.matching import Tensors
from gradvis.recording import Recorded
from gradvis.space import ParameterSpace


def slices(
    model: nn.Module, space: ParameterSpace, dtype: torch.dtype, recorded: Recorded
) -> tuple[Callable[[slice], Vector], Callable[[], Tensors]]:
    """How a recorded step is read in parts: a slice of its vector, and all that is no part of the vector.

    Args:
        model: Says which names are wanted; it is not touched. What was not recorded is as the model has it.
        space: The parameters that make up the vector.
        dtype: Of the vector.
        recorded: The step.

    Raises:
        ValueError: If it is of another architecture.
    """
    called = places(model, recorded)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    blocks = recorded.recording.blocks
    starts = {block.name: blocks[called[block.name]].start for block in space if block.name in called}

    def read(part: slice) -> Vector:
        pieces: list[tuple[int, int] | Vector] = []
        for block in space:
            first, last = max(part.start, block.start) - block.start, min(part.stop, block.slice.stop) - block.start
            if first >= last:
                continue
            if block.name not in starts:
                pieces.append(_kept(own[block.name], first, last, dtype))
                continue
            place = starts[block.name] + first, starts[block.name] + last
            before = pieces[-1] if pieces else None
            if isinstance(before, tuple) and before[1] == place[0]:  # one reading for what lies together
                pieces[-1] = before[0], place[1]
            else:
                pieces.append(place)
        found = [recorded.parameters(*each) if isinstance(each, tuple) else each for each in pieces]
        whole: Vector = np.concatenate(found).astype(str(dtype).removeprefix("torch."), copy=False)
        return whole

    def rest() -> Tensors:
        names = {block.name for block in space}
        others = {name: called[name] for name in own if name not in names and name in called}
        stored = recorded.tensors(set(others.values()))
        found = {name: torch.from_numpy(stored[other]) for name, other in others.items()}
        return {name: found.get(name, value) for name, value in own.items() if name not in names}

    return read, rest


def _kept(value: torch.Tensor, first: int, last: int, dtype: torch.dtype) -> Vector:
    kept: Vector = value.detach().reshape(-1)[first:last].to("cpu", dtype).numpy()
    return kept
