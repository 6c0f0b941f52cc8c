"""How a job of the command line begins: the objective, its threads and device, and checkpoints as it reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from gradvis.cli.find import find_objective
from gradvis.cli.models import checkpoint
from gradvis.cli.options import chosen, keywords
from gradvis.cli.runtime import same_bits, settle
from gradvis.machine import threads as fair_threads
from gradvis.objective import Objective
from gradvis.recording import Recorded, Recording
from gradvis.runs import Run
from gradvis.schedule import Scheduler


@dataclass(frozen=True)
class Start:
    """What a job begins with.

    Attributes:
        objective: At the model's parameters and buffers.
        source: Where its code was found.
        threads: Of this rank.
        key: Which state of a checkpoint is meant.
        trust: Whether code in checkpoints may run.
    """

    objective: Objective
    source: str
    threads: int
    key: str | None
    trust: bool

    def read(self, path: Any) -> Any:
        """A checkpoint as the objective takes it; a recorded step as it is."""
        return path if isinstance(path, Recorded) else checkpoint(str(path), self.objective, self.key, self.trust)

    def readable(self, runs: Sequence[Run]) -> tuple[Run, ...]:
        """Runs whose checkpoints the objective takes."""
        return tuple(replace(run, checkpoints=tuple(map(self.read, run.checkpoints))) for run in runs)


def start(
    model: Any,
    named: str | None,
    arguments: tuple[str, ...],
    computed: Mapping[str, Any],
    scheduler: Scheduler,
    *,
    key: str | None,
    trust: bool,
    talks: bool,
) -> Start:
    """Find the objective of a model, and say where its code comes from.

    Args:
        model: A path, or a recorded step.
        named: `--objective`.
        arguments: `--objective-arg`.
        computed: The options of `gradvis.objective`.
        scheduler: Gives this rank its threads and its device.
        key: See `Start`.
        trust: See `Start`.
        talks: Whether this rank tells.
    """
    threads = computed["threads"] or fair_threads(scheduler.cpu_sharers)
    defaults = {"threads": threads, "device": "auto", "local": (scheduler.local_rank, scheduler.local_size)}
    settle(threads, scheduler.local_rank, computed.get("device") in {None, "auto", "cuda"})
    objective, source = find_objective(
        model, named, keywords(arguments), chosen(**computed), defaults=defaults, key=key, trust=trust
    )
    same_bits()
    if talks and named is None:
        itself = "is its own network" if source == model else f"names its objective: {source}, found in this folder"
        click.echo(f"{model} {itself}", err=True)
    return Start(objective, source, threads, key, trust)


def last_of(path: str) -> Any:
    """The last step of a recording; any other path as it is."""
    if not Path(path).name.endswith(".recording") or not (Path(path) / "zarr.json").is_file():
        return path
    return Recording(path).checkpoints()[-1]
