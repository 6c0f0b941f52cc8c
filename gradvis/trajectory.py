"""Where training went: checkpoints dropped onto a plane, with what each one loses there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from os import PathLike
from typing import Any

import numpy as np
import xarray

from gradvis.claim import prepare
from gradvis.filling import fill, in_memory, keep_center
from gradvis.grid import Span, around
from gradvis.layout import as_dataset
from gradvis.measurements import Measurements
from gradvis.notes import note
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.principal import box
from gradvis.projected import projected
from gradvis.runs import Run, runs_of
from gradvis.schedule import Cost, Scheduler, default_scheduler
from gradvis.store import Store
from gradvis.surface import Surface, loss_surface
from gradvis.tracks import Track


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Training runs on a plane.

    Attributes:
        dataset: Over the dims step and component: `coordinates`, `off_plane`, `loss` and the other metrics (each
            checkpoint's own), `plane_loss` and so on (those of its place on the plane), `explained_variance` beside
            that of a `random_walk` (NaN where the plane is no principal one), `learning_rate` where it is known,
            `run` (the number of the training run). Float64.
        plane: What they were dropped on.
        about: How it was made: runs, plane, objective, versions, fingerprints.
    """

    dataset: xarray.Dataset
    plane: Plane
    about: Mapping[str, Any]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What a checkpoint has of its own, without standard errors."""
        names = [name for name in self.about["metrics"] if not name.startswith("plane_")]
        return tuple(name for name in names if not name.endswith("_stderr"))

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The runs one by one, as pictures take them."""
        numbers = self.dataset["run"].values
        return tuple(
            _track(self, run, np.flatnonzero(numbers == index)) for index, run in enumerate(self.about["runs"])
        )

    def plot(self, path: str | PathLike[str] | None = None, **options: Any) -> Any:
        """Draw it, and write it if a path is given; see `gradvis.plots.plot` for the options, `ground` among them.

        Returns:
            The matplotlib figure, or the plotly figure of an `.html`.
        """
        return import_module("gradvis.plots").plot(self, path, **options)

    def methods(self) -> str:
        """The paragraph for a paper."""
        return import_module("gradvis.methods").trajectory(self)

    def surface(
        self,
        objective: Objective,
        span: Span | Sequence[Span] | None = None,
        resolution: int | Sequence[int] | None = None,
        *,
        margin: float = 0.2,
        **options: Any,
    ) -> Surface:
        """The loss around the path: `gradvis.loss_surface` on its plane, which then knows the path.

        Args:
            objective: As for `project_trajectory`; standing at the last checkpoint, where buffers or frozen parameters
                matter: `objective.at(checkpoint)`.
            span: See `gradvis.loss_surface`; the box of the path and its margin where not given.
            resolution: See `gradvis.loss_surface`.
            margin: How much more than the path is shown on each side, as a share of its extent.
            **options: Of `gradvis.loss_surface`.
        """
        coords = self.dataset["coordinates"].values
        wide = around(box(coords[np.isfinite(coords).all(axis=1)]), margin) if span is None else span
        on_plane = objective.on(self.plane)
        statistics = on_plane.about.get("batch_norm") == "recalibrate"  # which are made anew anyway
        if not statistics and on_plane.fingerprint()["buffers"] != self.about["fingerprint"]["buffers"]:
            note(
                "the surface has the buffers and frozen parameters of the objective's model, but the path those of its "
                "last checkpoint; objective.at(checkpoint) has them too"
            )
        return loss_surface(objective, self.plane, wide, resolution, tracks=self.tracks, **options)


