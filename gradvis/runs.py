"""Training runs as users name them: checkpoints in lists, globs and folders, recordings, several of them by name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from gradvis.arrays import Values
from gradvis.between import names_of
from gradvis.recording import Recorded, Recording

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".keras", ".h5", ".index")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, eq=False)
class Run:
    """One training run: t checkpoints in the order of training.

    Attributes:
        name: What pictures call it.
        checkpoints: Whatever `Objective.at` takes.
        labels: What each is called.
        steps: When each was taken, (t,): training steps where they are known, else the number in the name, else
            0, 1, 2, ...
        learning_rate: Of each step, (t,), where it is known.
    """

    name: str
    checkpoints: tuple[Any, ...]
    labels: tuple[str, ...]
    steps: Values
    learning_rate: Values | None = None

    def kept(self, indices: list[int]) -> Run:
        """Some of its checkpoints."""
        rate = None if self.learning_rate is None else self.learning_rate[indices]
        checkpoints, labels = (tuple(values[i] for i in indices) for values in (self.checkpoints, self.labels))
        return replace(self, checkpoints=checkpoints, labels=labels, steps=self.steps[indices], learning_rate=rate)


def runs_of(sources: Any, every: int = 1) -> tuple[Run, ...]:
    """The runs that are meant.

    Args:
        sources: A recording, a folder or glob of checkpoints (these in natural order: `ckpt-2` before `ckpt-10`), a
            list of checkpoints (in its own order) or of recordings and folders, each of which is a run, or a dict
            of names to any of these; or runs.
        every: Every how-manieth checkpoint of each run is taken; its first and last one always are.

    Raises:
        ValueError: If there are none.
    """
    if every < 1:
        raise ValueError(f"every, the checkpoints from one that is taken to the next, is at least 1, but {every} came")
    if isinstance(sources, (list, tuple)) and sources and all(isinstance(each, Run) for each in sources):
        found = list(sources)
    elif _is_states(sources):
        found = [_run(each, str(name)) for name, each in sources.items()]
    else:
        found = _listed(sources)
    found = [run.kept(_thinned(len(run.steps), every)) for run in found]
    if not found or any(not run.checkpoints for run in found):
        raise ValueError(f"a training run needs checkpoints, but none came ({_shown(sources)}); give their paths")
    return tuple(found)


def _is_states(sources: Any) -> bool:
    """Whether a dict names runs; a single checkpoint may be a dict too, of tensors."""
    return isinstance(sources, Mapping) and not any(hasattr(value, "shape") for value in sources.values())


def _listed(sources: Any) -> list[Run]:
    """The runs of a list: each recording and folder is one, loose checkpoints together are one."""
    if _is_one(sources):
        return [_run(sources, None)]
    given = list(sources)
    wholes = [each for each in given if _is_run(each)]
    loose = [each for each in given if not _is_run(each)]
    names = names_of([os.path.abspath(_path(each)) for each in wholes]) if wholes else []
    found = [_run(each, _stem(name)) for each, name in zip(wholes, names, strict=True)]
    return found + ([_loose(loose, None)] if loose else [])


def _is_one(source: Any) -> bool:
    """Whether it is no list of things; networks may be lists of layers."""
    whole = isinstance(source, (str, PathLike, Recording, Mapping)) or hasattr(source, "state_dict")
    return whole or not isinstance(source, Iterable)


def _path(source: Any) -> Path:
    return source.path if isinstance(source, Recording) else Path(source)


def _is_run(source: Any) -> bool:
    """Whether it is a recording or a folder of checkpoints, and no checkpoint itself."""
    if isinstance(source, Recording):
        return True
    return isinstance(source, (str, PathLike)) and Path(source).is_dir() and not _is_checkpoint(Path(source))


def _is_checkpoint(folder: Path) -> bool:
    return any((folder / name).exists() for name in (*_WEIGHTS, "saved_model.pb", ".metadata"))


def _run(source: Any, name: str | None) -> Run:
    """One run from what stands for it."""
    if isinstance(source, Recording):
        return _recorded(source, name)
    if isinstance(source, (str, PathLike)):
        if _is_recording(Path(source)):
            return _recorded(Recording(source), name)
        whole = Path(source).resolve()
        return _loose(_files(Path(source)), name or (_stem(whole.name) if whole.is_dir() else None))
    return _loose([source] if _is_one(source) else list(source), name)


def _is_recording(path: Path) -> bool:
    return (path / "zarr.json").is_file()


def _recorded(recording: Recording, name: str | None, some: Sequence[Recorded] | None = None) -> Run:
    """The steps of a recording, or some of them."""
    checkpoints = recording.checkpoints() if some is None else some
    steps = np.array([each.step for each in checkpoints], np.float64)
    rates = np.asarray(recording.small["learning_rate"][[each.row for each in checkpoints]], np.float64)
    rate = rates[:, 0] if rates.ndim == 2 and rates.shape[1] and np.isfinite(rates[:, 0]).any() else None
    labels = tuple(f"step {each.step}" for each in checkpoints)
    return Run(name or _stem(recording.path.name), tuple(checkpoints), labels, steps, rate)


def _files(source: Path) -> list[Path]:
    """The checkpoints of a folder or a glob, in natural order; the file itself if it is one.

    Raises:
        ValueError: If there are none.
    """
    if source.is_dir() and not _is_checkpoint(source):
        found = [each for each in source.iterdir() if each.suffix in _SUFFIXES or _is_folder_of_weights(each)]
    elif source.exists():
        return [source]
    else:
        found = [Path(each) for each in glob.glob(os.fspath(source))]
    if not found:
        raise ValueError(f"checkpoints were wanted, but {source} has none ({', '.join(_SUFFIXES)}); give their paths")
    return sorted(found, key=lambda path: natural(str(path)))


def _is_folder_of_weights(path: Path) -> bool:
    return path.is_dir() and _is_checkpoint(path)


def natural(name: str) -> list[Any]:
    """A key that sorts numbers in names as numbers.

    >>> sorted(["ckpt-10.pt", "ckpt-2.pt"], key=natural)
    ['ckpt-2.pt', 'ckpt-10.pt']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def in_order(paths: Iterable[str]) -> list[str]:
    """Paths of a command line: in natural order where they came as a shell lists a glob, else as they came.

    >>> in_order(["c-1.pt", "c-10.pt", "c-2.pt"]), in_order(["start.pt", "end.pt"])
    (['c-1.pt', 'c-2.pt', 'c-10.pt'], ['start.pt', 'end.pt'])
    >>> in_order(["step-10.pt", "step-2.pt", "last.pt"])  # a glob, and one more
    ['step-2.pt', 'step-10.pt', 'last.pt']
    """
    given = list(paths)
    if given == sorted(given):
        return sorted(given, key=natural)
    alike = [list(group) for _, group in groupby(given, lambda path: _NUMBER.sub("#", path))]
    return [path for group in alike for path in (sorted(group, key=natural) if group == sorted(group) else group)]


