"""Where a command is entered and left: one error is one line, whatever the number of ranks."""

from __future__ import annotations

import errno
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click
from tqdm import tqdm

from gradvis.cli.find import ObjectiveError
from gradvis.cli.runtime import quiet
from gradvis.notes import Note
from gradvis.schedule import Scheduler, Serial, TaskError, Terminated, default_scheduler, ending, launcher_rank

_FULL = {errno.ENOSPC, errno.EDQUOT}


def enter(command: click.Command, name: str, argv: list[str] | None = None) -> NoReturn:
    """Run a command and end the process with its status.

    Notes of gradvis become lines on standard error, each once and from one rank; `--quiet` keeps them back.

    Args:
        command: Its callback finds the Scheduler in the context's `obj`.
        name: As the user typed it; errors begin with it.
        argv: The arguments, those of the process if not given.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _terminate)
    with warnings.catch_warnings(), quiet():
        _hear_notes(name, speaks=launcher_rank() == 0, quiet="--quiet" in words)
        _run(command, name, words)
    sys.exit(0)


def _run(command: click.Command, name: str, words: list[str]) -> None:
    scheduler: Scheduler = Serial()
    try:
        with command.make_context(name, words) as context:
            scheduler = default_scheduler()
            context.obj = scheduler
            command.invoke(context)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as bare:
        if launcher_rank() == 0:
            click.echo(bare.format_message(), err=True)
        sys.exit(bare.exit_code)
    except BaseException as error:  # every way out of a command has its line and its status
        _leave(name, error, scheduler)


def _hear_notes(name: str, *, speaks: bool, quiet: bool) -> None:
    """Until the filters are restored: notes are lines of ours, and only one rank tells any warning."""
    told = warnings.showwarning
    said: set[str] = set()

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        text = _one_line(str(message))
        if not issubclass(category, Note):
            told(message, category, filename, lineno, file, line)
        elif text not in said:
            said.add(text)
            tqdm.write(f"{name}: note: {text}", file=sys.stderr)  # not into a progress bar

    warnings.showwarning = show
    warnings.simplefilter("always", Note)  # "once" begins anew wherever filters change, and in every module
    if quiet:
        warnings.simplefilter("ignore", Note)
    if not speaks:
        warnings.simplefilter("ignore")


def _terminate(*_: Any) -> NoReturn:
    raise Terminated


def _leave(name: str, error: BaseException, scheduler: Scheduler) -> NoReturn:
    if isinstance(error, SystemExit):
        raise error
    if ending(error):
        for number in (signal.SIGINT, signal.SIGTERM):  # launchers may send a second one to ranks that are leaving
            signal.signal(number, signal.SIG_IGN)
    if "--debug" in sys.argv:
        traceback.print_exception(error)
    line, code = _verdict(error, name)
    if scheduler.size > 1:
        scheduler.fail(f"{name}: {line}", code)
    if launcher_rank() == 0:
        print(f"{name}: {line}", file=sys.stderr, flush=True)
    sys.exit(code)


def _verdict(error: BaseException, name: str = "gradvis") -> tuple[str, int]:
    """The line and the exit status of an error: 2 where the input or the options are wrong, 1 where the run failed."""
    if ended := ending(KeyboardInterrupt() if isinstance(error, click.Abort) else error):
        word, code = ended
        return "; ".join([word, *getattr(error, "__notes__", [])]), code
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"error: {_full(error)}", 1
    said = _one_line(_said(error, name)) or "no message"
    if isinstance(error, (TaskError, ObjectiveError, OSError)):
        return f"error: {said}", 1
    if isinstance(error, (ValueError, TypeError, click.ClickException)):
        return f"error: {said}", 2
    return f"error: {type(error).__name__}: {said} (--debug shows where)", 1


def _said(error: BaseException, name: str) -> str:
    """Its message; where click or the system wrote it, with what to do."""
    if isinstance(error, click.ClickException):
        said, command = error.format_message().rstrip("."), getattr(error, "ctx", None)
        helped = ";" in said or said.endswith("?") or not isinstance(error, click.UsageError)
        return said if helped else f"{said}; {command.command_path if command else name} --help says what it takes"
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str):
        return f"cannot use {error.filename}: {error.strerror}; see that the path is right and may be read or written"
    return str(error)


def _full(error: OSError) -> str:
    """What to do where nothing can be written; results have a line of their own, in `gradvis.store`."""
    place = Path(error.filename) if isinstance(error.filename, str) else None
    what = f"{place.name}: the disk of {place.resolve().parent}" if place else "pictures or output: the disk"
    return f"cannot write {what} is full ({error.strerror}); make room, and the same command goes on with what is done"


def _one_line(text: str) -> str:
    return " ".join(text.split())