def project_trajectory(
    objective: Objective,
    checkpoints: Any,
    plane: Plane | None = None,
    *,
    components: Sequence[int] = (1, 2),
    anchored: bool = False,
    every: int = 1,
    out: str | PathLike[str] | None = None,
    fresh: bool = False,
    scheduler: Scheduler | None = None,
    progress: Callable[[int, int], None] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Trajectory:
    """Drop training runs onto a plane, and measure each checkpoint there and where it was.

    The principal plane comes from a Gram matrix, read in slices of parameters: memory does not grow with the
    number of checkpoints. Coordinates are least-squares ones; distances from the plane are added up, not subtracted.

    Args:
        objective: Measures; also says which parameters count.
        checkpoints: A recording, a folder or glob of checkpoints, a list of them in order, or several of these, in a
            list or by name in a dict; see `gradvis.runs.runs_of`. Those that are not finite are left out, with a note.
        plane: What they are dropped on; their principal plane, pinned at the last checkpoint, where not given.
        components: Of the principal plane, by number, 1 for the most variance; one, two or three of them.
        anchored: Variance about the last checkpoint (as GradVis), not about the mean over time.
        every: Every how-manieth checkpoint of each run is taken, and the last one.
        out: See `gradvis.loss_surface`.
        fresh: See `gradvis.loss_surface`.
        scheduler: Who computes: MPI if launched with several ranks, else this process.
        progress: Called on the root with the checkpoints measured and their number.
        provenance: More to record with the result.

    Raises:
        ValueError: If checkpoints do not fit the objective or each other, or an argument does not fit.
        TypeError: If plane or components are none.
        TaskError: If a measurement raises; on every rank.
    """
    _check_plane(plane, components)
    scheduler = scheduler or default_scheduler()
    progress = progress if scheduler.is_root else None
    found = projected(objective, runs_of(checkpoints, every), plane, components, anchored, scheduler)
    job = Measurements(objective, found, scheduler)
    about = {**(provenance or {}), **job.about()}
    if out is None:
        center = job.center()
        values = in_memory(job.tiles, job.compute, len(job.metrics), scheduler, progress)
        about |= {"kind": "trajectory", "complete": True, "metrics": list(job.metrics), "how": job.on_plane.how}
        return Trajectory(as_dataset(about, job.tiles.axes, values, center, job.fixed()), found.plane, about)
    identity = job.identity()  # all ranks look at the checkpoints, the root alone at the folder
    scheduler.share(
        lambda: prepare(
            out, kind="trajectory", axes=job.tiles.axes, metrics=job.metrics, tile=job.tiles.tile,
            identity=identity, provenance=about, plane=found.plane, fixed=job.fixed(), fresh=fresh,
        )
    )  # fmt: skip
    store = Store(out)
    job = Measurements(objective.again(store.about["how"]), found, scheduler, store.tiles)
    keep_center(store, job.center(), job.on_plane, scheduler)
    if not store.complete:
        how = fill(store, job.compute, job.on_plane, scheduler, progress)
        scheduler.share(lambda: store.finish({"how": how}))
    return replace(open_trajectory(out), plane=found.plane)  # with the checkpoints it goes through


def _check_plane(plane: Any, components: Any) -> None:
    """See that they are of the right kind.

    Raises:
        TypeError: If not.
        ValueError: If the plane is a point.
    """
    if plane is not None and not isinstance(plane, Plane):
        raise TypeError(f"plane must be a gradvis.Plane, but {plane!r:.80} came; leave it out for the principal plane")
    if not isinstance(components, Sequence) or isinstance(components, str):
        raise TypeError(f"components must be a sequence such as (1, 2), but {components!r:.80} came")
    if plane is not None and plane.k == 0:
        raise ValueError("a plane with at least one direction was wanted, but this one is a point; give another")


def open_trajectory(path: str | PathLike[str]) -> Trajectory:
    """A trajectory from its folder, finished or not."""
    dataset, _, plane = Store(path).snapshot()
    return Trajectory(dataset, plane, dataset.attrs["gradvis"])


def trajectory_cost(objective: Objective, runs: Sequence[Run], scheduler: Scheduler) -> Cost:
    """What `project_trajectory` will take of time, at the least; two measurements are made for it, on every rank."""
    theta, seconds = objective.parameters(), 0.0
    for _ in range(2):  # the first one pays for starting up
        start = time.perf_counter()
        objective.stored().measure(theta)
        seconds = time.perf_counter() - start
    count = 2 * sum(len(run.steps) for run in runs)
    return Cost(count, seconds * -(-count // scheduler.size), objective.memory(2), 4 * len(objective.metrics) + count)


def principal_plane(
    checkpoints: Any,
    objective: Objective | None = None,
    *,
    components: Sequence[int] = (1, 2),
    anchored: bool = False,
    every: int = 1,
    scheduler: Scheduler | None = None,
) -> Plane:
    """The plane of most variance of a training run, pinned at its last checkpoint; directions of unit length.

    Args:
        checkpoints: A trajectory, whose principal plane it is; or what `project_trajectory` takes.
        objective: Reads the checkpoints; without it they are vectors, (t, d) or t times (d,).
        components: See `project_trajectory`.
        anchored: See `project_trajectory`.
        every: See `project_trajectory`.
        scheduler: Who computes.

    Raises:
        ValueError: If a trajectory lies on another plane, or checkpoints do not fit.
    """
    if isinstance(checkpoints, Trajectory):
        if checkpoints.plane.about.get("kind") != "pca":
            raise ValueError(
                "this trajectory lies on a plane that is not its principal one; give the checkpoints and objective="
            )
        return checkpoints.plane
    runs = runs_of(checkpoints, every) if objective else _vectors(checkpoints, every)
    return projected(objective, runs, None, components, anchored, scheduler or default_scheduler()).plane


def _vectors(checkpoints: Any, every: int) -> tuple[Run, ...]:
    """Plain vectors as a run.

    Raises:
        ValueError: If they are none.
    """
    given = list(checkpoints) if isinstance(checkpoints, Iterable) else []
    rows = [each for each in given if isinstance(each, np.ndarray) and each.ndim == 1]
    if len(rows) != len(given) or len({len(row) for row in rows}) != 1:
        raise ValueError("without objective=, checkpoints are vectors of one length; give objective= to read others")
    return runs_of({"training": list(np.asarray(rows))}, every)  # in one dtype


def _track(trajectory: Trajectory, run: Mapping[str, Any], rows: Any) -> Track:
    """One run of a trajectory, from its rows."""
    data = trajectory.dataset
    rate = data["learning_rate"].values[rows]
    return Track(
        run["name"],
        data["step"].values[rows],
        tuple(run["labels"]),
        data["coordinates"].values[rows],
        data["off_plane"].values[rows],
        {name: data[name].values[rows] for name in trajectory.metrics},
        {name: data[f"plane_{name}"].values[rows] for name in trajectory.metrics},
        rate if np.isfinite(rate).any() else None,
    )
