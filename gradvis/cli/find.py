"""From MODEL and options to an Objective: how the network, its loss and its data are found."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from gradvis.objective import Objective, overridden


def find_objective(
    model: str, named: str | None, arguments: Mapping[str, str], options: Mapping[str, Any]
) -> tuple[Objective, str]:
    """The objective at a checkpoint's parameters and buffers, and where its code was found.

    Args:
        model: The checkpoint, a path.
        named: `FILE.py:NAME` or `package.module:NAME`; if not given, the one that the checkpoint names.
        arguments: Passed to the function of that name.
        options: Of `gradvis.objective`; they take the place of those given in the code.

    Raises:
        ValueError: If something is not there or not what it should be; the line says what to do.
    """
    if not Path(model).exists():
        raise ValueError(f"MODEL must be a checkpoint, but there is no file {model}; give the path of one")
    source = named or _named_inside(model)
    function = _load(source)
    with overridden(options) as unused:
        made = function(**arguments)
    if not isinstance(made, Objective):
        raise ValueError(
            f"{source} must return an Objective, such as gradvis.objective(model, data=..., loss=...), "
            f"but it returned a {type(made).__name__}"
        )
    if unused:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise ValueError(f"{names} can be given only where {source} calls gradvis.objective(...); leave it out")
    return made.at(model), source


def _named_inside(model: str) -> str:
    """Only a file of the current folder: nothing else that a checkpoint names is run.

    Raises:
        ValueError: If it names none, or another.
    """
    from gradvis.backends.pytorch import objective_name  # a framework is imported when a file asks for it

    name = objective_name(model)
    if name is None:
        raise ValueError(
            f"{model} names no objective; give --objective FILE.py:NAME, a function that returns "
            "gradvis.objective(model, data=..., loss=...), or save with gradvis.save_checkpoint(..., objective=...)"
        )
    file = name.partition(":")[0]
    if Path(file).name != file or not file.endswith(".py"):
        raise ValueError(
            f"{model} names the objective {name!r}, but a name inside a checkpoint may only mean a .py file of the "
            f"current folder; if you trust it, give --objective {name}"
        )
    return name


def _load(source: str) -> Any:
    place, _, name = source.partition(":")
    if not name:
        raise ValueError(f"an objective is named as FILE.py:NAME or package.module:NAME, but {source!r} came")
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{place} must have a function {name}, but it has none; name one that returns the Objective")
    return function


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"the objective's file {path} is not there; run the command from its folder, or give its path")
    sys.path.insert(0, str(path.resolve().parent))  # as Python does for a script: its neighbours can be imported
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the objective's module {name} cannot be imported ({error}); install it, or name a file"
        ) from error
