"""Values of `--objective-arg`: from text to what a function takes."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NAMED: dict[str, Any] = {"bool": bool, "int": int, "float": float, "str": str, "Path": Path}


def typed(source: str, function: Callable[..., Any], arguments: Mapping[str, str]) -> dict[str, Any]:
    """Values of `--objective-arg` as the function's annotations or defaults say.

    Raises:
        ValueError: If the function does not take them.
    """
    try:
        signature = _signature(function)
    except (ValueError, TypeError):
        return dict(arguments)
    values = {name: _value(name, text, signature.parameters.get(name)) for name, text in arguments.items()}
    try:
        signature.bind(**values)
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values())) or "no arguments"
        raise ValueError(f"{source} takes {takes}, but {error}; give each as --objective-arg NAME=VALUE") from error
    return values


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    with suppress(Exception):  # annotations may be for type checkers alone
        return inspect.signature(function, eval_str=True)
    return inspect.signature(function)


def _value(name: str, text: str, parameter: inspect.Parameter | None) -> Any:
    empty = inspect.Parameter.empty
    kind, default = (parameter.annotation, parameter.default) if parameter else (empty, empty)
    kind = _NAMED.get(kind, kind) if isinstance(kind, str) else kind
    if kind is empty and default is not empty and default is not None:
        kind = type(default)
    try:
        return _converted(text, kind)
    except ValueError:
        wanted = kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("typing.")
        raise ValueError(f"--objective-arg {name} takes {wanted}, but {text!r} came; give one") from None


def _converted(text: str, kind: Any) -> Any:
    """Text as a type; where the type says nothing, JSON if it is that, else the text.

    Raises:
        ValueError: If it is none.

    >>> _converted("8", int), _converted("no", bool), _converted("8", str), _converted("[1, 2]", list[int])
    (8, False, '8', [1, 2])
    """
    origin, among = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {str(value): value for value in among}[text] if text in map(str, among) else _no(text)
    if origin in {typing.Union, types.UnionType}:
        return _one_of(text, among)
    if kind is bool:
        return _TRUTHS[text.lower()] if text.lower() in _TRUTHS else _no(text)
    if kind in (int, float, str) or (isinstance(kind, type) and issubclass(kind, Path)):
        return kind(text)
    if kind is type(None):
        return None if text.lower() in {"none", "null"} else _no(text)
    try:
        return json.loads(text)
    except ValueError:
        return text


def _one_of(text: str, kinds: tuple[Any, ...]) -> Any:
    """The first of a union that takes the text; None goes first and text last."""
    for kind in sorted(kinds, key=lambda kind: (kind is not type(None), kind is str)):
        with suppress(ValueError):
            return _converted(text, kind)
    return _no(text)


def _no(text: str) -> NoReturn:
    raise ValueError(text)
