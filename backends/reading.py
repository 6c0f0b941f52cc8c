"""Batches that are read again and again: that they end, are the same each time, and can be told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from gradvis.backends.given import choose, each
from gradvis.backends.rows import describe


def once(found: Iterable[Any]) -> bool:
    """Whether it can be read only once."""
    return isinstance(found, Iterator)


def length(found: Iterable[Any]) -> int | None:
    """How many batches it says it has; None where it does not say."""
    try:
        return len(found)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def read(found: Iterable[Any], called: str, advice: str = "mend that") -> Iterator[Any]:
    """Its batches, one after the other.

    Args:
        found: What yields them.
        called: Its name in messages.
        advice: What to do where it is wrong.

    Raises:
        ValueError: If there are more than it says.
    """
    most = length(found)
    for number, batch in enumerate(found):
        if most is not None and number >= most:
            raise ValueError(
                f"data that says how long it is was wanted, but {called} gives more than the {most} batches of its "
                f"__len__; {advice}"
            )
        yield batch


def check_some(samples: int) -> None:
    """See that there is data.

    Raises:
        ValueError: If there is none.
    """
    if not samples:
        raise ValueError("data with at least one batch was wanted, but the data given has none")


def check_same(same: bool, which: str = "its first batch") -> None:
    """See that a batch is what it was.

    Args:
        same: Whether it is.
        which: The batch, in words.

    Raises:
        ValueError: If it is not.
    """
    if not same:
        raise ValueError(
            f"data that is the same each time was wanted, but {which} came out different when it was read again; "
            "switch random transforms and shuffling off, or pass a list of batches"
        )


def check_onward(again: bool) -> None:
    """See that data whose end nobody knows does not begin anew.

    Args:
        again: Whether its first batch has come once more.

    Raises:
        ValueError: If it has.
    """
    if again:
        raise ValueError(
            "data that ends was wanted, but this gives its first batch again and seems to go round for ever; "
            "pass a list of batches, or give it a __len__"
        )


def check_again(found: Iterable[Any], budget: int, others: str, cure: str) -> None:
    """See that data too large to keep can be read again and again.

    Args:
        found: What yields it.
        budget: Bytes that may be kept.
        others: What can be read again, in words.
        cure: How to say how long it is, in words.

    Raises:
        ValueError: If it cannot.
    """
    if once(found):
        raise ValueError(
            f"an iterator can be read only once, and this one gave more than the {budget} bytes that may be kept; pass "
            f"{others} or a list of batches, which can be read again"
        )
    if length(found) is None:
        raise ValueError(
            f"data larger than the {budget} bytes that may be kept must say how long it is, but {type(found).__name__} "
            f"does not; {cure}"
        )


def drawn(
    batches: Sequence[Any],
    samples: int,
    seed: int,
    size: Callable[[Any], int],
    divisible: Callable[[Any], bool],
    take: Callable[[Any, Any], Any],
) -> list[Any]:
    """Some samples of the batches, without replacement.

    Args:
        batches: All of them.
        samples: How many to take.
        seed: Of the choice.
        size: How many samples a batch has.
        divisible: Whether the samples of a batch can be told apart.
        take: Gives samples of an array by their numbers.

    Raises:
        ValueError: If samples cannot be told apart, or there are not so many.

    >>> batches = [np.arange(6), np.arange(6, 7), np.arange(7, 10)]
    >>> [part.tolist() for part in drawn(batches, 4, 0, len, lambda _: True, np.take)]
    [[2, 4, 5], [7]]
    """
    if whole := [batch for batch in batches if not divisible(batch)]:
        raise ValueError(
            f"samples=N wants batches that are (inputs, targets) of one length, but {describe(whole[0])} came; choose "
            "them in the data"
        )
    ends = list(accumulate(map(size, batches), initial=0))
    numbers = choose(ends[-1], samples, seed)
    spans = pairwise(np.searchsorted(numbers, ends))
    parts = [numbers[slice(*span)] - low for span, low in zip(spans, ends, strict=False)]
    return [each(partial(_taken, take, part), batch) for batch, part in zip(batches, parts, strict=True) if len(part)]


def _taken(take: Callable[[Any, Any], Any], part: Any, array: Any) -> Any:
    return take(array, part)


def about(samples: int | None, subset: tuple[int, int] | None) -> dict[str, Any]:
    """What `Objective.about` says of them.

    Args:
        samples: How many there are, if that is known.
        subset: Of how many they were drawn, and with which seed.

    >>> about(10, (50, 0))
    {'samples': 10, 'subset': {'of': 50, 'seed': 0}}
    """
    return {"samples": samples, **({} if subset is None else {"subset": {"of": subset[0], "seed": subset[1]}})}
