"""Batch norm under its three policies, as far as no framework is needed: which one, where, and what it cannot do.

`eval`: statistics as stored. `batch`: those of each batch. `recalibrate`: new ones at every point, from one pass over
the data (Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization", section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from gradvis.arrays import Vector
from gradvis.notes import note
from gradvis.plane import Plane

POLICIES = ("eval", "batch", "recalibrate")
# Points made from several checkpoints have no statistics of their own.
SEVERAL = frozenset({"between", "pca"})


class Standing(Protocol):
    """A loss of a model that stands somewhere."""

    def parameters(self) -> Vector:
        """See `Objective.parameters`."""

    def at(self, checkpoint: Any) -> Self:
        """See `Objective.at`."""


S = TypeVar("S", bound=Standing)


def chosen_policy(policy: str | None, stored: bool, mixes: bool = False) -> str | None:
    """The policy of a model: the one asked for, else `eval`; None where it has no batch norm.

    Args:
        policy: The one that was asked for, if any.
        stored: Whether there are batch norms that store statistics.
        mixes: Whether there are others, which always take those of the batch.

    Raises:
        ValueError: If there is no such policy, or no statistics for it.

    >>> chosen_policy(None, stored=True), chosen_policy("batch", stored=False), chosen_policy(None, False, mixes=True)
    ('eval', None, 'batch')
    """
    if policy is not None and policy not in POLICIES:
        raise ValueError(f"batch_norm must be one of {', '.join(POLICIES)}, but {policy!r} came")
    if stored:
        return policy or "eval"
    if mixes and policy in {"eval", "recalibrate"}:
        raise ValueError(
            f"batch_norm={policy!r} needs running statistics, but the batch norms of the model keep none "
            "(track_running_stats=False): leave the option out, or take 'batch'"
        )
    return "batch" if mixes else None


def on_plane(objective: S, plane: Plane, free: bool) -> tuple[S, str | None]:
    """The objective in the state that goes with a plane, and the policy that the points need, where it is another.

    What is no parameter of the plane (buffers, frozen parameters) is that of the checkpoint at which the plane is
    pinned, else the model's. Batch norm has no statistics for points made from several checkpoints, or from another
    model's parameters.

    Args:
        objective: As it is.
        plane: Whose points are evaluated.
        free: Whether batch norm stores statistics, and the user has asked for no policy.
    """
    states = chain([objective], map(objective.at, plane.checkpoints.values()))
    here = next((state for state in states if _same(state.parameters(), plane.origin)), None)
    if not free or (here is not None and plane.about.get("kind") not in SEVERAL):
        return here or objective, None
    if here is None:
        note("the plane is pinned at other parameters than the model's: batch norm is recalibrated at every point")
    return here or objective, "recalibrate"


def _same(one: Vector, other: Vector) -> bool:
    """Whether two vectors are one point, in whichever dtype."""
    return np.array_equal(one.astype(np.float32), other.astype(np.float32))


def check_derivable(policy: str | None) -> None:
    """See that there are derivatives.

    Raises:
        ValueError: If batch norm is recalibrated.
    """
    if policy == "recalibrate":
        raise ValueError(
            "batch_norm='recalibrate' is for surfaces only and has no derivatives; take 'eval' or 'batch' for them"
        )


def check_divisible(policy: str | None) -> None:
    """See that the data can be cut into shards.

    Raises:
        ValueError: If batch norm is recalibrated.
    """
    if policy == "recalibrate":
        raise ValueError("batch_norm='recalibrate' looks at all the data at once and cannot be cut into shards")


@contextmanager
def whole_batches(device: str, full: type[Exception]) -> Iterator[None]:
    """Inside, whole batches go through: fewer samples at once are no way out.

    Args:
        device: Where, in words.
        full: What the framework raises when its memory is used up.

    Raises:
        RuntimeError: If it is.
    """
    try:
        yield
    except full as error:
        raise RuntimeError(
            f"{device} has not the memory for a whole batch, and batch_norm='recalibrate' takes the statistics of "
            "each; take a smaller batch_size"
        ) from error


def too_few(policy: str) -> str:
    """What to say of a batch of one sample, which has no variance."""
    return (
        f"at least two samples in every batch were wanted, as batch_norm={policy!r} takes their statistics, but a "
        "batch of one came; take another batch_size, or leave the last sample out"
    )
