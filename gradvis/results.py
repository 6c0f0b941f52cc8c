"""Opens any result."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TypeAlias

from gradvis.folder import read_about
from gradvis.recording import Recording
from gradvis.spectrum import Spectrum, open_spectrum
from gradvis.surface import Surface, open_surface
from gradvis.trajectory import Trajectory, open_trajectory

Result: TypeAlias = Surface | Trajectory | Spectrum | Recording

_KINDS: dict[str, Callable[[str | PathLike[str]], Result]] = {
    "surface": open_surface,
    "trajectory": open_trajectory,
    "spectrum": open_spectrum,
    "recording": Recording,
}


def open(path: str | PathLike[str]) -> Result:  # noqa: A001 - gradvis.open, as the contract has it
    """A result from its folder, finished or not.

    Raises:
        ValueError: If no result of ours is there.
    """
    kind = read_about(path)["kind"]
    if kind not in _KINDS:
        raise ValueError(f"{path} holds a {kind}, which this version of gradvis cannot open; update gradvis")
    return _KINDS[kind](path)
