"""What a user should know though nothing is wrong: said in one line, once."""

from __future__ import annotations

import sys
import warnings


class Note(UserWarning):
    """A fall-back that was taken, or a fact that changes how a result is read."""


def note(text: str) -> None:
    """Say it as a Python warning, at the line that called gradvis; the commands print it as one line from one rank."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "gradvis":
        frame, level = frame.f_back, level + 1
    warnings.warn(text, Note, stacklevel=level)
