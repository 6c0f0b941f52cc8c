"""Lines, planes and volumes through several checkpoints, as they are: coordinates 0 and 1 are the checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import PurePath
from typing import Any

import numpy as np

from gradvis.objective import Objective
from gradvis.plane import Plane


def plane_between(objective: Objective, *checkpoints: Any, names: Sequence[str] | None = None) -> Plane:
    """The line, plane or volume through two, three or four checkpoints.

    The first one is the origin; each other one lies at 1 on an axis of its own (Goodfellow et al. 2015,
    "Qualitatively characterizing neural network optimization problems", for lines). The directions are
    the differences, neither normalised nor made orthogonal.

    Args:
        objective: Reads the checkpoints, and gives the names of their parameters.
        *checkpoints: Paths, modules, or mappings of names to tensors.
        names: What pictures call them; the ends of their paths where not given.

    Raises:
        ValueError: If there are fewer than two or more than four, or they do not span so many dimensions.
    """
    if not 2 <= len(checkpoints) <= 4:
        raise ValueError(f"a plane between checkpoints takes two, three or four of them, but {len(checkpoints)} came")
    names = names_of(checkpoints) if names is None else list(names)
    if len({*names}) != len(checkpoints) or len(names) != len(checkpoints):
        raise ValueError(f"{len(checkpoints)} names, all different, were wanted, but {', '.join(names)} came")
    thetas = np.stack([objective.read(checkpoint) for checkpoint in checkpoints])
    about = {"kind": "between", "checkpoints": names}
    plane = Plane(thetas[0], thetas[1:] - thetas[0], about, dict(zip(names, checkpoints, strict=True)))
    try:
        plane.project(thetas[:1])
    except ValueError as error:
        raise ValueError(
            f"checkpoints that differ were wanted, but {', '.join(names)} lie on fewer dimensions than {plane.k}: two "
            "of them are the same, or three lie on a line; leave one out"
        ) from error
    return plane


def names_of(checkpoints: Sequence[Any]) -> list[str]:
    """What pictures call them: as much of the end of each path as tells them apart, else a number.

    >>> names_of(["a/last.pt", "b/last.pt", {}])
    ['a/last.pt', 'b/last.pt', 'checkpoint 3']
    >>> names_of(["a.pt", "a.pt", {}])
    ['a.pt 1', 'a.pt 2', 'checkpoint 3']
    """
    paths = [PurePath(fspath(each)).parts if isinstance(each, (str, PathLike)) else () for each in checkpoints]
    ends = [""] * len(paths)
    for depth in range(1, max(map(len, paths)) + 1):
        ends = ["/".join(path[-depth:]) for path in paths]
        if max(Counter(filter(None, ends)).values()) == 1:
            break
    twice = {end for end, times in Counter(ends).items() if times > 1}
    return [f"{end or 'checkpoint'} {number}" if end in twice or not end else end for number, end in enumerate(ends, 1)]
