"""Lines, planes and volumes in parameter space: coordinates in, parameters out, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradvis.arrays import Matrix, Values, Vector


@dataclass(frozen=True, eq=False)
class Plane:
    """An origin and k directions; k = 0 is a single point. Arrays are not copied: leave them as they are.

    Attributes:
        origin: Where the coordinates are zero, (d,).
        directions: What one step along each axis adds, (k, d); need be neither orthogonal nor of unit length.
        about: How the plane was made (kind, seed, normalisation, ...); recorded with every result.
        checkpoints: States that lie on it or near it, by name: anything that `Objective.at` takes. They are
            measured and drawn with a surface, but not kept with its plane.

    >>> plane = Plane(np.zeros(3), np.eye(3)[:2])
    >>> plane.k, plane.d, plane.point([2.0, 5.0]).tolist()
    (2, 3, [2.0, 5.0, 0.0])
    """

    origin: Vector
    directions: Matrix
    about: Mapping[str, Any] = field(default_factory=lambda: {"kind": "custom"})
    checkpoints: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dtype = np.result_type(np.asarray(self.origin).dtype, np.asarray(self.directions).dtype, np.float32)
        origin, directions = np.asarray(self.origin, dtype), np.asarray(self.directions, dtype)
        if origin.ndim != 1 or directions.ndim != 2 or directions.shape[1] != origin.size:
            raise ValueError(
                f"a plane takes an origin (d,) and directions (k, d), but {origin.shape} and {directions.shape} came"
            )
        if not np.isfinite(origin).all() or not np.isfinite(directions).all():
            raise ValueError("a plane takes finite numbers, but its origin or a direction has NaN or inf in it")
        for name, array in (("origin", origin), ("directions", directions)):
            frozen = array.view()
            frozen.flags.writeable = False
            object.__setattr__(self, name, frozen)

    @property
    def k(self) -> int:
        """How many dimensions it has."""
        return len(self.directions)

    @property
    def d(self) -> int:
        """How many parameters a point of it has."""
        return self.origin.size

    def point(self, coords: Values | list[float]) -> Vector:
        """Parameters at coordinates, (k,) to (d,) or (n, k) to (n, d), in the dtype of the origin.

        Raises:
            ValueError: If there is another number of coordinates.
        """
        at = np.asarray(coords, dtype=np.float64)
        if at.shape[-1:] != (self.k,):
            raise ValueError(f"a point of this plane has {self.k} coordinates, but shape {at.shape} came")
        points: Vector = self.origin + (at.astype(self.origin.dtype) @ self.directions)
        return points

    def project(self, thetas: Matrix) -> tuple[Values, Values]:
        """Drop points of parameter space onto the plane; see `project`."""
        return project(self.origin, self.directions, thetas)


def project(origin: Vector, directions: Matrix, thetas: Matrix) -> tuple[Values, Values]:
    """Drop points of parameter space onto a plane.

    The coordinates are the least-squares ones, so the directions need not be orthogonal
    (QR; Golub & Van Loan, Matrix Computations, 4th ed., section 5.3).

    Args:
        origin: Where the plane is pinned, (d,).
        directions: The vectors that span it, (k, d).
        thetas: The points to drop, (n, d).

    Returns:
        The coordinates, (n, k), in units of the directions, and the distances from the
        plane, (n,), in parameter units (Euclidean).

    Raises:
        ValueError: If the directions are parallel, or one of them is zero.

    >>> coords, off = project(np.zeros(3), np.eye(3)[:2], np.array([[2.0, 5.0, 7.0]]))
    >>> coords.tolist(), off.tolist()
    ([[2.0, 5.0]], [7.0])
    """
    wide = np.asarray(directions, np.float64)
    basis, triangle = np.linalg.qr(wide.T)  # (d, k), (k, k)
    lengths = np.linalg.norm(wide, axis=1)
    if np.any(np.abs(np.diag(triangle)) <= 1e-6 * lengths):
        raise ValueError(
            f"the {len(wide)} directions must span a plane, but they are parallel or zero "
            f"(lengths {lengths}); draw new ones, or pass a single direction for a line"
        )
    steps = np.atleast_2d(np.asarray(thetas, np.float64)) - np.asarray(origin, np.float64)
    along = steps @ basis  # (n, k) in the orthonormal basis
    off = np.linalg.norm(steps - along @ basis.T, axis=1)
    return np.linalg.solve(triangle, along.T).T, off
