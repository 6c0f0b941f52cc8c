"""A recording of training: one Zarr group with a row a recorded step, and how it is read.

`parameters` (t, d) has one shard a step, with inner chunks of at most 4 MB, so that slices of a step can be
read. `buffers` (t, bytes) has the raw bytes of each step. `loss`, `learning_rate`, `gradient_norm`, `finite`
and `segment` are small; `step` is written last: a row without it was cut off, and does not count.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray
import zarr

from gradvis.arrays import Values, Vector
from gradvis.chunks import file_bytes, file_of
from gradvis.folder import StoreError, read_about, restored
from gradvis.layout import Array, open_array
from gradvis.notes import note

KIND = "recording"
BIG = ("parameters", "buffers")
SMALL = ("loss", "learning_rate", "gradient_norm", "finite", "segment", "step")  # the step last


@dataclass(frozen=True)
class Part:
    """One named array of a recorded step.

    Attributes:
        name: What the model calls it, without wrappers' prefixes.
        shape: Its shape.
        dtype: Of a parameter its own in the model, of a buffer that of its bytes.
        start: Where it begins: a parameter in the vector, a buffer in the bytes.
        stop: Where it ends.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    stop: int

    @property
    def slice(self) -> slice:
        """Its place."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Recorded:
    """A recorded step: where training stood. `Objective.read` and `at` take it as a checkpoint.

    Attributes:
        recording: What it belongs to.
        row: Where it lies there.
        step: How many optimizer steps had been taken.
    """

    recording: Recording
    row: int
    step: int

    def __str__(self) -> str:
        return f"{self.recording.path.name} step {self.step}"

    @property
    def finite(self) -> bool:
        """Whether all its parameters are finite."""
        return bool(self.recording.small["finite"][self.row])

    def parameters(self, start: int = 0, stop: int | None = None) -> Vector:
        """A slice of the flat vector, as stored; no more is read than the chunks that it touches.

        Raises:
            StoreError: If it is damaged.
        """
        return self.recording.read("parameters", self, start, stop)

    def tensors(self, names: Container[str] | None = None) -> dict[str, np.ndarray]:
        """Parameters as stored, and buffers, by name and in their shapes; not those of other names, if some are given.

        Raises:
            StoreError: If it is damaged.
        """
        blocks, buffers = (
            [part for part in each.values() if names is None or part.name in names]
            for each in (self.recording.blocks, self.recording.buffers)
        )
        found: dict[str, np.ndarray] = {}
        if blocks:
            flat = self.parameters(blocks[0].start, blocks[-1].stop)
            first = blocks[0].start
            found = {part.name: flat[part.start - first : part.stop - first].reshape(part.shape) for part in blocks}
        if buffers:
            raw = self.recording.read("buffers", self)
            found |= {part.name: raw[part.slice].copy().view(part.dtype).reshape(part.shape) for part in buffers}
        return found


class Recording:
    """Training as `gradvis.record` wrote it, finished or not; t recorded steps in their order.

    What a run had recorded at or after the step from which a later run went on does not count, nor does a
    step of which a part is missing.

    Attributes:
        path: Its folder.
        about: What it says of itself.
        steps: How many optimizer steps had been taken, (t,).
        small: The small arrays as stored, a row each; see `rows`.
        rows: Where the steps lie among them, (t,).
        blocks: The parameters in the order of the flat vector, by name.
        buffers: The rest of the state, by name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = restored(path)
        self.about = read_about(self.path)
        if self.about["kind"] != KIND:
            raise StoreError(f"{self.path.name} holds a {self.about['kind']}, not a recording; give one")
        try:
            group = zarr.open_group(self.path, mode="r")
            self._arrays = {name: open_array(group, name) for name in (*BIG, *SMALL) if name in group}
            self.small = _small(self._arrays, self.path.name)
            self.blocks = parts(self._arrays["parameters"])
            self.buffers = parts(self._arrays["buffers"]) if "buffers" in self._arrays else {}
        except Exception as error:  # zarr says it in many ways
            raise StoreError(
                f"{self.path.name} is damaged ({str(error).partition('. ')[0]}); record it again"
            ) from error
        whole = np.array([self._is_whole(row) for row in range(len(self.small["step"]))], bool)
        self._tell_torn(np.flatnonzero((self.small["step"] >= 0) & ~whole))
        self.rows = _counting(self.small["step"], self.small["segment"], whole)
        self.steps = self.small["step"][self.rows]

    def __reduce__(self) -> tuple[type[Recording], tuple[str]]:
        return Recording, (str(self.path),)

    def __repr__(self) -> str:
        return (
            f"<Recording {self.path.name}: {len(self.steps)} steps, {self._arrays['parameters'].shape[1]} parameters>"
        )

    @property
    def losses(self) -> Values:
        """Of the batch of each step, as it was logged, (t,); NaN where it was not."""
        return self.small["loss"][self.rows]

    @property
    def learning_rates(self) -> Values:
        """Of each step and parameter group, (t, groups)."""
        return self.small["learning_rate"][self.rows]

    @property
    def gradient_norms(self) -> Values:
        """Euclidean, of each step and block, (t, layers); NaN where it had no gradient, inf where one is not finite."""
        return self.small["gradient_norm"][self.rows]

    @property
    def finite(self) -> np.ndarray:
        """Whether all parameters of a step are finite, (t,)."""
        return self.small["finite"][self.rows].astype(bool)

    @property
    def objective(self) -> str | None:
        """The objective that it names, `FILE.py:NAME`."""
        return self.about.get("objective")

    @property
    def first_nonfinite(self) -> int | None:
        """The first step whose loss (or, where none was logged, whose gradient) was not finite."""
        return self.about.get("first_nonfinite")

    @cached_property
    def dataset(self) -> xarray.Dataset:
        """All but parameters and buffers, along `step`."""
        data = {
            "loss": ("step", self.losses),
            "learning_rate": (("step", "group"), self.learning_rates),
            "gradient_norm": (("step", "layer"), self.gradient_norms),
            "finite": ("step", self.finite),
        }
        return xarray.Dataset(data, {"step": self.steps, "layer": list(self.blocks)}, {"gradvis": self.about})

    def checkpoints(self, every: int = 1) -> list[Recorded]:
        """Every so many-th recorded step, with the first and the last always.

        Raises:
            ValueError: If `every` is below one.
        """
        if every < 1:
            raise ValueError(f"every must be 1 or more, but {every} came; give 2 for every second recorded step")
        found = [Recorded(self, *map(int, place)) for place in zip(self.rows, self.steps, strict=True)]
        return [each for n, each in enumerate(found) if n % every == 0 or n == len(found) - 1]

    def read(self, name: str, recorded: Recorded, start: int = 0, stop: int | None = None) -> Vector:
        """A part of a row of an array.

        Raises:
            StoreError: If it is missing or torn.
        """
        try:
            if self._is_whole(recorded.row):
                return np.asarray(self._arrays[name][recorded.row, start:stop])
            reason = "a part is missing"
        except ValueError as error:  # a checksum is wrong
            reason = str(error).partition(". ")[0]
        raise StoreError(f"{recorded} is damaged ({reason}); leave it out")

    def _is_whole(self, row: int) -> bool:
        return all(_is_there(self.path, self._arrays[name], row) for name in BIG if name in self._arrays)

    def _tell_torn(self, torn: np.ndarray) -> None:
        if torn.size:
            steps = self.small["step"][torn].tolist()
            note(f"{len(steps)} steps of {self.path.name} were cut off and are left out (first: step {steps[0]})")


