"""What a user should know though nothing is wrong: said in one line, once."""

from __future__ import annotations

import warnings


class Note(UserWarning):
    """A fall-back that was taken, or a fact that changes how a result is read."""


def note(text: str) -> None:
    """Say it as a Python warning; the commands print it as one line from one rank."""
    warnings.warn(text, Note, stacklevel=3)
