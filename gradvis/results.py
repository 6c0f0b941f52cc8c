"""Opens any result."""

from __future__ import annotations

from os import PathLike

from gradvis.folder import read_about
from gradvis.surface import Surface, open_surface

_KINDS = {"surface": open_surface}


def open(path: str | PathLike[str]) -> Surface:  # noqa: A001 - gradvis.open, as the contract has it
    """A result from its folder, finished or not.

    Raises:
        ValueError: If no result of ours is there.
    """
    kind = read_about(path)["kind"]
    if kind not in _KINDS:
        raise ValueError(f"{path} holds a {kind}, which this version of gradvis cannot open; update gradvis")
    return _KINDS[kind](path)
