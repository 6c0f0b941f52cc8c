"""Where a result comes from: fingerprints, versions, the command, and what two origins have different."""

from __future__ import annotations

import json
import platform
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any

import numpy as np

_ABSENT = object()
_PATHS = re.compile(r"(^(?:-\w|--[\w-]+=)?(?:\w+=)?|,)([~/][^,]*)")  # -o/x, --out=/x, key=/x, a.pt,/x
_DIGEST = re.compile(r"(\w+:)?[0-9a-f]{16,}")


def digest(*parts: np.ndarray | bytes) -> str:
    """A fingerprint of arrays (dtype, shape and values) or bytes: 32 hexadecimal digits (BLAKE2b).

    >>> digest(np.zeros(2)) == digest(np.zeros(2)), digest(np.zeros(2)) == digest(np.zeros((2, 1)))
    (True, False)
    """
    hashed = blake2b(digest_size=16)
    for part in parts:
        array = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else np.asarray(part)
        hashed.update(f"{array.dtype.str}{array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()


def versions() -> dict[str, str]:
    """Versions of gradvis, of what it stands on, and of the frameworks that the user has imported."""
    names = ("gradvis", "numpy", "zarr", "xarray", "torch", "keras", "tensorflow")
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in names}
    return {"python": platform.python_version()} | {name: str(version) for name, version in loaded.items() if version}


def command_line(argv: Sequence[str]) -> str:
    """The command as one can paste it, its absolute and home paths cut to their last part: no user, no host.

    >>> command_line(["/home/ann/bin/gradvis-surface", "/data/ann/model.pt", "--out=/tmp/a b.zarr", "--span", "-1:1"])
    "gradvis-surface model.pt '--out=a b.zarr' --span -1:1"
    """
    short = [PurePosixPath(argv[0]).name, *(_PATHS.sub(lambda found: found[1] + _last(found[2]), a) for a in argv[1:])]
    return shlex.join(short)


def _last(path: str) -> str:
    return PurePosixPath(path).name or path


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What two nested dicts of JSON values have different, in words, a phrase each.

    >>> differences({"seed": 1, "loss": {"name": "mse"}}, {"seed": 0, "loss": {"name": "mse"}, "samples": 100})
    ['seed is 1 there and 0 here', 'samples is absent there and 100 here']
    >>> differences({"data": digest(b"a")}, {"data": digest(b"b")})
    ['data differs']
    """
    old, new = _leaves(there), _leaves(here)
    # As JSON text: 1 and 1.0 and true stay apart, and NaN equals itself.
    changed = [key for key in {**old, **new} if _said(old.get(key, _ABSENT)) != _said(new.get(key, _ABSENT))]
    last = Counter(key[-1] for key in changed)
    phrases = []
    for key in changed:
        name = key[-1] if last[key[-1]] == 1 else ".".join(key)
        values = [_said(side.get(key, _ABSENT)) for side in (old, new)]
        readable = not any(len(value) > 60 or _DIGEST.fullmatch(value) for value in values)
        phrases.append(f"{name} is {values[0]} there and {values[1]} here" if readable else f"{name} differs")
    return phrases


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    leaves: dict[tuple[str, ...], Any] = {}
    for name, value in tree.items():
        leaves |= _leaves(value, (*above, name)) if isinstance(value, Mapping) else {(*above, name): value}
    return leaves


def _said(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    return value if isinstance(value, str) else json.dumps(value)
