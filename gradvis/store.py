"""A result on a grid, kept as a Zarr group that survives a kill; a tile is written by whoever computed it.

A tile is done when the chunk of its loss exists (of its mark: `layout.mark`), whatever its values: NaN is a
result like any other. So the loss is written last. At the end `Store.finish` makes each array one chunk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray
import zarr
from numpy.typing import NDArray

from gradvis import folder, layout
from gradvis.arrays import Matrix, Values
from gradvis.folder import StoreError, explained, inode, read_about, restored
from gradvis.plane import Plane
from gradvis.tiles import Tiles

_AGAIN = "what is done is kept: make room or mend the folder, and run the same command again"


class Store:
    """A result that `claim.prepare` has made, for any rank.

    Attributes:
        path: Its folder.
        about: What it says of itself, as of when it was opened.
        tiles: Its axes, and how the grid is cut.
        metrics: What each point has, q names.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = restored(path)
        self._open()

    def _open(self) -> None:
        folder.steadily(self.path, self._load)

    def _load(self) -> None:
        self.about = read_about(self.path)
        with self._sound():
            self._inode = self.path.stat().st_ino
            self._group = zarr.open_group(self.path, mode="r+")
            self.metrics: tuple[str, ...] = tuple(self.about["metrics"])
            self._arrays = {name: layout.open_array(self._group, name) for name in (*self.metrics, "center")}
            axes: dict[str, Values] = {name: layout.read_whole(self._group, name) for name in self.about["axes"]}
            self.tiles = Tiles(axes, tuple(self.about["tile"]))
            if min(self.tiles.grid) < 1:
                raise ValueError("its tiles have no points")

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """What cannot be read in the body is damage.

        Raises:
            StoreError: That says so.
        """
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # zarr says it in many ways
            reason = str(error).partition(". ")[0]
            raise StoreError(f"{self.path.name} is damaged ({reason}); {folder.ANEW}") from error

    @property
    def complete(self) -> bool:
        """Whether the result is finished, as of when it was opened."""
        return bool(self.about["complete"])

    @property
    def identity(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return dict(self.about["identity"])

    def done(self) -> NDArray[np.bool_]:
        """Which tiles are there, (tiles,)."""
        return np.array([self._chunk(self._mark, tile).exists() for tile in range(self.tiles.count)])

    @property
    def _mark(self) -> str:
        return layout.mark(self.about["kind"])

    def keep(self, name: str, values: Values | Matrix) -> None:
        """Write an array that was announced as late. For one rank at a time.

        Raises:
            StoreError: If it cannot be written; see `write`.
        """
        with self._writing():
            self._check_place()
            layout.open_array(self._group, name)[...] = values

    def kept(self, name: str) -> Any:
        """A late array as it is now; NaN where nothing is written.

        Raises:
            StoreError: If it is torn.
        """
        with self._sound():
            return np.asarray(layout.open_array(self._group, name)[...])

    def _chunk(self, name: str, tile: int) -> Path:
        """The file that holds a tile of a metric."""
        array = self._arrays[name]
        at = tuple(part.start // side for part, side in zip(self.tiles.slices(tile), array.chunks, strict=True))
        return self.path / name / array.metadata.encode_chunk_key(at)

    def _is_there(self, tile: int) -> bool:
        """Whether a tile has all its chunks, in the folder that was opened."""
        return all(self._chunk(name, tile).exists() for name in self.metrics) and inode(self.path) == self._inode

    def read(self, tile: int) -> Values | None:
        """The values of a tile, (p, q), or None if it must be computed: not done, or torn."""
        if not self._is_there(tile):
            return None
        try:
            columns = [np.asarray(self._arrays[name][self.tiles.slices(tile)]) for name in self.metrics]
        except ValueError:  # a checksum or a length is wrong
            return None
        if not self._is_there(tile):  # it went meanwhile: what is not there reads as NaN
            return None
        return np.stack(columns, axis=-1).reshape(-1, len(columns))

    def write(self, tile: int, values: Values) -> None:
        """Keep the values of a tile, (p, q). Ranks may write different tiles at once.

        Nothing is written, and nothing said, where another run of the same command has finished the result.

        Raises:
            StoreError: If they cannot be written, or the folder is not the one that was opened.
            ValueError: If the values are not of the tile's shape.
        """
        part = self.tiles.slices(tile)
        sizes = [points.stop - points.start for points in part]
        grid = np.reshape(values, (*sizes, len(self.metrics)))
        with self._writing():
            self._check_place()
            for name in sorted(self.metrics, key=self._mark.__eq__):  # last what marks the tile done
                self._arrays[name][part] = grid[..., self.metrics.index(name)]

    def mend(self) -> None:
        """Make torn tiles ones that are not done. For the root alone, before others write."""
        for tile in np.flatnonzero(self.done()).tolist():
            if self.read(tile) is None and inode(self.path) == self._inode:
                self._chunk(self._mark, tile).unlink(missing_ok=True)

    @contextmanager
    def _writing(self, refused: str = "cannot write {}") -> Iterator[None]:
        """What fails in the body because another run has finished this very result need not be done.

        Raises:
            StoreError: If another result is there, or the system refuses.
            KeyError: If what is being built has lost a part.
        """
        try:
            with explained(refused.format(self.path.name), _AGAIN):
                yield
        except (StoreError, KeyError):  # KeyError: the other run has swept away what was being built
            if not self._is_finished():
                raise

    def _check_place(self) -> None:
        """See that the folder is the one that was opened, and may be written.

        Raises:
            StoreError: If not.
        """
        if self.complete or inode(self.path) != self._inode:
            raise StoreError(f"{self.path.name} was finished or moved by another run meanwhile; open it again")

    def _is_finished(self) -> bool:
        """Whether this very result is finished by now, by whichever run; then that is what is open."""
        with suppress(StoreError):
            there = read_about(self.path)
            if there["complete"] and there["identity"] == self.identity:
                self._open()
                return True
        return False

    def read_center(self) -> Values | None:
        """The metrics at the centre of the plane, (q,), or None if they must be computed."""
        if self.complete:
            with self._sound():
                return np.asarray(layout.read_whole(self._group, "center"))
        with suppress(ValueError):
            return np.asarray(layout.read_whole(self._group, "center"))
        return None

    def write_center(self, values: Values) -> None:
        """Keep the metrics at the centre of the plane, (q,). For the root alone.

        Raises:
            StoreError: If they cannot be written; see `write`.
        """
        with self._writing():
            self._check_place()
            self._arrays["center"][:] = values

    def mask(self) -> NDArray[np.bool_]:
        """Which points are done, in the shape of the grid."""
        return folder.steadily(self.path, self._all)[1]

    def dataset(self) -> xarray.Dataset:
        """All there is, in memory, as `xarray.open_zarr` has it; NaN where nothing is done yet.

        Raises:
            StoreError: If a finished result is torn.
        """
        return folder.steadily(self.path, self._all)[0]

    def snapshot(self) -> tuple[xarray.Dataset, NDArray[np.bool_], Plane]:
        """`dataset`, `mask` and `plane` of one moment, while others write, finish or replace the result.

        Raises:
            StoreError: If a finished result is torn, or the plane.
        """
        return folder.steadily(self.path, lambda: (*self._all(), self.plane()))

    def _all(self) -> tuple[xarray.Dataset, NDArray[np.bool_]]:
        self._load()
        with self._sound():
            values, mask = self._grid()
            fixed = layout.read_fixed(self._group, self.about)
            return layout.as_dataset(self.about, self.tiles.axes, values, self.read_center(), fixed), mask

    def _grid(self) -> tuple[Values, NDArray[np.bool_]]:
        """The values of every point, (*shape, q), and which points are done, (*shape)."""
        if self.complete:
            whole = [layout.read_whole(self._group, name) for name in self.metrics]
            return np.stack(whole, axis=-1), np.ones(self.tiles.shape, bool)
        values, mask = np.full((*self.tiles.shape, len(self.metrics)), np.nan), np.zeros(self.tiles.shape, bool)
        for tile in range(self.tiles.count):
            found, part = self.read(tile), self.tiles.slices(tile)
            if found is not None:
                values[part] = found.reshape(values[part].shape)
                mask[part] = True
        return values, mask

    def plane(self) -> Plane:
        """Where the axes lie.

        Raises:
            StoreError: If its vectors are torn or missing.
        """
        with self._sound():
            origin, directions = (layout.read_whole(self._group, f"plane/{name}") for name in ("origin", "directions"))
            return Plane(origin, directions, dict(self.about["plane"]))

    def finish(self, extra: Mapping[str, Any] | None = None) -> None:
        """Mark the result complete, and make each array one chunk. For the root alone; others open it again.

        A kill at any moment leaves it whole, tiled or compact.

        Args:
            extra: What is known only at the end; JSON values.

        Raises:
            StoreError: If a tile or the centre is not there, or the folder cannot be written. It stays as it is.
        """
        self._open()
        if not self.complete:
            with self._writing("cannot make {} compact"):
                self._compact(extra or {})
            self._open()

    def _compact(self, extra: Mapping[str, Any]) -> None:
        values, mask = self._grid()
        center = self.read_center()
        if center is None or not mask.all():
            raise StoreError(f"{self.path.name} lacks {np.sum(~mask)} points or its centre; run the same command again")
        about = layout.as_json({**self.about, **extra, "complete": True})
        with folder.building(self.path) as new:
            fixed = layout.read_fixed(self._group, self.about)
            layout.write_compact(new, about, self.tiles.axes, values, center, fixed)
            folder.link_tree(self.path / "plane", new / "plane")
            for name in self.about.get("late", []):
                folder.link_tree(self.path / name, new / name)
            layout.seal(new)
            self._check_place()  # a run that has finished it since may be deleting `new`
            folder.replace(self.path, new)
