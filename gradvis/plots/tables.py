"""The numbers of a surface for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from gradvis.plots.caption import caption
from gradvis.plots.view import SurfaceLike


def _grid(surface: SurfaceLike) -> xarray.Dataset:
    """What lies on the grid: the metrics, their standard errors, and `done`, 1 where a point is computed."""
    dims = surface.dataset["loss"].dims
    names = [name for name, array in surface.dataset.data_vars.items() if array.dims == dims]
    return surface.dataset[names].assign(done=(dims, np.asarray(surface.done).astype(np.int8)))


def as_csv(surface: SurfaceLike, file: Path) -> None:
    """A line a point: coordinates, metrics, done; numbers that read back exactly."""
    _grid(surface).to_dataframe().reset_index().to_csv(file, index=False, na_rep="nan")


def as_nc(surface: SurfaceLike, file: Path) -> None:
    """A netCDF 3 file, which keeps no nested attributes: they become JSON text."""
    done = _grid(surface)["done"]
    whole = surface.dataset.assign(done=done)
    whole.attrs = texts(whole.attrs)
    for name in whole.variables:
        whole[name].attrs = texts(whole[name].attrs)
    whole.to_netcdf(file, engine="scipy")


def texts(attributes: Mapping[Any, Any]) -> dict[Any, Any]:
    """Attributes that netCDF 3 can hold."""
    return {
        name: value if isinstance(value, (str, int, float)) else json.dumps(value, default=str)
        for name, value in attributes.items()
    }


def as_vtk(surface: SurfaceLike, file: Path) -> None:
    """A rectilinear grid in VTK's legacy format, as text (VTK File Formats, "Simple Legacy Formats")."""
    grid = _grid(surface)
    dims = grid["loss"].dims
    axes = [grid[dim].values for dim in dims] + [np.zeros(1)] * (3 - len(dims))
    said = caption(surface.about, float(np.mean(surface.done)), len(dims))
    lines = [*head(said), "DATASET RECTILINEAR_GRID", f"DIMENSIONS {' '.join(str(axis.size) for axis in axes)}"]
    for name, axis in zip("XYZ", axes, strict=True):
        lines += [f"{name}_COORDINATES {axis.size} double", numbers(axis)]
    lines.append(f"POINT_DATA {grid['loss'].size}")
    for metric, array in grid.data_vars.items():
        kind = "int" if metric == "done" else "double"
        values = array.transpose(*dims).values.ravel(order="F")  # x runs fastest
        lines += field(str(metric), kind, values)
    file.write_text("\n".join(lines) + "\n", encoding="ascii")


def head(said: str) -> list[str]:
    """The first lines of a file in VTK's legacy format, with a title."""
    return ["# vtk DataFile Version 3.0", said.encode("ascii", "replace").decode()[:255], "ASCII"]


def field(name: str, kind: str, values: Any) -> list[str]:
    """One number a point, under a name."""
    return [f"SCALARS {'_'.join(name.split())} {kind} 1", "LOOKUP_TABLE default", numbers(values)]


def numbers(values: Any) -> str:
    """Numbers that read back exactly, nine a line."""
    texts = list(map(repr, values.tolist()))
    return "\n".join(" ".join(texts[i : i + 9]) for i in range(0, len(texts), 9))
