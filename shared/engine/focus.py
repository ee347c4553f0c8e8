"""Checks an organization's table of costs against the rules of FOCUS. It reads, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import msgspec

from shared.app import App
from shared.core import focus
from shared.core.dates import Dates, parse_dates
from shared.core.focus_check import Report, Subject, check
from shared.core.lineage import dataset_of
from shared.errors import NotFound, Terminal
from shared.warehouse import Value, Warehouse

_DAYS = (
    35  # when nobody says which: the month that is open, and the one before while it is restated
)
_DAY = timedelta(days=1)


class FocusCheckView(Report, frozen=True, kw_only=True, omit_defaults=False):
    """What a check of a table found, of its charges that begin on these days (UTC, both inclusive)."""

    table: str
    start_date: date
    end_date: date


def check_focus(
    app: App, org: str, table: str, start_date: str | None, end_date: str | None
) -> FocusCheckView:
    """Judges the table's rows of these days; given one, of that day; given none, of the last 35.

    Raises Invalid for days that are none, NotFound when there is no such table.
    """
    if app.accounts.organization(org) is None:
        raise NotFound(f"there is no organization {org!r}", code="org_not_found")
    days = _days(start_date, end_date, app.now())
    report = check_table(app.warehouse(), dataset_of(org, app.environment), table, days)
    return FocusCheckView(
        **msgspec.structs.asdict(report), table=table, start_date=days.start, end_date=days.end
    )


def check_table(warehouse: Warehouse, dataset: str, table: str, days: Dates) -> Report:
    """Judges a table's or a view's rows whose charges begin on these days, or at no time at all."""
    try:
        columns = warehouse.query(dataset, f"SELECT * FROM {table} LIMIT 0", {}).columns
    except Terminal as error:
        raise NotFound(f"there is no table {table!r}", code="table_not_found") from error
    # Without it there is nothing to choose rows by, and the report says that it is missing.
    dated = "ChargePeriodStart" in columns
    chosen = (
        "(ChargePeriodStart >= @since AND ChargePeriodStart < @before) OR ChargePeriodStart IS NULL"
    )
    params: dict[str, Value] = {
        "since": datetime.combine(days.start, time(), UTC),
        "before": datetime.combine(days.end, time(), UTC) + _DAY,
    }

    def ask(sql: str) -> Sequence[Sequence[Value]]:
        return warehouse.query(dataset, sql, params if dated else {}).rows

    return check(
        Subject(
            rows=f"SELECT * FROM {table} WHERE {chosen if dated else 'TRUE'}",
            columns=columns,
            version=focus.detect(columns),
            name="x_row_id" if "x_row_id" in columns else "CAST(NULL AS STRING)",
        ),
        ask,
    )


def _days(start_date: str | None, end_date: str | None, now: datetime) -> Dates:
    if start_date is None and end_date is None:
        today = now.astimezone(UTC).date()
        return Dates(today - (_DAYS - 1) * _DAY, today)
    return parse_dates(start_date, end_date, now)
