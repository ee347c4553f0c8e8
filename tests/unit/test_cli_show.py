from __future__ import annotations

from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from shared.cli import show
from shared.cli.follow import line, remark
from shared.cli.runs import reconciled_table, steps_table
from shared.cli.show import Column


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0 ms"),
        (0.0121, "12 ms"),
        (0.0996, "0.1 s"),
        (1.24, "1.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (125, "2 min 05 s"),
        (1800, "30 min"),
        (3599.6, "1 h"),
        (3900, "1 h 05 min"),
    ],
)
def test_a_duration_is_told_in_the_unit_that_people_use(value: float | None, text: str) -> None:
    assert show.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0.00"),
        ("20.52022672899", "20.52022672899"),
        ("1234567.5", "1,234,567.50"),
        ("-3.100000000000000000", "-3.10"),
        ("1E+3", "1,000.00"),
        ("1E-18", "0.000000000000000001"),
    ],
)
def test_money_keeps_every_digit_that_counts(value: str, text: str) -> None:
    assert show.money(value) == text
    assert show.money(Decimal(value)) == text


def test_times_are_utc_whatever_zone_they_come_in() -> None:
    assert show.utc("2026-01-31T23:30:00-01:00") == "2026-02-01 00:30:00"
    assert show.utc("2026-01-31T23:30:00.123456Z") == "2026-01-31 23:30:00"
    assert show.clock("2026-01-31T23:30:00.123456Z") == "23:30:00.123"
    assert show.utc(None) == show.clock(None) == "–"


def test_a_json_value_fits_a_cell() -> None:
    assert show.value({"a": [1, "x"], "b": None, "c": True}) == "a=1, x b=– c=true"
    assert show.value([]) == show.value({}) == show.value(None) == "–"


def test_numbers_of_a_table_stand_at_the_right() -> None:
    text = _printed(
        show.table([Column("name"), Column("rows", right=True)], [("a", "5"), ("bb", "1,000")])
    )
    assert text == ["name   rows", "a         5", "bb    1,000"]


def test_a_running_line_says_what_is_worth_knowing() -> None:
    assert line(_step(status="running", attempt=1), 8) == "extract   running"
    done = _step(status="completed", duration_seconds=2.13, summary={"loaded": 100_000})
    assert line(done, 8) == "extract   completed    2.1 s  100,000 rows"
    failed = _step(status="failed", error={"code": "file_missing", "message": "x: is not there"})
    assert remark(failed) == "file_missing: x: is not there"


def test_a_step_that_waits_for_its_next_attempt_says_when_and_why() -> None:
    step = _step(
        status="queued",
        attempt=2,
        next_attempt_at="2026-01-31T06:00:30Z",
        error={"code": "transient", "message": "rate limited"},
    )
    assert remark(step) == "attempt 2 of 3 at 06:00:30.000 UTC after transient: rate limited"


def test_a_step_without_a_summary_has_no_rows_and_zeroes_are_zeroes() -> None:
    steps = [
        _step(status="completed", attempt=1, summary={"extracted": 5, "loaded": 4, "rejected": 1}),
        _step(step_id="next", status="completed", attempt=1, summary={}),
        _step(step_id="last", status="skipped", reason="extract did not complete"),
    ]
    header, first, second, third = _printed(steps_table(steps))
    assert header.split() == [
        "step",
        "status",
        "attempt",
        "time",
        "extracted",
        "loaded",
        "rejected",
    ]
    assert first.split()[4:] == ["5", "4", "1"]
    assert second.split()[4:] == ["0", "0", "0"]
    assert third.split()[4:7] == ["–", "–", "–"]
    assert third.endswith("extract did not complete")


def test_what_the_provider_says_stands_beside_what_was_loaded() -> None:
    total = {
        "table": "genai_costs",
        "column": "amount",
        "currency": "USD",
        "start_date": "2026-11-01",
        "end_date": "2026-11-07",
        "loaded": "1312.500000000000000000",
        "told": "1312.5",
        "verdict": "matched",
    }
    unknown = total | {"currency": "EUR", "told": None, "verdict": "unverifiable"}
    header, *rows = _printed(reconciled_table([total, unknown]))
    assert header.split() == ["reconciled", "currency", "days", "loaded", "provider's"]
    assert [row.split()[-3:] for row in rows] == [
        ["1,312.50", "1,312.50", "matched"],
        ["1,312.50", "–", "unverifiable"],
    ]


def _step(**fields: Any) -> dict[str, Any]:
    return {
        "step_id": "extract",
        "status": "pending",
        "attempt": 0,
        "max_attempts": 3,
        "duration_seconds": None,
        "next_attempt_at": None,
        "from_run": None,
        "reason": None,
        "summary": None,
        "error": None,
        **fields,
    }


def _printed(what: Any) -> list[str]:
    out = StringIO()
    Console(file=out, width=200).print(what)
    return [text.rstrip() for text in out.getvalue().splitlines()]
