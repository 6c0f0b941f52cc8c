"""What is in a result on a grid: its Zarr arrays, and what makes it this result and no other."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray
import zarr
from zarr.codecs import Crc32cCodec

from gradvis.arrays import Values
from gradvis.folder import FORMAT, StoreError
from gradvis.plane import Plane
from gradvis.provenance import differences, digest

Array: TypeAlias = zarr.Array[Any]

Fixed: TypeAlias = Mapping[str, tuple[tuple[str, ...], Values]]  # arrays and their dims by name
Late: TypeAlias = Mapping[str, tuple[tuple[str, ...], tuple[int, ...], str]]  # dims, shape and dtype by name
NOTHING: Fixed = {}

_DERIVED = {"explained_variance", "random_walk", "box"}  # of a plane: they follow from its checkpoints
_PLANE_CHUNK = 2**26  # bytes
_CHECKSUM = Crc32cCodec()  # tells a torn chunk; losses hardly compress
_MARKS = {"spectrum": "residual"}  # the last of a tile to be written, which says that it is done
_COUNTED = {"spectrum"}  # its axes count what its identity names anyway
_FLAT: Any = {"name": "default", "separator": "."}  # no folders within an array: clusters count inodes
# Else an all-NaN chunk would vanish; no property of the stored array, so it is said at every opening.
_WRITE_ALL: Any = {"write_empty_chunks": True}


def create(
    folder: Path, about: Mapping[str, Any], axes: Mapping[str, Values], chunk: tuple[int, ...], fixed: Fixed = NOTHING
) -> zarr.Group:
    """A new group with its axes and what is fixed written, and its metrics empty; `seal` it when all is there."""
    group = zarr.create_group(folder, attributes={"gradvis": dict(about)})
    names, metrics, center = tuple(axes), list(about["metrics"]), center_names(about)
    for name, points in axes.items():
        _array(group, name, (len(points),), (name,))[:] = points
    for metric in metrics:
        _array(group, metric, tuple(map(len, axes.values())), names, chunk)
    for name, (dims, array) in fixed.items():
        _array(group, name, array.shape, dims)[...] = array
    _array(group, "center", (len(center),), ("metric",)).update_attributes({"metrics": center})
    return group


def center_names(about: Mapping[str, Any]) -> list[str]:
    """What is known of the centre: the metrics, if nothing else is said."""
    return list(about.get("center", about["metrics"]))


def mark(kind: str) -> str:
    """The metric that marks a tile done; NaN is a value like any other."""
    return _MARKS.get(kind, "loss")


def create_late(group: zarr.Group, late: Late) -> None:
    """Add arrays that are written when the metrics are: empty, each row a chunk."""
    for name, (dims, shape, dtype) in late.items():
        _array(group, name, shape, dims, (*[1] * (len(shape) - 1), min(shape[-1], _PLANE_CHUNK // 8)), dtype)


def read_fixed(group: zarr.Group, about: Mapping[str, Any]) -> Fixed:
    """What was known when the group was made.

    Raises:
        ValueError: If a part is missing or torn.
    """
    return {name: (tuple(dims), read_whole(group, name)) for name, dims in about.get("fixed", {}).items()}


def write_compact(
    folder: Path, about: Mapping[str, Any], axes: Mapping[str, Values], values: Values, center: Values, fixed: Fixed
) -> None:
    """A new group that has each metric, (*shape, q), in one chunk, and the centre, (q,)."""
    group = create(folder, about, axes, values.shape[:-1], fixed)
    for column, name in enumerate(about["metrics"]):
        open_array(group, name)[...] = values[..., column]
    open_array(group, "center")[:] = center


def write_plane(group: zarr.Group, plane: Plane) -> None:
    """Add the vectors of a plane, in their dtype."""
    vectors = group.create_group("plane")
    step = min(plane.d, _PLANE_CHUNK // plane.origin.itemsize)
    for name, array, chunk in (("origin", plane.origin, (step,)), ("directions", plane.directions, (1, step))):
        dims = ("direction", "parameter")[-array.ndim :]
        _array(vectors, name, array.shape, dims, chunk, array.dtype)[...] = array


def _array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dims: tuple[str, ...],
    chunk: tuple[int, ...] = (),
    dtype: Any = "float64",
) -> Array:
    return group.create_array(
        name,
        shape=shape,
        chunks=chunk or shape,
        dtype=dtype,
        dimension_names=dims,
        fill_value=np.nan,
        compressors=_CHECKSUM,
        chunk_key_encoding=_FLAT,
        config=_WRITE_ALL,
    )


def seal(folder: Path) -> None:
    """Put all metadata in one file, so that xarray opens the group without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")  # zarr: not yet in the specification
        zarr.consolidate_metadata(folder)


