"""What the picture of a trajectory says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradvis.plots.caption import directions, measured, version
from gradvis.plots.view import TrajectoryLike
from gradvis.plots.words import listing, number, shortened
from gradvis.tracks import Track

_GROUNDS = {1: "line", 2: "plane", 3: "volume"}


def subject(result: TrajectoryLike) -> str:
    """Whose path is drawn: the title of a page."""
    names = [shortened(track.name, 28) for track in result.tracks]
    if len(names) > 1:
        return f"Training paths of {listing(names)}"
    return f"Training path of {result.about.get('name') or names[0]}"


def caption(result: TrajectoryLike, apart: int = 0) -> str:
    """What the picture of a trajectory shows, with the policies it hangs on.

    Args:
        result: The trajectory.
        apart: How many of its checkpoints lie outside of the ground.
    """
    about, tracks = result.about, result.tracks
    objective, plane = about.get("objective") or {}, about.get("plane") or {}
    where = f"on the {_GROUNDS[tracks[0].coords.shape[1]]} {_spanned(plane)}".rstrip()
    counts = [len(track.steps) for track in tracks]
    many = listing([str(count) for count in counts]) if len(set(counts)) > 1 else str(counts[0])
    each = " each" if len(counts) > 1 and len(set(counts)) == 1 else ""
    first = f"{subject(result)} {where}, {many} checkpoint{'s' * (max(counts) > 1)}{each}"
    facts = [measured(objective), *_differ(objective, tracks), *_beside(apart), *_part(about), *version(about)]
    said = "; ".join(filter(None, facts))
    return f"{first}: {said}." if said else f"{first}."


def _spanned(plane: Mapping[str, Any]) -> str:
    """What spans the plane."""
    if plane.get("kind") == "pca":
        numbers = [str(each) for each in plane.get("components") or ()]
        around = "variance about the last checkpoint" if plane.get("anchored") else "centred over time"
        name = "of principal direction" + "s" * (len(numbers) != 1)
        return f"{name} {listing(numbers)}".rstrip() + f" ({around})"
    if plane.get("kind") == "between" and plane.get("checkpoints"):
        return f"through {listing([shortened(str(each), 28) for each in plane['checkpoints']])}"
    nouns = directions(plane)
    return f"along {nouns}" if nouns else ""


def _differ(objective: Mapping[str, Any], tracks: Sequence[Track]) -> list[str]:
    """Why true loss and plane loss may be two things."""
    off = max((float(np.nanmax(track.off_plane)) for track in tracks if np.isfinite(track.off_plane).any()), default=0)
    buffers = ", with its own batch-norm statistics" if objective.get("batch_norm") else ""
    away = f", up to {number(off)} off the plane" if off > 0 else ""
    return [f"true loss is that of the checkpoint itself{away}{buffers}"] if away or buffers else []


def _part(about: Mapping[str, Any]) -> list[str]:
    return [] if about.get("complete", True) else ["not all of it measured yet"]


def _beside(apart: int) -> list[str]:
    return [f"{apart} checkpoint{'s lie' if apart > 1 else ' lies'} outside of the surface"] if apart else []
