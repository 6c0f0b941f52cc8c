"""Names for the arrays that cross our boundaries, in the alphabet of CONTRIBUTING.md."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.floating[Any]]
"""A point or a direction of parameter space, (d,), in the model's dtype (float32 at least)."""

Matrix: TypeAlias = NDArray[np.floating[Any]]
"""Several of them, a row each, (n, d), (k, d) or (r, d)."""

Values: TypeAlias = NDArray[np.float64]
"""Coordinates, losses, moments: always float64."""
