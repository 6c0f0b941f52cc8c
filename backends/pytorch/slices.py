"""Slices of a recorded step, in the order of a model's parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from gradvis.arrays import Vector
from gradvis.backends.pytorch.checkpoints import places
from gradvis.backends.pytorch.matching import Tensors
from gradvis.backends.recorded import Place
from gradvis.backends.recorded import slices as recorded_slices
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
    blocks, short = recorded.recording.blocks, str(dtype).removeprefix("torch.")

    def kept(name: str) -> Callable[[slice], Vector]:
        return lambda part: own[name].detach().reshape(-1)[part].to("cpu", dtype).numpy()

    wanted = [
        Place(
            block.start,
            block.slice.stop,
            blocks[called[block.name]].start if block.name in called else None,
            kept(block.name),
        )
        for block in space
    ]

    def rest() -> Tensors:
        names = {block.name for block in space}
        others = {name: called[name] for name in own if name not in names and name in called}
        stored = recorded.tensors(set(others.values()))
        found = {name: torch.from_numpy(stored[other]) for name, other in others.items()}
        return {name: found.get(name, value) for name, value in own.items() if name not in names}

    return recorded_slices(wanted, recorded.parameters, short), rest
