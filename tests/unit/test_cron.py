from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.cron import SHORTHANDS, cron_fault, five_fields


@pytest.mark.parametrize(
    "expression",
    [
        "* * * * *",
        "0 6 * * *",
        "*/5 0-23/2 1,15 jan-mar MON",
        "5/10 * * * 0-7",
        "0 0 29 2 *",
        "0 0 31 2 1",  # the 31st never comes, every Monday does
        "  0   6 * * *  ",
        *SHORTHANDS,
    ],
)
def test_what_every_cron_understands_can_be_meant(expression: str) -> None:
    assert cron_fault(expression) is None


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("", "'' has 0 fields, a cron expression 5 (minute hour day month weekday)"),
        ("0 0 6 * * *", "'0 0 6 * * *' has 6 fields, a cron expression 5 (minute hour day"),
        ("60 * * * *", "the minute '60' must be *, or of 0 to 59"),
        ("* 24 * * *", "the hour '24' must be *, or of 0 to 23"),
        ("* * 0 * *", "the day '0' must be *, or of 1 to 31"),
        ("* * * 13 *", "the month '13' must be *, or of 1 to 12 or jan…"),
        ("* * * * 8", "the weekday '8' must be *, or of 0 to 7 or sun…"),
        ("* * * * L", "the weekday 'L' must be *, or of 0 to 7 or sun…"),
        ("5-1 * * * *", "the minute '5-1' is a range that runs backwards"),
        ("*/0 * * * *", "the minute '*/0' must have a number above 0 after '/'"),
        ("*/ * * * *", "the minute '*/' must have a number above 0 after '/'"),
        ("1,,2 * * * *", "the minute '1,,2' must be *, or of 0 to 59"),
        ("٣ * * * *", "the minute '٣' must be *, or of 0 to 59"),
        ("0 0 30 2 *", "'0 0 30 2 *' never comes: there is no such day"),
        ("0 0 31 4,6 *", "'0 0 31 4,6 *' never comes: there is no such day"),
        ("@dayly", "'@dayly' is no shorthand (did you mean '@daily'?); known: @annually"),
        ("@reboot", "'@reboot' is no shorthand; known: @annually, @daily, @hourly"),
    ],
)
def test_what_cannot_be_meant_says_why(expression: str, fault: str) -> None:
    found = cron_fault(expression)
    assert found is not None
    assert found.startswith(fault)


def test_a_shorthand_is_written_out() -> None:
    assert five_fields(" @daily ") == "0 0 * * *"
    assert five_fields("1 2 3 4 5") == "1 2 3 4 5"


@given(st.text("0159*/,-@ janMON#L", max_size=20) | st.text(max_size=20))
def test_any_text_has_a_fault_or_five_fields(text: str) -> None:
    assert cron_fault(text) or len(five_fields(text).split()) == 5


@given(st.lists(st.sampled_from(["*", "*/7", "1", "2-5", "3,4", "1-6/2"]), min_size=5, max_size=5))
def test_cronsim_understands_what_we_let_pass(fields: list[str]) -> None:
    from datetime import UTC, datetime

    from cronsim import CronSim

    expression = " ".join(fields)
    assert cron_fault(expression) is None
    next(CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC)))
