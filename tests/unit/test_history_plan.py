"""A history in SQLite is read in the order of an index, whatever the filter: nothing is sorted or copied."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.core.run import RunStatus
from shared.journal import Journal
from shared.state import HistoryFilter
from shared.state.sqlite import SqliteRunStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FILTERS: dict[str, Any] = {
    "pipeline_id": "p",
    "status": RunStatus.FAILED,
    "outcome": "ok",
    "trigger": "api",
    "created_from": NOW,
    "created_before": NOW,
}


def plan_of(journal: Journal, statement: str) -> list[str]:
    explain = f"EXPLAIN QUERY PLAN {statement}"
    return [row[3] for row in journal.read(lambda db: db.execute(explain).fetchall())]


@pytest.mark.parametrize("cursor", [None, "1.r1"])
def test_every_filter_and_two_together_are_a_search_of_the_index(
    tmp_path: Path, cursor: str | None
) -> None:
    journal = Journal(tmp_path / "state.db")
    store = SqliteRunStore(journal)
    asked: list[str] = []
    journal.read(lambda db: db.set_trace_callback(asked.append))
    for names in (*itertools.combinations(FILTERS, 1), *itertools.combinations(FILTERS, 2), ()):
        store.history("acme", HistoryFilter(**{name: FILTERS[name] for name in names}), 50, cursor)
    journal.read(lambda db: db.set_trace_callback(None))
    assert len(asked) == 22
    for statement in asked:
        steps = plan_of(journal, statement)
        assert len(steps) == 1, (statement, steps)
        assert steps[0].startswith("SEARCH runs USING INDEX runs_by_time (org=?"), steps
    journal.close()