def _loose(checkpoints: list[Any], name: str | None) -> Run:
    """A run of checkpoints that belong together."""
    recordings = {each.recording.path if isinstance(each, Recorded) else None for each in checkpoints}
    if len(recordings) == 1 and None not in recordings:
        return _recorded(checkpoints[0].recording, name, checkpoints)
    labels = tuple(names_of(checkpoints)) if checkpoints else ()
    paths = [fspath(each) for each in checkpoints if isinstance(each, (str, PathLike))]
    folder = Path(os.path.commonpath([Path(path).resolve().parent for path in paths])).name if paths else ""
    return Run(
        name or folder or "training",
        tuple(checkpoints),
        labels,
        _steps(labels if len(paths) == len(labels) else ("",) * len(labels)),
    )


def _steps(labels: tuple[str, ...]) -> Values:
    """The numbers in names that differ in one number alone, where they rise; else 0, 1, 2, ...

    >>> _steps(("net2-5.pt", "net2-10.pt")).tolist(), _steps(("a.pt", "b.pt")).tolist()
    ([5.0, 10.0], [0.0, 1.0])
    """
    numbers = [[int(found) for found in _NUMBER.findall(label)] for label in labels]
    if len({_NUMBER.sub("#", label) for label in labels}) == 1 and numbers[0]:
        columns = np.array(numbers, np.float64).T
        varying = [column for column in columns if np.any(column != column[0])]
        if len(varying) == 1 and np.all(np.diff(varying[0]) > 0):
            return np.asarray(varying[0])
    return np.arange(len(labels), dtype=np.float64)


def _thinned(count: int, every: int) -> list[int]:
    """Every so-manieth of so many, with the last."""
    return sorted({*range(0, count, every), count - 1} & {*range(count)})


def _stem(name: str) -> str:
    return name.removesuffix(".recording").removesuffix(".zarr") or name


def _shown(sources: Any) -> str:
    return f"{sources!s:.80}"
