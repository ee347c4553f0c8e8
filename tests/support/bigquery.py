"""The warehouse in BigQuery, for tests: on the emulator, or on what stands before it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from shared.warehouse.bigquery import BigQueryWarehouse
from shared.warehouse.leases import TableLeases, ThreadLeases
from shared.warehouse.staging import Staging

# One for all: each further one makes every call of the emulator slower.
PROJECT = "test"
_HASTE = 20  # times faster than in earnest


def new_id() -> str:
    return os.urandom(6).hex()


def hurry(seconds: float) -> None:
    time.sleep(seconds / _HASTE)


def bigquery_warehouse(
    host: str,
    folder: Path,
    *,
    project: str = PROJECT,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    leases: TableLeases | None = None,
    staging: Staging | None = None,
    new_id: Callable[[], str] = new_id,
    sleep: Callable[[float], None] = hurry,
) -> BigQueryWarehouse:
    """On the emulator at `host`, with local files and `procedures` in the folder."""
    return BigQueryWarehouse(
        project,
        folder / "procedures",
        now,
        new_id=new_id,
        sleep=sleep,
        random=random.random,
        location="US",
        leases=leases or ThreadLeases(),
        scratch=folder / "scratch",
        maximum_bytes_billed=10 * 2**30,
        staging=staging,
        emulator=f"http://{host}",
    )


def drop(warehouse: BigQueryWarehouse, dataset: str) -> None:
    """Leaves the next test an empty dataset of that name."""
    warehouse._jobs.ask(
        "drop a dataset",
        lambda client: client.delete_dataset(dataset, delete_contents=True, not_found_ok=True),
    )
