"""What torch sees of this machine's accelerators, for `gradvis info`."""

from __future__ import annotations

import torch

from gradvis.backends.pytorch.compute import find_device


def seen(local_rank: int) -> dict[str, object]:
    """The accelerators by name, and the device that `--device auto` gives to one rank of this machine.

    >>> sorted(seen(0))
    ['devices', 'takes', 'torch for']
    """
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    mps = ["Apple GPU (mps)"] if torch.backends.mps.is_available() else []
    return {"takes": str(find_device("auto", local_rank)), "devices": names or mps, "torch for": _build()}


def _build() -> str:
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
