"""Where figures go: the libraries that draw them, imported when they are needed, and files written in one go."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4


def library(module: str) -> ModuleType:
    """Our module for a plotting library, imported when it is needed.

    Raises:
        ImportError: If the library is not installed.
    """
    try:
        return import_module(f"gradvis.plots.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(f'this picture needs {error.name}, which is not here; pip install "gradvis[plot]"') from error


def write(target: Path, save: Callable[[Path], None]) -> None:
    """Save beside the target under another name, then rename: a reader never sees half a picture.

    Raises:
        ValueError: If the folder does not exist.
        OSError: If the system refuses.
    """
    if not target.parent.is_dir():
        raise ValueError(f"the picture {target} needs the folder {target.parent}, which does not exist; make it first")
    part = target.with_name(f".{uuid4().hex}.{target.name}")  # its suffix tells libraries the format
    try:
        save(part)
        os.replace(part, target)
    except OSError as error:
        raise OSError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def page(figure: Any, target: Path | None) -> Any:
    """Save a page; its figure comes back."""
    assert target is not None, "html comes from the suffix of a path"
    write(target, lambda file: library("interactive").save(figure, file))
    return figure


def picture(figure: Any, target: Path | None, suffix: str) -> Any:
    """Save a picture if there is a path; its figure comes back."""
    if target:
        write(target, lambda file: library("static").save(figure, file, suffix[1:]))
    return figure
