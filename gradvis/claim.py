"""The folder of a result, before anything is computed: made, or found with the same result in it to go on with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradvis import folder, layout
from gradvis.arrays import Values
from gradvis.folder import StoreError, explained, read_about, restored
from gradvis.plane import Plane
from gradvis.store import Store


def prepare(
    path: str | os.PathLike[str],
    *,
    kind: str,
    axes: Mapping[str, Values],
    metrics: tuple[str, ...],
    tile: tuple[int, ...],
    identity: Mapping[str, Any],
    provenance: Mapping[str, Any],
    plane: Plane,
    fixed: layout.Fixed = layout.NOTHING,
    late: layout.Late | None = None,
    fresh: bool = False,
) -> Path | None:
    """Make the folder of a result, or find the same result there to go on with. For the root alone.

    A result that is there is kept, finished or not, if all that its numbers depend on is the same.
    Torn tiles of it will count as not done.

    Args:
        path: The folder; its parent must exist.
        kind: `surface`, ...
        axes: The points of each axis in order, (n,) each, by name.
        metrics: What each point has; what marks a tile done, `layout.mark`, is among them.
        tile: Points of a tile along each axis; a result that is there keeps its own.
        identity: What the numbers depend on; JSON values. Kind, metrics, axes and plane are added here.
        provenance: What else is worth knowing later; JSON values.
        plane: Where the axes lie, with a direction for each; or where the places of a path lie.
        fixed: What is known already, beside the metrics: dims and values by name.
        late: What `Store.keep` will write: dims, shape and dtype by name.
        fresh: Move a result that is there aside, and start anew.

    Returns:
        Where an old result was moved to, if one was.

    Raises:
        StoreError: If something else is there, or the folder cannot be written. What is there stays.
    """
    about = layout.describe(kind, axes, metrics, tile, identity, provenance, plane, fixed)
    about |= {"late": list(late)} if late else {}
    place = restored(path)
    with explained(f"cannot write {place.name}", "nothing that was there is lost; make room, or give another --out"):
        vacant = folder.is_vacant(place)
        if vacant or fresh:
            with folder.building(place) as new:
                group = layout.create(new, about, axes, tile, fixed)
                layout.write_plane(group, plane)
                layout.create_late(group, late or {})
                layout.seal(new)
                moved = None if vacant else folder.move_aside(place)
                if folder.arrived(new, place):
                    return moved
                if fresh:
                    raise StoreError(f"another run has made {place.name} meanwhile; run the same command again")
        _keep(place, about)
        return None


def _keep(place: Path, wanted: dict[str, Any]) -> None:
    """See that the result that is there is the wanted one, and put it in order after a kill.

    Raises:
        StoreError: If it is another one.
    """
    there = read_about(place)
    if found := layout.reasons(there, wanted):
        raise StoreError(f"{place.name} holds another result: {', '.join(found)}; {folder.ELSEWHERE}")
    if there["complete"]:
        folder.sweep(place)
        return
    folder.free_aside(place)
    Store(place).mend()