def open_array(group: zarr.Group, name: str) -> Array:
    """An array of a group, to read and write.

    Raises:
        KeyError: If there is no such array.
    """
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    opened: Array = array.with_config(_WRITE_ALL)
    return opened


def read_whole(group: zarr.Group, name: str) -> Any:
    """All values of an array of which every chunk must be there.

    Raises:
        ValueError: If a chunk is missing or torn.
    """
    array = open_array(group, name)
    if array.nchunks_initialized < array.nchunks:
        raise ValueError(f"a part of {name} is missing")
    return np.asarray(array[...])


def as_dataset(
    about: Mapping[str, Any],
    axes: Mapping[str, Values],
    values: Values,
    center: Values | None,
    fixed: Fixed = NOTHING,
) -> xarray.Dataset:
    """What `xarray.open_zarr` makes of a group with these values, (*shape, q) and (q,) or None."""
    names = center_names(about)
    data: dict[str, Any] = {name: (tuple(axes), values[..., column]) for column, name in enumerate(about["metrics"])}
    data["center"] = ("metric", np.full(len(names), np.nan) if center is None else center, {"metrics": names})
    return xarray.Dataset({**data, **fixed}, coords=dict(axes), attrs={"gradvis": about})


def as_json(about: Mapping[str, Any]) -> dict[str, Any]:
    """The same in plain JSON values, as it will be read back.

    Raises:
        TypeError: If something in it is neither JSON nor NumPy.
    """
    plain: dict[str, Any] = json.loads(json.dumps(about, default=_plain))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"a result records JSON values, but a {type(value).__name__} came: {value!r}")


def describe(
    kind: str,
    axes: Mapping[str, Values],
    metrics: tuple[str, ...],
    tile: tuple[int, ...],
    identity: Mapping[str, Any],
    provenance: Mapping[str, Any],
    plane: Plane,
    fixed: Fixed = NOTHING,
) -> dict[str, Any]:
    """What a new result says of itself; see `gradvis.claim.prepare`.

    Raises:
        StoreError: If a metric's name cannot be an array of the group.
    """
    _check_names({**axes, **fixed}, metrics, mark(kind))
    about = {**provenance, "format": FORMAT, "kind": kind, "complete": False}
    about |= {"axes": list(axes), "metrics": list(metrics), "tile": list(tile), "plane": dict(plane.about)}
    about |= {"fixed": {name: list(dims) for name, (dims, _) in fixed.items()}} if fixed else {}
    return as_json({**about, "identity": {**identity, **_identity_of(kind, axes, metrics, plane)}})


def _check_names(axes: Mapping[str, Any], metrics: tuple[str, ...], marking: str) -> None:
    """See that metrics can be arrays of the group.

    Raises:
        StoreError: If not.
    """
    taken = {*axes, "center", "plane", "metric"}
    bad = [name for name in metrics if not name or name in taken or "/" in name or name.startswith((".", "__"))]
    if bad or marking not in metrics or len(set(metrics)) < len(metrics):
        raise StoreError(
            f"metrics need a name each, {marking} among them, without '/' and none of {', '.join(sorted(taken))}, "
            f"but these came: {', '.join(map(repr, metrics))}"
        )


def _identity_of(kind: str, axes: Mapping[str, Values], metrics: tuple[str, ...], plane: Plane) -> dict[str, str]:
    """What every result depends on; the digests make exact what the words round."""
    points = [np.asarray(values, np.float64) for values in axes.values()]
    named = {"kind": kind, "metrics": ", ".join(metrics), "plane": digest(plane.origin, plane.directions)}
    if kind in _COUNTED:
        return named
    return {
        **named,
        "resolution": " x ".join(str(values.size) for values in points),
        "span": ", ".join(f"{values[0]:g}:{values[-1]:g}" for values in points),
        "grid": digest(" ".join(axes).encode(), *points),
    }


def reasons(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In words, why one result is not the other; none if it is. Takes what they say of themselves.

    The digests of grid and plane speak only where nothing else explains them.
    """
    if there.get("kind") != here["kind"]:
        return [f"it is a {there.get('kind')} there and a {here['kind']} here"]
    found = differences(there["identity"], here["identity"])
    if any(phrase.startswith(("resolution is", "span is")) for phrase in found):
        found = [phrase for phrase in found if phrase != "grid differs"]
    if "plane differs" in found:
        made = differences(*({k: v for k, v in each["plane"].items() if k not in _DERIVED} for each in (there, here)))
        found = [*made, *(phrase for phrase in found if phrase not in {*made, "plane differs" if made else ""})]
    return found
