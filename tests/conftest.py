"""What every test may rely on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

from tests.support.emulators import (
    firestore_emulator,
    firestore_project,
    gcs_emulator,
    pubsub_emulator,
    tasks_emulator,
)

__all__ = [
    "firestore_emulator",
    "firestore_project",
    "gcs_emulator",
    "pubsub_emulator",
    "tasks_emulator",
]

# A loaded machine is no fault of the code: time is measured in benchmarks/, never asserted here.
settings.register_profile("test", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=10_000)
settings.load_profile("test")

LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs an emulator, unless `-m` speaks of it."""
    if "cloud" in config.option.markexpr:
        return
    cloud = [item for item in items if item.get_closest_marker("cloud")]
    if cloud:
        items[:] = [item for item in items if item not in set(cloud)]
        config.hook.pytest_deselected(items=cloud)
        config.stash[LEFT_OUT] = len(cloud)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # in a process of pytest-xdist
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    left_out = getattr(node, "workeroutput", {}).get("left_out", 0)
    node.config.stash[LEFT_OUT] = max(left_out, node.config.stash.get(LEFT_OUT, 0))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    left_out = config.stash.get(LEFT_OUT, 0)
    if left_out:
        terminalreporter.write_line(
            f"left out: {left_out} tests that need an emulator; `make test-cloud` runs them"
        )
