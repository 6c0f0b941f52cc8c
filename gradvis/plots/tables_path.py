"""The numbers of a trajectory for other programs: a line a checkpoint."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from gradvis.arrays import Values
from gradvis.plots.caption_path import caption
from gradvis.plots.tables import field, head, numbers, texts
from gradvis.plots.view import GREEK, TrajectoryLike
from gradvis.tracks import Track


def _numbers(result: TrajectoryLike) -> dict[str, Values]:
    """The columns of all runs one after the other: steps, places, distances, metrics, rates where they are known."""
    tracks = result.tracks
    columns = {"step": [track.steps for track in tracks]}
    for i, dim in enumerate(list(GREEK)[: tracks[0].coords.shape[1]]):
        columns[dim] = [track.coords[:, i] for track in tracks]
    columns["off_plane"] = [track.off_plane for track in tracks]
    for name in dict.fromkeys(name for track in tracks for name in (*track.own, *track.plane)):
        columns[name] = [_or_nan(track, track.own.get(name)) for track in tracks]
        columns[f"plane_{name}"] = [_or_nan(track, track.plane.get(name)) for track in tracks]
    if any(track.learning_rate is not None for track in tracks):
        columns["learning_rate"] = [_or_nan(track, track.learning_rate) for track in tracks]
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _or_nan(track: Track, values: Values | None) -> Values:
    return np.full(len(track.labels), np.nan) if values is None else values


def _table(result: TrajectoryLike) -> xarray.Dataset:
    names = [track.name for track in result.tracks for _ in track.labels]
    labels = [label for track in result.tracks for label in track.labels]
    columns: dict[str, Any] = {"run": names, "label": labels} | _numbers(result)
    order = ["run", "step", "label", *(name for name in columns if name not in ("run", "step", "label"))]
    return xarray.Dataset({name: ("checkpoint", columns[name]) for name in order})


def as_csv(result: TrajectoryLike, file: Path) -> None:
    """A line a checkpoint; numbers that read back exactly."""
    _table(result).to_dataframe().to_csv(file, index=False, na_rep="nan")


def as_nc(result: TrajectoryLike, file: Path) -> None:
    """A netCDF 3 file, which keeps no nested attributes: they become JSON text."""
    table = _table(result)
    table.attrs = texts({"gradvis": result.about})
    table.to_netcdf(file, engine="scipy")


def as_vtk(result: TrajectoryLike, file: Path) -> None:
    """A polyline a run in VTK's legacy format, as text (VTK File Formats, "Simple Legacy Formats")."""
    columns = _numbers(result)
    counts = [len(track.labels) for track in result.tracks]
    points = np.zeros((sum(counts), 3))
    for i, dim in enumerate(list(GREEK)[: result.tracks[0].coords.shape[1]]):
        points[:, i] = columns.pop(dim)
    edges = np.cumsum([0, *counts])
    chains = [" ".join(map(str, [stop - start, *range(start, stop)])) for start, stop in pairwise(edges)]
    lines = [*head(caption(result)), "DATASET POLYDATA", f"POINTS {len(points)} double", numbers(points.ravel())]
    lines += [f"LINES {len(counts)} {len(counts) + len(points)}", *chains, f"POINT_DATA {len(points)}"]
    lines += field("run", "int", np.repeat(np.arange(len(counts)), counts))
    for name, values in columns.items():
        lines += field(name, "double", values)
    file.write_text("\n".join(lines) + "\n", encoding="ascii")
