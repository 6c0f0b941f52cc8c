"""The principal plane of a path through parameter space: PCA over time, through the Gram matrix of the checkpoints.

Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", section 7, centre over time; the
plane is pinned at the last checkpoint. GradVis (arXiv 1909.12108) takes the variance about the last
checkpoint instead: `anchored`. The (t, t) Gram matrix has the same eigenvalues as the (d, d)
covariance, which is never formed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradvis.arrays import Values
from gradvis.plane import Plane
from gradvis.projection import Places, Read, combined, gram
from gradvis.schedule import Scheduler

_NOISE = 1e-12  # of the largest eigenvalue: below it, an axis is rounding


def components_of(products: Values, numbers: Sequence[int], anchored: bool) -> tuple[Values, Values, Values]:
    """Principal axes from the inner products of the steps from the last checkpoint, (t, t).

    Args:
        products: See `gradvis.projection.gram`.
        numbers: Which components, 1 for the one of most variance.
        anchored: Variance about the last checkpoint, not about the mean over time.

    Returns:
        The weights of the steps in each unit direction, (k, t), the coordinates, (t, k), and the shares of the
        variance, (k,).

    Raises:
        ValueError: If the path spans fewer dimensions.
    """
    count = len(products)
    centred = products if anchored else _centred(products)
    values, vectors = np.linalg.eigh(centred)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int(np.sum(values > _NOISE * max(values[0], 0.0))) if values[0] > 0 else 0
    if len({*numbers}) != len(numbers) or not 1 <= len(numbers) <= 3 or min(numbers, default=0) < 1:
        raise ValueError(f"one to three different components are numbered from 1, but {_listed(numbers)} came")
    if max(numbers) > rank:
        raise ValueError(
            f"components {_listed(numbers)} were wanted, but the path of {count} checkpoint{'s' * (count != 1)} spans "
            f"{rank} dimension{'s' * (rank != 1)}; give more checkpoints that differ, or fewer components"
        )
    chosen = [number - 1 for number in numbers]
    weights = vectors[:, chosen].T / np.sqrt(values[chosen])[:, None]
    if not anchored:
        weights -= weights.mean(axis=1, keepdims=True)  # zero but for rounding
    coords = products @ weights.T
    turned = np.where(coords[np.argmax(np.abs(coords), axis=0), range(len(chosen))] > 0, -1.0, 1.0)
    return weights * turned[:, None], coords * turned, values[chosen] / np.trace(centred)


def _centred(products: Values) -> Values:
    """About the mean over time (Gower 1966: the Gram matrix of points from that of their differences)."""
    centred = products - products.mean(axis=0) - products.mean(axis=1)[:, None] + products.mean()
    return (centred + centred.T) / 2


def random_walk(count: int, numbers: Sequence[int], anchored: bool) -> Values:
    """The shares of variance that a random walk of so many points in many dimensions has, (k,).

    The eigenvalues of its expected Gram matrix, which are those of a discrete Laplacian: 6 / (pi j)^2 and, anchored,
    8 / (pi (2 j - 1))^2 for a long walk (Antognini and Sohl-Dickstein 2018, "PCA of high dimensional random walks").

    >>> random_walk(10**6, [1, 2], False).round(3).tolist(), random_walk(10**6, [1, 2], True).round(3).tolist()
    ([0.608, 0.152], [0.811, 0.09])
    """
    j, n = np.asarray(numbers, np.float64), count - 1
    if anchored:
        return np.asarray(1 / (4 * np.sin(np.pi * (2 * j - 1) / (4 * n + 2)) ** 2) / (n * (n + 1) / 2))
    return np.asarray(1 / (4 * np.sin(np.pi * j / (2 * count)) ** 2) / ((count**2 - 1) / 6))


def principal(
    reads: Sequence[Read], d: int, numbers: Sequence[int], anchored: bool, scheduler: Scheduler
) -> tuple[Plane, Places, Values]:
    """The principal plane of checkpoints, pinned at the last, and their places on it; the files are read twice.

    Args:
        reads: See `gradvis.projection.gram`.
        d: Parameters of each checkpoint.
        numbers: Which components, numbered from 1.
        anchored: See `components_of`.
        scheduler: Who computes.

    Returns:
        The plane, the places of the t checkpoints, and their Gram matrix.

    Raises:
        ValueError: If a checkpoint is not finite, or the path spans fewer dimensions.
    """
    products = gram(reads, d, scheduler)
    weights, coords, shares = components_of(products, numbers, anchored)
    origin = reads[-1](slice(0, d))
    directions, found = combined(reads, weights, coords, d, np.result_type(origin.dtype, np.float32), scheduler)
    about = {
        "kind": "pca",
        "components": [int(number) for number in numbers],
        "anchored": anchored,
        "checkpoints": len(reads),
        "explained_variance": shares.tolist(),
        "random_walk": random_walk(len(reads), numbers, anchored).tolist(),
        "box": box(found.coords),
    }
    return Plane(origin, directions, about), found, products


def box(coords: Values) -> list[list[float]]:
    """From where to where a path and the origin reach along each axis."""
    around = np.vstack([coords, np.zeros(coords.shape[1])])
    return np.stack([around.min(axis=0), around.max(axis=0)], axis=1).tolist()


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
