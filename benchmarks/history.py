"""What a look at a long history costs on one machine: the API's handlers over 100,000 runs in SQLite.

    python benchmarks/history.py [--runs 100000] [--times 200]

The runs are an organization's, of five steps each, among as many of others. Measured in the process,
from the engine's call to the JSON: what HTTP adds is what it adds to any request (`engine.py`). The
worst filter is one that no run matches; the baseline is the read of one row by its key.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

from shared.core.plan import Plan, StepPlan
from shared.core.run import (
    Outcome,
    Params,
    Run,
    RunStatus,
    StepState,
    StepStatus,
    Summary,
    Trigger,
)
from shared.engine import query
from shared.journal import Journal
from shared.state import HistoryFilter
from shared.state.sqlite import SqliteRunStore

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = ("one", "two", "three", "four", "five")
PLAN = Plan(
    address="a/b/c",
    pipeline_id="p",
    provider="a",
    domain="b",
    version="1",
    config_hash="c0ffee",
    steps=tuple(StepPlan(step_id=step, ps_type="generic.noop") for step in STEPS),
)
DONE = StepState(
    status=StepStatus.COMPLETED,
    attempt=1,
    counted=1,
    summary=Summary(extracted=1000, loaded=1000),
    started_at=FIRST,
    finished_at=FIRST,
)


def made(number: int, org: str) -> Run:
    """One in a hundred failed, one in ten thousand had no data; ten pipelines, four triggers."""
    failed = number % 100 == 0
    outcome = None if failed else Outcome.NO_DATA if number % 10_000 == 1 else Outcome.OK
    return Run(
        run_id=f"r{number:09}{org}",
        org=org,
        dataset=f"{org}_prod",
        address=PLAN.address,
        pipeline_id=f"p{number % 10}",
        trigger=list(Trigger)[number % 4],
        request_hash="h" * 32,
        created_at=FIRST + timedelta(seconds=30 * number),
        status=RunStatus.FAILED if failed else RunStatus.COMPLETED,
        outcome=outcome,
        params=Params(start_date=FIRST.date(), end_date=FIRST.date()),
        effects_done=True,
        steps=dict.fromkeys(STEPS, DONE),
    )


def fill(store: SqliteRunStore, count: int) -> None:
    runs = (made(number, org) for number in range(count) for org in ("acme", "others"))
    with ThreadPoolExecutor(64) as pool:  # which share the waits for the disk
        for batch in batched(runs, 10_000):
            assert all(pool.map(lambda run: store.create_run(run, PLAN, "n"), batch))


def batched(runs: Iterator[Run], size: int) -> Iterator[list[Run]]:
    while batch := list(islice(runs, size)):
        yield batch


def timed(action: Callable[[], Any], times: int) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        msgspec.json.encode(action())
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    return statistics.median(taken), taken[int(len(taken) * 0.99) - 1]


def looks(app: Any, count: int, chance: random.Random) -> dict[str, Callable[[], Any]]:
    """Every kind of look, by its name."""

    def history(where: HistoryFilter, cursor: str | None = None) -> Callable[[], Any]:
        return lambda: query.history(app, "acme", where, 50, cursor)

    middle = app.runs.history(
        "acme", HistoryFilter(created_before=FIRST + timedelta(seconds=15 * count))
    )
    day = FIRST + timedelta(seconds=10 * count)
    return {
        "status of a run": lambda: query.status(app, "acme", f"r{chance.randrange(count):09}acme"),
        "newest 50": history(HistoryFilter()),
        "50 in the middle, by cursor": history(HistoryFilter(), middle.cursor),
        "a pipeline (1 in 10)": history(HistoryFilter(pipeline_id="p3")),
        "failed (1 in 100)": history(HistoryFilter(status=RunStatus.FAILED)),
        "no data (1 in 10,000)": history(HistoryFilter(outcome="no_data")),
        "a trigger (1 in 4)": history(HistoryFilter(trigger="schedule")),
        "a day": history(HistoryFilter(created_from=day, created_before=day + timedelta(days=1))),
        "a pipeline's failed, of a trigger": history(
            HistoryFilter(pipeline_id="p0", status=RunStatus.FAILED, trigger="api")
        ),
        "a pipeline that never ran": history(HistoryFilter(pipeline_id="nowhere")),
        "a status no run has": history(HistoryFilter(status=RunStatus.CANCELLED)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.db"
        journal = Journal(path)
        store = SqliteRunStore(journal)
        fill(store, given.runs)
        app = SimpleNamespace(runs=store, now=lambda: FIRST, jobs=None)
        chance = random.Random(1)  # which runs are looked at is no secret
        figures = {
            name: timed(look, given.times) for name, look in looks(app, given.runs, chance).items()
        }
        store.sync()
        db = sqlite3.connect(path)
        key = (f"r{given.runs // 2:09}acme",)
        row = "SELECT doc FROM runs WHERE run_id = ?"
        figures["baseline: one row by its key"] = timed(
            lambda: len(db.execute(row, key).fetchone()[0]), given.times
        )
        db.close()
        journal.close()
    for name, (median, most) in figures.items():
        print(f"{name:36} p50 {median:8.2f} ms   p99 {most:8.2f} ms")
    print(json.dumps({name: round(median, 3) for name, (median, _) in figures.items()}))


if __name__ == "__main__":
    main()
