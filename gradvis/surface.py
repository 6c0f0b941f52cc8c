"""The loss on a grid of a line, a plane or a volume: cut into tiles, computed by whoever is free, kept as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import prod
from os import PathLike
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from gradvis.arrays import Values
from gradvis.claim import prepare
from gradvis.filling import fill, in_memory, keep_center
from gradvis.grid import Span, grid_on
from gradvis.landmarks import Landmark, as_records, from_records, landmarks
from gradvis.layout import as_dataset
from gradvis.notes import note
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.provenance import digest, versions
from gradvis.schedule import Cost, Scheduler, default_scheduler
from gradvis.store import Store
from gradvis.tiles import Tiles, tile_shape
from gradvis.tracks import Track
from gradvis.tracks import as_records as track_records
from gradvis.tracks import from_records as tracks_from

# Ours: enough tiles that ranks end together and a kill loses little; loading the data anew costs more a tile.
_TILES, _TILES_STREAMED, _TILES_A_RANK = 256, 64, 16
_POINTS = 8  # of a tile at least, if the ranks have tiles enough: each call of `evaluate` has its own cost


@dataclass(frozen=True, eq=False)
class Surface:
    """Metrics on a grid of a plane.

    Attributes:
        dataset: A variable a metric, and NAME_stderr, over the dims alpha[, beta[, gamma]]; float64.
        plane: Where the axes lie.
        done: Which points are computed, of the grid's shape; NaN where done means that the loss is NaN.
        about: How it was made: plane, objective, versions, seed, fingerprints.
    """

    dataset: xarray.Dataset
    plane: Plane
    done: NDArray[np.bool_]
    about: Mapping[str, Any]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What can be drawn: the metrics without their standard errors."""
        return tuple(name for name in self.about["metrics"] if not name.endswith("_stderr"))

    @property
    def center(self) -> dict[str, float]:
        """Every metric where all coordinates are zero, on the grid or not."""
        return dict(zip(self.about["metrics"], self.dataset["center"].values.tolist(), strict=True))

    @property
    def checkpoints(self) -> tuple[Landmark, ...]:
        """The checkpoints on its plane, with their own metrics and those of their places."""
        return from_records(self.about.get("checkpoints", []))

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The training runs that were dropped on its plane."""
        return tracks_from(self.about.get("tracks", []))

    def plot(self, path: str | PathLike[str] | None = None, **options: Any) -> Any:
        """Draw it, and write it if a path is given; see `gradvis.plots.plot` for the options.

        Returns:
            The matplotlib figure, or the plotly figure of an `.html`.
        """
        return import_module("gradvis.plots").plot(self, path, **options)

    def methods(self) -> str:
        """The paragraph for a paper."""
        return import_module("gradvis.methods").surface(self)


def loss_surface(
    objective: Objective,
    plane: Plane,
    span: Span | Sequence[Span] | None = None,
    resolution: int | Sequence[int] | None = None,
    *,
    out: str | PathLike[str] | None = None,
    fresh: bool = False,
    scheduler: Scheduler | None = None,
    progress: Callable[[int, int], None] | None = None,
    provenance: Mapping[str, Any] | None = None,
    tracks: Sequence[Track] = (),
) -> Surface:
    """Evaluate the objective on a grid of a plane.

    Args:
        objective: What is evaluated, in full at every point. Where no batch-norm policy was chosen, that of
            the plane: `recalibrate` for one through several checkpoints.
        plane: Where; of one to three dimensions. Its checkpoints are measured too, each with its own buffers.
        span: See `grid`; in units of the plane's directions. -1 to 1 where not given, between checkpoints
            -0.5 to 1.5, on a principal plane the box of its path and 20 % more.
        resolution: See `grid`.
        out: A folder that grows as tiles come in. If it holds the same surface unfinished, that is gone
            on with; if it holds another, it is left alone and ValueError says what differs.
        fresh: Move a result that lies at `out` aside first.
        scheduler: Who computes: MPI if launched with several ranks, else this process.
        progress: Called on the root with the points done and their number, as tiles come in.
        provenance: More to record with the result.
        tracks: Training runs on this plane (`trajectory.tracks`), to be kept and drawn with it.

    Raises:
        ValueError: If an argument does not fit, or the result at `out` is another one.
        TaskError: If an evaluation raises; on every rank.
    """
    scheduler = scheduler or default_scheduler()
    progress = progress if scheduler.is_root else None
    objective = objective.on(plane)
    axes = grid_on(plane, span, resolution)
    if "box" not in plane.about and not tracks:  # which go round a path
        _tell_missed_centre(axes)
    tiles = Tiles(axes, _tile(axes, objective, scheduler.size))
    identity: dict[str, Any] = {"objective": objective.about, "fingerprint": objective.fingerprint()}
    if plane.checkpoints:  # they are measured too, and need not span the plane
        marked = {name: digest(objective.read(state)) for name, state in plane.checkpoints.items()}
        identity["checkpoints"] = marked
    scheduler.agree({**identity["fingerprint"], "plane": digest(plane.origin, plane.directions)})
    about = {**(provenance or {}), "plane": dict(plane.about), "objective": objective.about, "how": objective.how}
    about |= {"versions": versions(), "fingerprint": identity["fingerprint"], "ranks": scheduler.size}
    about["space"] = digest("; ".join(objective.space.names).encode())
    about |= {"tracks": track_records(tracks)} if tracks else {}
    if out is None:
        return _in_memory(objective, plane, tiles, about, scheduler, progress)
    scheduler.share(
        lambda: prepare(
            out, kind="surface", axes=axes, metrics=objective.metrics, tile=tiles.tile,
            identity=identity, provenance=about, plane=plane, fresh=fresh,
        )
    )  # fmt: skip
    store = Store(out)
    objective = objective.again(store.about["how"])
    keep_center(store, _center(objective, plane), objective, scheduler)
    if not store.complete:
        marks = landmarks(objective, plane, scheduler)

        def compute(tile: int) -> Values:
            return objective.evaluate(plane, store.tiles.points(tile))

        how = fill(store, compute, objective, scheduler, progress)
        scheduler.share(lambda: store.finish({"how": how, "checkpoints": as_records(marks)}))
    return open_surface(out)


def _tell_missed_centre(axes: Mapping[str, Values]) -> None:
    missed = [name for name, points in axes.items() if points[0] < 0 < points[-1] and 0 not in points]
    if missed:
        spans = ", ".join(f"{len(axes[name])} points from {axes[name][0]:g} to {axes[name][-1]:g}" for name in missed)
        note(f"no grid point has {' or '.join(missed)} = 0 ({spans}); what is at the centre is stored in any case")


def _tile(axes: Mapping[str, Values], objective: Objective, ranks: int) -> tuple[int, ...]:
    shape = tuple(map(len, axes.values()))
    tiles = max(_TILES_STREAMED if objective.streamed else _TILES, _TILES_A_RANK * ranks)
    few = min(_POINTS, prod(shape) // (_TILES_A_RANK * ranks))
    return tile_shape(shape, max(objective.points, prod(shape) // tiles, few, 1))


def _center(objective: Objective, plane: Plane) -> Values:
    return objective.evaluate(plane, np.zeros((1, plane.k)))[0]


def _in_memory(
    objective: Objective, plane: Plane, tiles: Tiles, about: dict[str, Any], scheduler: Scheduler, progress: Any
) -> Surface:
    center = _center(objective, plane)
    marks = landmarks(objective, plane, scheduler)

    def compute(tile: int) -> Values:
        return objective.evaluate(plane, tiles.points(tile))

    values = in_memory(tiles, compute, len(objective.metrics), scheduler, progress)
    about |= {"kind": "surface", "complete": True, "metrics": list(objective.metrics), "tile": list(tiles.tile)}
    about |= {"how": objective.how, "checkpoints": as_records(marks)}
    return Surface(as_dataset(about, tiles.axes, values, center), plane, np.ones(tiles.shape, bool), about)


def open_surface(path: str | PathLike[str]) -> Surface:
    """A surface from its folder, finished or not."""
    dataset, done, plane = Store(path).snapshot()
    return Surface(dataset, plane, done, dataset.attrs["gradvis"])


def surface_cost(
    objective: Objective,
    plane: Plane,
    span: Span | Sequence[Span] | None = None,
    resolution: int | Sequence[int] | None = None,
    scheduler: Scheduler | None = None,
) -> Cost:
    """What `loss_surface` with the same arguments will take; two points are evaluated for it, on every rank."""
    scheduler = scheduler or default_scheduler()
    objective = objective.on(plane)
    axes = grid_on(plane, span, resolution)
    times = []
    for _ in range(2):  # the first one pays for starting up
        start = time.perf_counter()
        _center(objective, plane)
        times.append(time.perf_counter() - start)
    points = prod(map(len, axes.values()))
    tiles = Tiles(axes, _tile(axes, objective, scheduler.size)).count
    seconds = times[0] + -(-points // scheduler.size) * times[1]
    return Cost(points, seconds, objective.memory(plane.k), tiles * len(objective.metrics) + 30)
