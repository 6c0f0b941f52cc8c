"""What the commands tell: an estimate before, progress meanwhile, what was found after."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tqdm import tqdm

from gradvis.consistency import Check
from gradvis.schedule import Cost, Scheduler
from gradvis.spectrum import Spectrum
from gradvis.surface import Surface
from gradvis.tracks import Track
from gradvis.trajectory import Trajectory

_FIRST_LINE, _LINES = 5.0, 60.0  # seconds to the first line and between two, where no terminal shows a bar


class Progress:
    """A bar on a terminal; elsewhere, a line now and then.

    Args:
        shown: Whether this rank tells at all.
        things: What is counted.
    """

    def __init__(self, shown: bool, things: str = "points") -> None:
        self.shown, self.things = shown, things
        self._bar: Any = None
        self._began = time.monotonic()
        self._due = self._began + _FIRST_LINE

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """So many points of all are computed."""
        if not self.shown:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, initial=done, unit=f" {self.things}", dynamic_ncols=True, smoothing=0.05)
            self._bar.update(done - self._bar.n)
        else:
            self._line(done, total)

    def _line(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now > self._due:
            self._due = now + _LINES
            print(
                tqdm.format_meter(done, total, now - self._began, unit=f" {self.things}", ncols=0),
                file=sys.stderr,
                flush=True,
            )


def estimate(cost: Cost, scheduler: Scheduler, threads: int, things: str = "points") -> str:
    """One line on what a job will take.

    >>> from gradvis.schedule import Serial
    >>> estimate(Cost(2601, 75.0, 26 << 20, 1186), Serial(), 2)
    '2601 points on 1 rank x 2 threads: about 1 min 15 s, 26 MB of memory, at most 1186 files while it runs'
    """
    return (
        f"{cost.points} {things} on {_count(scheduler.size, 'rank')} x {_count(threads, 'thread')}: about "
        f"{_duration(cost.seconds)}, {_bytes(cost.memory)} of memory{' a rank' * (scheduler.size > 1)}, "
        f"at most {cost.files} files while it runs"
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _duration(seconds: float) -> str:
    """In the two largest units that matter.

    >>> _duration(0.4), _duration(75), _duration(4000), _duration(200000)
    ('1 s', '1 min 15 s', '1 h 6 min', '2 d 7 h')
    """
    whole = max(1, round(seconds))
    for size, unit, rest, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // rest} {part}"
    return f"{whole} s"


def _bytes(number: int) -> str:
    return f"{number >> 30} GB" if number >= 10 << 30 else f"{max(1, number >> 20)} MB"


def went(trajectory: Trajectory, path: Path, pictures: list[Path]) -> str:
    """The last lines of a trajectory: what its plane holds, how far off the path lies, and where the files are."""
    plane, lines = trajectory.plane.about, []
    shares, walk = plane.get("explained_variance", []), plane.get("random_walk")
    about = " about the last checkpoint" if plane.get("anchored") else ""
    for index, share in enumerate(shares):
        null = f" (a random walk has {100 * walk[index]:.1f} %)" if walk else ""
        lines.append(f"component {plane['components'][index]}: {100 * share:.1f} % of the variance{about}{null}")
    lines += map(_of_run, trajectory.tracks)
    return "\n".join([*lines, *map(str, pictures), f'{path}    (in Python: gradvis.open("{path}"))'])


def _of_run(track: Track) -> str:
    own, there, off = track.own["loss"], track.plane["loss"], track.off_plane
    far = int(np.argmax(off))
    return (
        f"{track.name}: loss {own[0]:.4g} at {track.labels[0]}, {own[-1]:.4g} at {track.labels[-1]}; farthest off the "
        f"plane ({off[far]:.3g}) is {track.labels[far]}, with {own[far]:.4g} and {there[far]:.4g} on the plane"
    )


def curved(spectrum: Spectrum, path: Path, pictures: list[Path]) -> str:
    """The last lines of a spectrum: its numbers, each with its quality, and where the files are."""
    center, about = spectrum.center, spectrum.about
    what = {"hessian": "Hessian", "ggn": "Gauss-Newton matrix", "fisher": "empirical Fisher matrix"}[about["operator"]]
    lines = [
        f"{what} of {about['parameters']} parameters at a loss of {center['loss']:.4g}, "
        f"where the gradient has norm {center['gradient_norm']:.3g}"
    ]
    lines.append(
        f"trace {spectrum.trace:.4g} +- {spectrum.trace_stderr:.2g}, "
        f"Frobenius norm {spectrum.frobenius:.4g} +- {spectrum.frobenius_stderr:.2g}"
    )
    if about.get("late"):
        pairs = spectrum.pairs
        shown = ", ".join(f"{value:.4g}" for value in pairs.values)
        bad = int(np.sum(~pairs.converged))
        lines.append(f"eigenvalues ({about['which']}): {shown}; residuals at most {pairs.residuals.max():.2g}")
        lines += [f"{bad} of them did not converge to --tol {about['tol']:g}: give a larger one"] if bad else []
    return "\n".join([*lines, *map(str, pictures), f'{path}    (in Python: gradvis.open("{path}"))'])


_VERDICTS = {(True, True): "pass", (True, False): "pass (weak)", (False, True): "FAIL", (False, False): "FAIL (weak)"}


def checked(rows: Sequence[Check]) -> str:
    """A table of checks with pass or fail; a pass that more than a tenth is allowed for says little, and says so.

    >>> print(checked([Check("one", 1.0, 1.0, 0.1), Check("two", 1.0, 1.1, 0.2)]))
    check       found      wanted     allowed
    one             1           1         0.1  pass
    two             1         1.1         0.2  pass (weak)
    weak: rounding may be more than a tenth of the number, so that it says little; --dtype float64
    """
    wide = max(len(row.name) for row in rows) + 2
    table = [f"{'check':{wide}} {'found':>11} {'wanted':>11} {'allowed':>11}"]
    for row in rows:
        numbers = " ".join(f"{value:11.6g}" for value in (row.found, row.wanted, row.allowed))
        table.append(f"{row.name:{wide}} {numbers}  {_VERDICTS[row.passed, row.sharp]}")
    if not all(row.sharp for row in rows):
        table.append("weak: rounding may be more than a tenth of the number, so that it says little; --dtype float64")
    return "\n".join(table)


def found(surface: Surface, path: Path, pictures: list[Path]) -> str:
    """The last lines: the numbers to know, where the files are, and what to do with them."""
    center, spread = surface.center["loss"], surface.center.get("loss_stderr", np.nan)
    lines = [f"loss at the centre {center:.4g}" + (f" +- {spread:.2g}" if np.isfinite(spread) else "")]
    loss = surface.dataset["loss"]
    finite = loss.where(np.isfinite(loss))
    if finite.notnull().any():
        lowest = finite.argmin(...)
        at = ", ".join(f"{name} = {loss[name].values[int(place)]:.3g}" for name, place in lowest.items())
        lines[0] += f", lowest on the grid {float(finite.min()):.4g} at {at}"
    diverged = int(loss.size - np.isfinite(loss).sum())
    if not np.isfinite(center):
        lines.append("the loss at the centre is no number: look for NaN or inf in the data, or for log(0) in the loss")
    if diverged:
        lines.append(f"{_count(diverged, 'point')} of {loss.size} diverged (NaN or inf)")
    return "\n".join([*lines, *map(str, pictures), f'{path}    (in Python: gradvis.open("{path}"))'])
