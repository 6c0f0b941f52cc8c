"""Hessian, generalised Gauss-Newton and empirical Fisher: which of them a loss has, and over what their mean goes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradvis.arrays import Matrix

OPERATORS = ("hessian", "ggn", "fisher")


def check(operator: str, sees_outputs: bool, per_sample: bool) -> None:
    """See that there is such an operator of the loss.

    Args:
        operator: Its name.
        sees_outputs: Whether the loss is one of outputs and targets.
        per_sample: Whether it gives a value a sample.

    Raises:
        ValueError: If there is not.
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(OPERATORS)}, but {operator!r} came")
    if operator != "hessian" and not sees_outputs:
        raise ValueError(
            f"operator={operator!r} needs the model's outputs, but batch_loss hides them; give loss=f(outputs, "
            "targets), or take operator='hessian'"
        )
    if operator == "fisher" and not per_sample:
        raise ValueError(
            "operator='fisher' needs the loss of each sample, but the loss gives the mean of its batch; let it "
            "return a value a sample"
        )


def check_vectors(vectors: Matrix, d: int) -> None:
    """See that they are a row a vector, (r, d).

    Raises:
        ValueError: If they are not.
    """
    if np.ndim(vectors) != 2 or np.shape(vectors)[1] != d:
        raise ValueError(
            f"vectors of shape (r, {d}) were wanted, but {np.shape(vectors)} came; for one vector give vector[None]"
        )


def mean(operator: str, total: Any, counts: Any) -> Any:
    """Of the sums of products over the data, (r, d), from how many samples and units there are, (2,).

    The empirical Fisher is the mean over samples of g g'. A sample is an item of a batch, with all its tokens or
    pixels, and its own loss is such that the mean of them is the loss: the sum over its units, in units of the mean
    number (or weight) of units.

    Args:
        operator: Its name.
        total: A tensor of the framework, or an array.
        counts: Another.

    >>> mean("hessian", 12.0, (3, 6)), mean("fisher", 12.0, (3, 6))
    (2.0, 1.0)
    """
    samples, units = counts
    return total * (samples / units**2) if operator == "fisher" else total / units
