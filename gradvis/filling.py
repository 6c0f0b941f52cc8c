"""A store that fills: whoever is free computes what is not there; a resumed one is seen to be the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from gradvis.arrays import Values
from gradvis.layout import center_names
from gradvis.objective import Objective
from gradvis.schedule import Progress, Scheduler
from gradvis.store import Store
from gradvis.tiles import Tiles


def keep_center(store: Store, now: Values, objective: Objective, scheduler: Scheduler) -> None:
    """Keep the centre; or, on resume, see that it is still the same: loss code is in no fingerprint.

    Raises:
        ValueError: If it is another one; on every rank.
    """

    def keep_or_compare() -> None:
        before = store.read_center()
        if before is None:
            store.write_center(now)
        elif not np.allclose(
            before, now, rtol=1e-9 if objective.about.get("dtype") == "float64" else 1e-4, equal_nan=True
        ):
            column = center_names(store.about).index("loss")
            raise ValueError(
                f"the loss at the centre was {before[column]:.8g} when {store.path.name} was begun and is "
                f"{now[column]:.8g} now, so the code of the loss or the model has changed; give another --out, or "
                "--fresh to move the result aside"
            )

    scheduler.share(keep_or_compare)


def fill(
    store: Store,
    compute: Callable[[int], Values],
    objective: Objective,
    scheduler: Scheduler,
    progress: Callable[[int, int], None] | None,
) -> Mapping[str, Any]:
    """Compute the tiles that are not there, and tell how, at the least (a device may have run out of memory).

    Args:
        store: Where they go.
        compute: A tile's number to its values, (p, q).
        objective: Tells how it computed.
        scheduler: Who computes.
        progress: Called on the root with the points done and their number.
    """
    done = scheduler.share(store.done)
    todo = [tile for tile in store.tiles.order() if not done[tile]]

    def task(index: int) -> Mapping[str, Any]:
        store.write(todo[index], compute(todo[index]))
        return objective.how

    try:
        hows = scheduler.map(task, len(todo), counted(store.tiles, todo, progress))
    except BaseException as error:  # Ctrl-C and SIGTERM too: the door tells it
        error.add_note(f"what is done is kept in {store.path.name}: the same command goes on with it")
        raise
    return min([store.about["how"], *hows], key=lambda how: how.get("micro_batch") or 0)


def in_memory(
    tiles: Tiles,
    compute: Callable[[int], Values],
    columns: int,
    scheduler: Scheduler,
    progress: Callable[[int, int], None] | None,
) -> Values:
    """The values of every point, (*shape, q), kept nowhere else; see `fill`."""
    order = tiles.order()
    parts = scheduler.map(lambda index: compute(order[index]), tiles.count, counted(tiles, order, progress))
    values = np.empty((*tiles.shape, columns))
    for tile, part in zip(order, parts, strict=True):
        where = tiles.slices(tile)
        values[where] = part.reshape(values[where].shape)
    return values


def counted(tiles: Tiles, todo: list[int], progress: Callable[[int, int], None] | None) -> Progress | None:
    """Tiles to points: those that were there before count as done."""
    if progress is None:
        return None
    total = prod(tiles.shape)
    sizes = np.array([len(tiles.points(tile)) for tile in todo])
    reached = total - sizes.sum() + np.concatenate([[0], np.cumsum(sizes)])
    progress(int(reached[0]), total)
    return lambda count: progress(int(reached[count]), total)
