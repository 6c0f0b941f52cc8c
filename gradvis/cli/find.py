"""From MODEL and options to an Objective: how the network, its loss and its data are found."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from gradvis.cli.arguments import typed
from gradvis.cli.models import check_file, checkpoint, named_inside, of_program
from gradvis.frameworks import overridden
from gradvis.objective import Objective
from gradvis.recording import Recorded

_OURS = str(Path(__file__).resolve().parents[1])


class ObjectiveError(RuntimeError):
    """The user's own code failed: what it raised, and where."""


def find_objective(
    model: Any,
    named: str | None,
    arguments: Mapping[str, str],
    options: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    key: str | None = None,
    trust: bool = False,
) -> tuple[Objective, str]:
    """The objective at a checkpoint's parameters and buffers, and where its code was found.

    Args:
        model: The checkpoint, a path; or a recorded step.
        named: `FILE.py:NAME` or `package.module:NAME`; if not given, the one that the checkpoint names, or the
            network that the checkpoint is.
        arguments: Passed to the function of that name, as its annotations and defaults say.
        options: Of `gradvis.objective`; they take the place of those given in the code.
        defaults: The same, but an objective that does not take them is no mistake.
        key: Which of several states in the checkpoint is meant.
        trust: Whether code in the checkpoint may run.

    Raises:
        ValueError: If something is not there or not what it should be; the line says what to do.
    """
    if not isinstance(model, Recorded):
        check_file(model)
        if named is None and (made := of_program(model, {**(defaults or {}), **options}, key, trust)) is not None:
            return made, model
    source = named_inside(model) if named is None else named
    made = _called(source, arguments, options, defaults or {})
    return made.at(model if isinstance(model, Recorded) else checkpoint(model, made, key, trust)), source


def _called(
    source: str, arguments: Mapping[str, str], options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Objective:
    """What the function of that name returns.

    Raises:
        ValueError: If that is no Objective, or an option could not be given to it.
    """
    place, _, name = source.rpartition(":")
    if not place or not name:
        raise ValueError(
            f"an objective is named as FILE.py:NAME or package.module:NAME, but {source!r} came; NAME is the function "
            "that returns it"
        )
    with (
        _importing(Path(place).parent if place.endswith(".py") else Path()),
        overridden({**defaults, **options}) as unused,
    ):
        function = _function(place, name)
        given = typed(source, function, arguments)
        with _told(source):
            made = function(**given)
    if not isinstance(made, Objective):
        raise ValueError(
            f"{source} must return an Objective, such as gradvis.objective(model, data=..., loss=...), "
            f"but it returned {'nothing' if made is None else f'a {type(made).__name__}'}"
        )
    if unused := unused & set(options):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unused))
        raise ValueError(f"{names} can be given only where {source} calls gradvis.objective(...); leave it out")
    return made


@contextmanager
def _importing(folder: Path) -> Iterator[None]:
    """Modules beside the file can be imported, first of all as in a script; later they stand behind all others.

    So a neighbour called `profile.py` is no danger to what is imported in the course of the job.
    """
    here = str(folder.resolve())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)


def _function(place: str, name: str) -> Callable[..., Any]:
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    function = getattr(module, name, None)
    if callable(function):
        return function
    near = get_close_matches(name, [other for other, value in vars(module).items() if callable(value)], 1)
    hint = f"did you mean {near[0]}?" if near else "name one that returns the Objective"
    came = "it has none" if function is None else f"that is a {type(function).__name__}"
    raise ValueError(f"{place} must have a function {name}, but {came}; {hint}")


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"the objective's file {path} is not there; run the command from its folder, or give its path")
    name = _free_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _told(str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _free_name(path: Path) -> str:
    """The name under which its neighbours import it, unless another module has it: a `json.py` takes nobody's place."""
    here = str(path.resolve().parent)
    spec = PathFinder.find_spec(path.stem, [folder for folder in sys.path if folder != here])
    module = sys.modules.get(path.stem)
    if module is None and spec is None and path.stem not in sys.stdlib_module_names:
        return path.stem
    found = getattr(module, "__file__", None) or (spec.origin if spec else None) or ""
    same = os.path.exists(found) and os.path.samefile(found, path)
    return path.stem if same else f"{path.stem} (objective)"


def _module(name: str) -> ModuleType:
    try:
        with _told(name):
            return importlib.import_module(name)
    except ObjectiveError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{name}.".startswith(f"{cause.name}."):
            raise ValueError(
                f"the objective's module {name} cannot be imported ({cause}); install it, or name a .py file"
            ) from error
        raise


@contextmanager
def _told(source: str) -> Iterator[None]:
    """What the user's code raises is told with its place; what gradvis says to it is passed on as it is.

    Raises:
        ObjectiveError: If the code raises anything but that.
    """
    try:
        yield
    except SystemExit as error:  # else a script that ends by sys.exit(0) would end the job as done
        _retell(source, error)
    except Exception as error:
        if isinstance(error, (ValueError, TypeError, OSError)) and _is_ours(_frames(error)[-1].filename):
            raise
        _retell(source, error)


def _frames(error: BaseException) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


def _retell(source: str, error: BaseException) -> NoReturn:
    frames = _frames(error)
    last = next((frame for frame in reversed(frames) if not _is_foreign(frame.filename)), frames[-1])
    file, line, said = last.filename, last.lineno, str(error)
    if isinstance(error, SyntaxError) and error.filename:
        file, line, said = error.filename, error.lineno, error.msg
    said = " ".join(said.split()) or "no message"
    raise ObjectiveError(f"{source} raised {type(error).__name__}: {said}, at {_shown(file)}:{line}") from error


def _is_ours(file: str) -> bool:
    from gradvis import backends  # installed, or in a checkout beside the core

    homes = (_OURS, *map(str, backends.__path__))
    return os.path.realpath(file).startswith(tuple(f"{home}{os.sep}" for home in homes))


def _is_foreign(file: str) -> bool:
    """Of a library and not of the user."""
    return file.startswith(("<", os.path.dirname(os.__file__))) or "site-packages" in file or _is_ours(file)


def _shown(file: str) -> str:
    """Relative to the current folder where that is shorter."""
    return min(os.path.relpath(file), file, key=len)
