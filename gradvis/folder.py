"""Result folders on a local file system: how one appears, is read, is replaced and goes aside.

Beside `run.zarr` there may be, for a while or after a kill,
    .run.zarr.XXXXXXXX.tmp   a folder being built or deleted: nobody's
    .run.zarr.old            the result itself, between the two renames of `replace`
    run.1.zarr               an older result that `--fresh` moved aside: the user's
"""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

T = TypeVar("T")

FORMAT = 1
ELSEWHERE = "give another --out, or --fresh to move it aside"
ANEW = "compute it anew with --fresh, which moves it aside"
_SAID: Mapping[str, type] = {"kind": str, "complete": bool, "identity": dict}  # by every result


class StoreError(ValueError):
    """A result folder cannot be used or written: the reason in one line."""


class RefusedError(StoreError, OSError):
    """The system refuses, whatever the options: an OSError too, so a command ends with status 1."""


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a result says of itself: the `gradvis` attributes of its root.

    Raises:
        StoreError: If there is no result, or none that this version can read.
        RefusedError: If the system refuses.
    """
    place = restored(path)
    if not place.is_dir():
        raise StoreError(
            f"{place.name} is a file, not a result folder; give another path"
            if place.exists()
            else f"there is no result at {path}; give the path of one, such as model.surface.zarr"
        )
    try:
        metadata = json.loads((place / "zarr.json").read_bytes())
        about: dict[str, Any] = metadata["attributes"]["gradvis"]
        version = int(about["format"])
    except FileNotFoundError:
        raise StoreError(
            f"{place.name} is a folder, but not a gradvis result (it has no zarr.json); give another path"
        ) from None
    except OSError as error:
        raise RefusedError(f"cannot read {place.name}: {error.strerror}") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise StoreError(f"{place.name} is damaged (its zarr.json is cut off or overwritten); {ANEW}") from error
    except (KeyError, TypeError):
        raise StoreError(f"{place.name} is Zarr data, but not a gradvis result; give another path") from None
    if version > FORMAT:
        raise StoreError(
            f"{place.name} was written by a newer gradvis (format {version}, this one reads {FORMAT}); upgrade gradvis"
        )
    if wrong := [name for name, kind in _SAID.items() if not isinstance(about.get(name), kind)]:
        raise StoreError(f"{place.name} is damaged (its zarr.json does not say its {wrong[0]}); {ANEW}")
    return about


def restored(path: str | os.PathLike[str]) -> Path:
    """The real place of a result, put back if a kill came between the two renames of `replace`.

    Raises:
        StoreError: If it is the root of the file system, which has no name.
    """
    place = Path(os.path.realpath(path))
    if not place.name:
        raise StoreError(f"{place} is the root of the file system, not a result folder; give another path")
    aside = _aside(place)
    if not place.exists() and aside.exists():
        time.sleep(0.2)  # a living run may be between them
        with suppress(OSError):  # it was, or another rank put it back
            aside.rename(place)
    return place


def is_vacant(place: Path) -> bool:
    """Whether nothing is there: no file, or an empty folder.

    Raises:
        StoreError: If there is no folder to put anything in.
    """
    if not place.parent.is_dir():
        raise StoreError(f"there is no folder {place.parent} to put {place.name} in; make it, or give another --out")
    return not os.path.lexists(place) or (place.is_dir() and not any(place.iterdir()))


@contextmanager
def building(place: Path) -> Iterator[Path]:
    """A name beside `place` to build a folder under; if the body raises, what it built goes."""
    folder = _spare(place)
    try:
        yield folder
    except BaseException:
        for _ in range(3):  # a thread of zarr's may still be writing into it
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.05)
        raise


def arrived(folder: Path, place: Path) -> bool:
    """Put a new folder where nothing was, or delete it if another run has put something there meanwhile.

    Raises:
        OSError: If the system refuses.
    """
    try:
        folder.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(folder)
        return False
    return True


def inode(place: Path) -> int | None:
    """Which folder is there; another number tells that another one was put in its place."""
    with suppress(FileNotFoundError):
        return place.stat().st_ino
    return None


def steadily(place: Path, read: Callable[[], T]) -> T:
    """What is read of one folder: again if another run has put a new one in its place meanwhile.

    Raises:
        StoreError: If it cannot be read although it stays.
    """
    while True:
        before = inode(place)
        try:
            found = read()
        except StoreError:
            if inode(place) == before:
                raise
        else:
            if inode(place) == before:
                return found


def replace(place: Path, folder: Path) -> None:
    """Put a new folder in the place of a result; a kill at any moment leaves one of the two whole."""
    place.rename(_aside(place))
    folder.rename(place)
    sweep(place)


def sweep(place: Path) -> None:
    """Delete what a finished result leaves behind: what it was made of, and what kills left half-built."""
    if _aside(place).exists():
        _aside(place).rename(_spare(place))  # never half-deleted under a name that `restored` trusts
    for spare in place.parent.glob(f".{glob.escape(place.name)}.????????.tmp"):
        shutil.rmtree(spare, ignore_errors=True)


def free_aside(place: Path) -> None:
    """Give the user what an earlier `replace` left aside, where another result has taken its place."""
    if _aside(place).exists():
        _aside(place).rename(_numbered(place))


def move_aside(place: Path) -> Path:
    """Rename a result to the next free of `run.1.zarr`, `run.2.zarr`, ...; the new place.

    Raises:
        StoreError: If it is no result: then it is not ours to move.
    """
    if not (place / "zarr.json").is_file():
        read_about(place)  # says what it is instead
    return place.rename(_numbered(place))


def link_tree(source: Path, target: Path) -> None:
    """A folder under a second name, its files linked, not copied: planes are large (zarr needs links anyway)."""
    shutil.copytree(source, target, copy_function=os.link)


@contextmanager
def explained(what: str, then: str) -> Iterator[None]:
    """Turn what the system says in the body into one line of ours.

    Raises:
        RefusedError: For an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RefusedError(f"{what}: {error.strerror or error}; {then}") from error


def _numbered(place: Path) -> Path:
    names = (place.with_name(f"{place.stem}.{n}{place.suffix}") for n in count(1))
    return next(name for name in names if not os.path.lexists(name))


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def _spare(place: Path) -> Path:
    return place.with_name(f".{place.name}.{uuid4().hex[:8]}.tmp")
