"""What is measured of checkpoints that were dropped onto a plane, and what is recorded beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradvis.arrays import Values
from gradvis.layout import Fixed
from gradvis.notes import note
from gradvis.objective import NotFiniteError, Objective
from gradvis.projected import Projected
from gradvis.provenance import digest, versions
from gradvis.schedule import Scheduler
from gradvis.tiles import Tiles

_TILES_A_RANK, _POINTS = 4, 8  # ours: ranks end together, and points of the plane share what a call costs


class Measurements:
    """What is measured of projected checkpoints, in columns: their own metrics, then those of their places.

    Attributes:
        objective: Measures each checkpoint as it stands.
        found: The checkpoints and the plane.
        on_plane: Measures points of the plane.
        metrics: The names of the columns.
        tiles: How the checkpoints are shared out.
    """

    def __init__(
        self, objective: Objective, found: Projected, scheduler: Scheduler, tiles: Tiles | None = None
    ) -> None:
        self.objective, self.found, self.scheduler = objective, found, scheduler
        self.on_plane = objective.at(found.checkpoints[-1]).on(found.plane)
        self.metrics = (*objective.metrics, *(f"plane_{name}" for name in objective.metrics))
        steps = np.concatenate([run.steps for run in found.runs])
        side = max(1, min(_POINTS, len(steps) // (_TILES_A_RANK * scheduler.size)))
        self.tiles = tiles or Tiles({"step": steps}, (side,))

    def compute(self, tile: int) -> Values:
        """The metrics of a tile's checkpoints, (p, q)."""
        [part] = self.tiles.slices(tile)
        own = [self._own(index) for index in range(part.start, part.stop)]
        return np.hstack([np.stack(own), self.on_plane.evaluate(self.found.plane, self.found.places.coords[part])])

    def _own(self, index: int) -> Values:
        """A checkpoint's metrics with its own parameters and buffers; NaN where these are not finite."""
        try:
            there = self.objective.at(self.found.checkpoints[index]).stored()
        except NotFiniteError:  # its parameters are finite: `found` has no others
            label = [label for run in self.found.runs for label in run.labels][index]
            note(f"{label} has NaN or inf in its buffers: it has no loss of its own")
            return np.full(len(self.objective.metrics), np.nan)
        measured = there.measure(there.parameters())
        return np.array([measured[name] for name in self.objective.metrics])

    def center(self) -> Values:
        """The last checkpoint's own metrics, and those of the plane's origin."""
        origin = self.on_plane.evaluate(self.found.plane, np.zeros((1, self.found.plane.k)))[0]
        return np.concatenate([self._own(len(self.found.checkpoints) - 1), origin])

    def fixed(self) -> Fixed:
        """What is known before anything is measured."""
        runs, plane = self.found.runs, self.found.plane
        unknown = [np.nan] * plane.k
        rates = [np.full(len(run.steps), np.nan) if run.learning_rate is None else run.learning_rate for run in runs]
        number = np.repeat(np.arange(len(runs), dtype=np.float64), [len(run.steps) for run in runs])
        return {
            "component": (("component",), np.array(plane.about.get("components", range(1, plane.k + 1)), np.float64)),
            "coordinates": (("step", "component"), self.found.places.coords),
            "off_plane": (("step",), self.found.places.off_plane),
            "explained_variance": (("component",), np.array(plane.about.get("explained_variance", unknown))),
            "random_walk": (("component",), np.array(plane.about.get("random_walk", unknown))),
            "learning_rate": (("step",), np.concatenate(rates)),
            "run": (("step",), number),
        }

    def identity(self) -> dict[str, Any]:
        """What the numbers depend on."""
        data = {name: value for name, value in self._fingerprint().items() if name not in {"parameters", "buffers"}}
        rest = self.scheduler.map(lambda index: self.found.readers[index].rest(), len(self.found.readers))
        checkpoints = {"checkpoints": self.found.digest, "buffers": digest(" ".join(rest).encode())}
        return {"objective": self.on_plane.about, "fingerprint": data, **checkpoints}

    def _fingerprint(self) -> dict[str, str]:
        return self.on_plane.fingerprint()

    def about(self) -> dict[str, Any]:
        """What is recorded beside it."""
        fingerprint = self._fingerprint()
        plane = self.found.plane
        self.scheduler.agree({**fingerprint, "plane": digest(plane.origin, plane.directions)})
        return {
            "plane": dict(plane.about),
            "objective": self.on_plane.about,
            "how": self.on_plane.how,
            "versions": versions(),
            "fingerprint": fingerprint,
            "ranks": self.scheduler.size,
            "space": digest("; ".join(self.objective.space.names).encode()),
            "runs": [{"name": run.name, "labels": list(run.labels)} for run in self.found.runs],
        }
