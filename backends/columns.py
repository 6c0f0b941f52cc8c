"""The columns of `evaluate`: the mean of each term, and its standard error where there are values of each sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np

from gradvis.arrays import Values
from gradvis.objective import summarise


def columns(names: Iterable[str], samples: Iterable[float]) -> tuple[str, ...]:
    """What they are called: a term without per-sample values has no standard error.

    Args:
        names: Of the terms, the loss first.
        samples: Of how many samples each term has values.

    >>> columns(["loss", "penalty"], [10, 0])
    ('loss', 'loss_stderr', 'penalty')
    """
    each = zip(names, samples, strict=True)
    return tuple(column for name, count in each for column in ((name, f"{name}_stderr") if count else (name,)))


def table(moments: Values, names: Sequence[str], wanted: Sequence[str]) -> Values:
    """Those columns, (n, columns).

    Args:
        moments: Of each of q terms at n points, (n, q, 6); see `summarise`.
        names: Of the terms, q of them.
        wanted: Which columns, in their order.

    >>> moments = np.array([[[2, 2, 10.0, 58.0, 10.0, 2], [2, 2, 8.0, 32.0, 8.0, 2]]])
    >>> table(moments, ["loss", "error"], ["loss", "loss_stderr", "error"]).tolist()
    [[5.0, 2.0, 4.0]]
    """
    every = [column for name in names for column in (name, f"{name}_stderr")]
    both = np.stack(summarise(moments), axis=-1).reshape(len(moments), len(every))
    return both[:, [every.index(column) for column in wanted]]


def in_words(sizes: Iterable[int]) -> str:
    """How many samples batches have, one after the other.

    >>> in_words([16, 16, 9])
    '2 of 16, 1 of 9'
    """
    return ", ".join(f"{len(list(group))} of {size}" for size, group in groupby(sizes))
