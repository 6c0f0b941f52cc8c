"""Each case is made once: TensorFlow traces its graphs once."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from gradvis.objective import Objective
from tests.contract.cases import CASES, NETWORKS, Case, Network


@cache
def made(name: str) -> tuple[Case, Objective]:
    case = CASES[name]()
    return case, case.objective()


@pytest.fixture(params=CASES)
def name(request) -> str:
    return request.param


@pytest.fixture
def case(name) -> Case:
    return made(name)[0]


@pytest.fixture
def objective(name) -> Objective:
    return made(name)[1]


@pytest.fixture(params=NETWORKS)
def network(request) -> Network:
    """A fresh one: the test may change it."""
    return NETWORKS[request.param]()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
