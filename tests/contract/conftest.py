"""Each case is made once: TensorFlow traces its graphs once. Whatever is asked of it, it must be found as it was."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from gradvis.objective import Objective
from tests.contract.cases import CASES, NETWORKS, Case, Network


@cache
def made(name: str) -> tuple[Case, Objective]:
    case = CASES[name]()
    case.elsewhere()  # its models are made now: Keras draws their first weights with Python's generator
    return case, case.objective()


def state(case: Case) -> dict[str, Any]:
    """Everything of the user's, where there is a user's model."""
    return case.snapshot() if isinstance(case, Network) else {}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if "keras-everything" in item.name:  # its loops in loops take a minute to trace
            item.add_marker("slow")


@pytest.fixture(params=CASES)
def name(request) -> str:
    return request.param


@pytest.fixture
def case(name) -> Case:
    return made(name)[0]


@pytest.fixture
def objective(name) -> Iterator[Objective]:
    """Law 2 is seen in every test: the one that is first traces the graphs."""
    case, found = made(name)
    before = state(case)
    yield found
    assert state(case) == before


@pytest.fixture(params=NETWORKS)
def network(request) -> Network:
    """A fresh one: the test may change it."""
    return NETWORKS[request.param]()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
