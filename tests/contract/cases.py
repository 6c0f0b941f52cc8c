"""What a backend brings to the contract suite: an objective, and the same numbers by another road.

A reference never goes through gradvis: it sees the user's model, all samples at once, and float64.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from gradvis.backends.analytic import Quadratic, Rosenbrock
from gradvis.objective import Objective
from gradvis.space import Block, ParameterSpace

SAMPLES, BATCH = 23, 8  # the last batch is ragged
CLASSES = 3


class Case(ABC):
    """One model and loss.

    Attributes:
        pattern: A glob that names some of the blocks.
        operators: What its products can be with.
        model: The user's, or None where there is none.
    """

    pattern: str
    operators: tuple[str, ...] = ("hessian",)
    model: Any = None
    loss: Any = None

    @abstractmethod
    def objective(self, **options: Any) -> Objective:
        """In float64, in batches of BATCH."""

    @abstractmethod
    def values(self, theta: np.ndarray) -> Mapping[str, np.ndarray]:
        """Each metric of each sample, (samples,), by name."""

    @abstractmethod
    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """(d,)."""

    @abstractmethod
    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """(d, d)."""

    def dense(self, operator: str, theta: np.ndarray) -> np.ndarray:
        """Any of the operators, (d, d)."""
        assert operator == "hessian"
        return self.hessian(theta)

    @abstractmethod
    def elsewhere(self) -> tuple[Any, np.ndarray, Mapping[str, np.ndarray]]:
        """A checkpoint of another state (buffers too), its vector, and `values` there with its own buffers."""


class Network(Case):
    """A case of a framework, with a model that must be found again as it was."""

    metrics: tuple[str, ...] = ("accuracy",)
    inputs: np.ndarray
    targets: np.ndarray

    def labelled(self, *shape: int) -> None:
        """Draw the data of a classification."""
        rng = np.random.default_rng(5)
        self.inputs, self.targets = rng.normal(size=(SAMPLES, *shape)), rng.integers(0, CLASSES, SAMPLES)

    @abstractmethod
    def snapshot(self) -> dict[str, Any]:
        """Everything of the user's: to be equal before and after."""

    @abstractmethod
    def borrow(self, other: Network) -> None:
        """Give the model the parameters and buffers of another."""

    @abstractmethod
    def losing(self, fails: Callable[[int], bool]) -> Callable[[Any, Any], Any]:
        """A loss f(outputs, targets) that raises ArithmeticError for batches of a length for which `fails`."""

    @abstractmethod
    def move(self, part: str) -> None:
        """Change the model's `parameters` or `buffers`."""


def common_state() -> dict[str, Any]:
    """The random generators that belong to no framework."""
    kind, keys, *rest = np.random.get_state()
    return {"python": random.getstate(), "numpy": (kind, keys.tobytes(), *rest)}


def cut(d: int) -> ParameterSpace:
    """Two blocks, the second of them a weight with filters along its last axis."""
    return ParameterSpace([Block("first", (d - 4,)), Block("second", (2, 2), filter_axes=(1,))])


class QuadraticCase(Case):
    pattern = "second"
    spectrum = np.array([-0.5, 0.0, 0.25, 1.0, 3.0, 40.0, 7.0])

    def __init__(self) -> None:
        self.minimum = np.random.default_rng(0).normal(size=7)

    def objective(self, **options: Any) -> Objective:
        return Quadratic(self.spectrum, minimum=self.minimum, offset=2.0, rotate_seed=3, space=cut(7))

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        basis, triangle = np.linalg.qr(np.random.default_rng(3).normal(size=(7, 7)))
        basis = basis @ np.diag(np.sign(np.diag(triangle)))
        return basis @ np.diag(self.spectrum) @ basis.T

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        return self.hessian(theta) @ (theta - self.minimum)

    def values(self, theta: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"loss": np.array([2.0 + 0.5 * (theta - self.minimum) @ self.gradient(theta)])}

    def elsewhere(self) -> tuple[Any, np.ndarray, Mapping[str, np.ndarray]]:
        theta = np.linspace(-1, 1, 7)
        return theta.tolist(), theta, self.values(theta)


class RosenbrockCase(Case):
    pattern = "first"

    def objective(self, **options: Any) -> Objective:
        return Rosenbrock(6, space=cut(6))

    def values(self, theta: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"loss": np.array([sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in pairwise(theta))])}

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """By complex steps: exact to the last bits (Squire & Trapp 1998)."""
        return np.array([self.values(theta + 1e-30j * e)["loss"][0].imag / 1e-30 for e in np.eye(6)])

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        dense = np.zeros((6, 6))
        for i, (a, b) in enumerate(pairwise(theta)):
            dense[i : i + 2, i : i + 2] += [[1200 * a * a - 400 * b + 2, -400 * a], [-400 * a, 200]]
        return dense

    def elsewhere(self) -> tuple[Any, np.ndarray, Mapping[str, np.ndarray]]:
        theta = np.linspace(-1, 1, 6)
        return theta, theta, self.values(theta)


def _keras(name: str, **options: Any) -> Case:
    from tests.contract import keras_cases, keras_everything

    return getattr(keras_everything if name == "Everything" else keras_cases, name)(**options)


def _torch(name: str, **options: Any) -> Case:
    from tests.contract import torch_cases

    return getattr(torch_cases, name)(**options)


# a framework that is not installed fails here: what is not run is not proved
NETWORKS: dict[str, Callable[..., Network]] = {
    "keras-dense": lambda **options: _keras("Dense", **options),
    "keras-conv": lambda **options: _keras("Conv", **options),
    "keras-regression": lambda **options: _keras("Regression", **options),
    "keras-everything": lambda **options: _keras("Everything", **options),
    "torch-dense": lambda **options: _torch("Dense", **options),
    "torch-conv": lambda **options: _torch("Conv", **options),
    "torch-regression": lambda **options: _torch("Regression", **options),
    "torch-everything": lambda **options: _torch("Everything", **options),
}
CASES: dict[str, Callable[..., Case]] = {"quadratic": QuadraticCase, "rosenbrock": RosenbrockCase, **NETWORKS}
