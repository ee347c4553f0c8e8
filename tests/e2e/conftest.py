"""One system a module: its organizations keep the tests apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support.system import System

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(tmp_path_factory.mktemp("system")) as made:
        yield made


class Tenant:
    """An organization of its own, with a key that may read and execute."""

    def __init__(self, system: System, plan: str) -> None:
        self.slug = f"org_{next(_numbers)}"
        self.key = system.organization(self.slug, plan)


@pytest.fixture
def tenant(system: System) -> Tenant:
    return Tenant(system, "scale")


@pytest.fixture
def other(system: System) -> Tenant:
    return Tenant(system, "scale")


@pytest.fixture
def small(system: System) -> Tenant:
    """One run at a time, six a day."""
    return Tenant(system, "starter")
