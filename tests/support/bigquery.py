"""The warehouse in BigQuery, for tests: on the emulator, or on what stands before it."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.warehouse.bigquery import DIRECT_BYTES, BigQueryWarehouse
from shared.warehouse.bigquery_jobs import TIMEOUT_SECONDS
from shared.warehouse.leases import TableLeases, ThreadLeases
from shared.warehouse.staging import Staging
from tests.support.http_door import Door

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
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    leases: TableLeases | None = None,
    staging: Staging | None = None,
    direct_bytes: int = DIRECT_BYTES,
    timeout_seconds: float = TIMEOUT_SECONDS,
    new_id: Callable[[], str] = new_id,
    sleep: Callable[[float], None] = hurry,
) -> BigQueryWarehouse:
    """On the emulator at `host`, with local files and `procedures` in the folder."""
    return BigQueryWarehouse(
        PROJECT,
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
        direct_bytes=direct_bytes,
        timeout_seconds=timeout_seconds,
        emulator=f"http://{host}",
    )


def drop(warehouse: BigQueryWarehouse, dataset: str) -> None:
    """Leaves the next test an empty dataset of that name."""
    warehouse._jobs.ask(
        "drop a dataset",
        lambda client: client.delete_dataset(dataset, delete_contents=True, not_found_ok=True),
    )


def jobs(before: Door) -> list[dict[str, Any]]:
    """The jobs that were sent through the door, as they were; a dry run is none."""
    sent = []
    for asked in before.asked:
        if asked.method == "POST" and "/jobs" in asked.path and asked.says("jobReference"):
            text = asked.body.decode("utf-8", "replace")  # an upload has the file behind the job
            sent.append(json.JSONDecoder().raw_decode(text, text.index("{"))[0])
    return [job for job in sent if not job["configuration"].get("dryRun")]


def statements(before: Door) -> set[str]:
    """The SQL that was sent through the door."""
    configurations = [job["configuration"] for job in jobs(before)]
    return {made["query"]["query"] for made in configurations if "query" in made}
