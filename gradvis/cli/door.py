"""Where a command is entered and left: one error is one line, whatever the number of ranks."""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Any, NoReturn

import click

from gradvis.schedule import Scheduler, Serial, TaskError, default_scheduler, launcher_rank

_INTERRUPTED, _TERMINATED = 130, 143


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that files and MPI are left in order."""


def enter(command: click.Command, name: str, argv: list[str] | None = None) -> NoReturn:
    """Run a command and end the process with its status.

    Args:
        command: Its callback finds the Scheduler in the context's `obj`.
        name: As the user typed it; errors begin with it.
        argv: The arguments, those of the process if not given.
    """
    signal.signal(signal.SIGTERM, _terminate)
    scheduler: Scheduler = Serial()
    try:
        with command.make_context(name, list(sys.argv[1:] if argv is None else argv)) as context:
            scheduler = default_scheduler()
            context.obj = scheduler
            command.invoke(context)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except BaseException as error:  # every way out of a command has its line and its status
        _leave(name, error, scheduler)
    sys.exit(0)


def _terminate(*_: Any) -> NoReturn:
    raise _Terminated


def _leave(name: str, error: BaseException, scheduler: Scheduler) -> NoReturn:
    if isinstance(error, SystemExit):
        raise error
    if "--debug" in sys.argv:
        traceback.print_exception(error)
    line, code = _verdict(error)
    if scheduler.size > 1:
        scheduler.fail(f"{name}: {line}", code)
    if launcher_rank() == 0:
        print(f"{name}: {line}", file=sys.stderr, flush=True)
    sys.exit(code)


def _verdict(error: BaseException) -> tuple[str, int]:
    """The line and the exit status of an error: 2 where the input or the options are wrong, 1 where the run failed."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return "interrupted; the same command goes on from here", _INTERRUPTED
    if isinstance(error, _Terminated):
        return "terminated; the same command goes on from here", _TERMINATED
    said = error.format_message() if isinstance(error, click.ClickException) else str(error)
    said = " ".join(said.split()) or "no message"
    if isinstance(error, (TaskError, OSError)):
        return f"error: {said}", 1
    if isinstance(error, (ValueError, TypeError, click.ClickException)):
        return f"error: {said}", 2
    return f"error: {type(error).__name__}: {said} (--debug shows where)", 1
