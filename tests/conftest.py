"""What every test may rely on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.support.emulators import (
    Emulator,
    bigquery_emulator,
    blob_emulator,
    firestore_emulator,
    firestore_project,
    gcs_emulator,
    oci_storage,
    pubsub_emulator,
    s3_emulator,
    tasks_emulator,
)
from tests.support.gcs import CloudStorage

if TYPE_CHECKING:
    from tests.support.cloud import Backends

__all__ = [
    "bigquery_emulator",
    "blob_emulator",
    "firestore_emulator",
    "firestore_project",
    "gcs_emulator",
    "oci_storage",
    "pubsub_emulator",
    "s3_emulator",
    "tasks_emulator",
]

# A loaded machine is no fault of the code: time is measured in benchmarks/, never asserted here.
settings.register_profile("test", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=10_000)
settings.load_profile("test")


@pytest.fixture(scope="session")
def cloud_backends(
    firestore_emulator: Emulator,
    pubsub_emulator: Emulator,
    tasks_emulator: Emulator,
    bigquery_emulator: Emulator,
    gcs_emulator: CloudStorage,
) -> Iterator[Backends]:
    """All that a system in the cloud mode needs; systems keep apart by their projects."""
    # Seconds of imports: only a process that runs such a system pays for them.
    from tests.support.cloud import Backends
    from tests.support.kms import KmsServer
    from tests.support.postgres import server

    kms = KmsServer()
    yield Backends(
        firestore=firestore_emulator.host,
        pubsub=pubsub_emulator.host,
        tasks=tasks_emulator.host,
        bigquery=bigquery_emulator.host,
        storage=gcs_emulator.host,
        kms=kms,
        postgres=server(),
        buckets=gcs_emulator.folder,
    )
    kms.stop()


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
