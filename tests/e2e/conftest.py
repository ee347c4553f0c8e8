"""One system on each set of backends, for all tests of a process: organizations keep them apart.

To start the functions of one in the cloud mode, and to stop them, takes as long as a hundred tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.support.system import EmbeddedSystem, System

_numbers = itertools.count(1)

Opener = Callable[[], System]


@pytest.fixture(
    scope="session", params=["embedded", pytest.param("cloud", marks=pytest.mark.cloud)]
)
def opener(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Makes another system on the same set of backends."""
    if request.param == "embedded":
        return lambda: EmbeddedSystem(tmp_path_factory.mktemp("system"))
    from tests.support.cloud import CloudSystem

    backends = request.getfixturevalue("cloud_backends")
    return lambda: CloudSystem(tmp_path_factory.mktemp("system"), backends)


@pytest.fixture(scope="session")
def system(opener: Opener) -> Iterator[System]:
    with opener() as made:
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
