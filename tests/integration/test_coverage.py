"""Coverage of sources of every kind beside each other, and of a warehouse that does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.bootstrap import Clock
from shared.core.lineage import Evidence
from shared.core.period import Unit
from shared.core.record import Record
from shared.core.run import Summary
from shared.processors import PROCESSORS
from shared.step import StepContext, StepResult, processor
from shared.warehouse import Batches, Column, Table
from tests.support.system import EmbeddedSystem

NOW = datetime(2026, 11, 24, 4, tzinfo=UTC)
PIPELINE = """\
pipeline_id: {unit}_{number}
provider: engine
domain: cover
coverage: {{tables: [raw_{number}, costs], unit: {unit}, final_after_days: 3}}
steps:
  - step_id: load
    ps_type: tests.load
    config: {{unit: {unit}, tables: [raw_{number}, costs]}}
"""


class LoadConfig(Record, frozen=True, kw_only=True):
    unit: Unit
    tables: tuple[str, ...]


@processor("tests.load", needs_credential=False)
def load(step: StepContext, config: LoadConfig) -> StepResult:
    """A row a slice, in every table."""
    dates = config.unit.firsts(step.start_date, step.end_date)
    for table in config.tables:
        step.load(
            Table(table, (Column("Id"),)),
            Batches(batches=[[{"Id": "a", "_run_date": str(day)} for day in dates]]),
            covers=frozenset(map(step.slice, dates)),
            source_version="1",
            source_at=NOW,
        )
    return StepResult(summary=Summary(loaded=len(dates)), evidence=Evidence())


@pytest.fixture
def system(tmp_path: Path) -> Iterator[EmbeddedSystem]:
    pipelines = {
        f"engine/cover/{unit}_{number}.yml": PIPELINE.format(unit=unit, number=number)
        for unit in Unit
        for number in (1, 2)
    }
    made = EmbeddedSystem(
        tmp_path,
        clock=Clock(now=lambda: NOW),
        processors={**PROCESSORS, load.ps_type: load},
        pipelines=pipelines,
    )
    with made:
        made.organization("acme")
        yield made


def pages(system: EmbeddedSystem, start: date, limit: int) -> list[list[dict[str, Any]]]:
    path = f"/pipelines/coverage/acme?start_date={start}&limit={limit}"
    found = []
    cursor = ""
    while True:
        page = system.call("GET", path + cursor).json
        found.append(page["sources"])
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


def test_days_and_months_share_pages_and_every_source_is_on_one(system: EmbeddedSystem) -> None:
    start, end = date(2026, 9, 28), date(2026, 11, 23)
    names = ["day_1", "day_2", "month_1", "month_2"]
    for name in names:
        # from long before the days that are asked for
        body = {"start_date": "2026-09-01", "end_date": str(end)}
        ended = system.run("acme", f"engine/cover/{name}", body)
        assert ended["status"] == "completed", ended
    (whole,) = pages(system, start, 50)
    assert [source["pipeline_id"] for source in whole] == names
    for source in whole:
        assert source["counts"]["loaded"] == (end - start).days + 1
        assert (source["credential_id"], source["gaps"], source["due"]) == ("none", [], [])
    finals = [source["final"] for source in whole]
    assert finals[:2] == [(date(2026, 11, 20) - start).days + 1] * 2
    assert finals[2:] == [(date(2026, 10, 31) - start).days + 1] * 2
    for limit in (1, 2, 3):
        parts = pages(system, start, limit)
        assert [source for page in parts for source in page] == whole
        assert max(map(len, parts)) <= limit


def test_what_needs_no_credential_is_expected_once_it_was_loaded(system: EmbeddedSystem) -> None:
    assert pages(system, date(2026, 11, 1), 50) == [[]]
    named = "/pipelines/coverage/acme?pipeline_id=day_1&start_date=2026-11-21"
    (source,) = system.call("GET", named).json["sources"]
    assert (source["counts"]["missing"], source["counts"]["pending"]) == (2, 1)
    day = {"start_date": "2026-11-21"}
    assert system.run("acme", "engine/cover/day_1", day)["status"] == "completed"
    ((source,),) = pages(system, date(2026, 11, 21), 50)
    assert source["gaps"] == [{"start_date": "2026-11-22", "end_date": "2026-11-22"}]


def test_a_day_is_due_when_its_look_is_old_or_would_be_the_last(system: EmbeddedSystem) -> None:
    yesterday = {"start_date": "2026-11-23"}
    assert system.run("acme", "engine/cover/day_1", yesterday)["status"] == "completed"
    path = "/pipelines/coverage/acme?start_date=2026-11-23&older_than_days="
    (now, later) = (system.call("GET", f"{path}{days}").json["sources"][0] for days in (0, 1))
    assert [one["looked_at"] for one in now["due"]] == [NOW.isoformat().replace("+00:00", "Z")]
    assert later["due"] == []


def test_a_warehouse_that_does_not_answer_says_nothing_of_the_days(system: EmbeddedSystem) -> None:
    system.app.warehouse().close()
    reply = system.call("GET", "/pipelines/coverage/acme")
    assert (reply.status, reply.json["error"]) == (503, "unavailable")
    assert "Retry-After" in reply.headers