def parts(array: Array) -> dict[str, Part]:
    """What lies where in a row of `parameters` or `buffers`, by name."""
    named: list[Mapping[str, Any]] = array.attrs["parts"]  # type: ignore[assignment]
    found = (Part(**{**each, "shape": tuple(each["shape"])}) for each in named)
    return {part.name: part for part in found}


def valid_rows(steps: np.ndarray) -> int:
    """How many rows there are up to the last that was finished."""
    return int(np.flatnonzero(steps >= 0).max(initial=-1)) + 1


def _is_there(where: Path, array: Array, row: int) -> bool:
    try:
        return file_of(where, array, row).stat().st_size == file_bytes(array)
    except FileNotFoundError:
        return False


def _small(arrays: Mapping[str, Array], called: str) -> dict[str, np.ndarray]:
    """The small arrays up to the last finished row; one that is torn is left out, but for the steps.

    Raises:
        ValueError: If the steps are torn.
    """
    steps = np.asarray(arrays["step"][...])
    rows = valid_rows(steps)
    found = {"step": steps[:rows]}
    for name in SMALL[:-1]:
        try:
            found[name] = np.asarray(arrays[name][:rows])
        except ValueError:
            note(f"{name} of {called} is damaged and is left out")
            fill = arrays[name].metadata.fill_value
            found[name] = np.full((rows, *arrays[name].shape[1:]), fill, arrays[name].dtype)
    return found


def _counting(steps: np.ndarray, segments: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The rows that count, in the order of their steps, (t,).

    A run that went on from an earlier step takes the place of what came there or after; of one step, the
    row that was written last counts.

    >>> steps, segments = np.array([0, 10, 20, 30, 20, 30]), np.array([0, 0, 0, 0, 1, 1])
    >>> _counting(steps, segments, np.ones(6, bool)).tolist()
    [0, 1, 4, 5]
    """
    found: dict[int, int] = {}
    for segment in np.unique(segments[steps >= 0]):
        rows = np.flatnonzero((segments == segment) & (steps >= 0))
        first = steps[rows].min()
        found = {step: row for step, row in found.items() if step < first}
        found |= {int(steps[row]): int(row) for row in rows}
    return np.array([row for _, row in sorted(found.items()) if whole[row]], np.int64)
