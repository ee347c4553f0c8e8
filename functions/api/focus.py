"""Costs against the rules of FOCUS."""

from __future__ import annotations

from typing import Annotated

from flask import Response
from msgspec import Meta

from functions.api.http import Call, answer
from shared.core import focus
from shared.core.record import Record
from shared.engine.focus import check_focus

_Day = Annotated[
    str,
    Meta(
        description="An inclusive UTC day on which charges begin; the last 35 where none is given.",
        examples=["2026-01-31"],
        extra_json_schema={"format": "date"},
    ),
]


class FocusCheckQuery(Record, frozen=True, kw_only=True):
    """Which rows of which table."""

    table: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z][A-Za-z0-9_]{0,127}$",
            description="A table or a view of the organization with columns of FOCUS.",
        ),
    ] = focus.TABLE
    start_date: _Day | None = None
    end_date: _Day | None = None


def check(call: Call, org: str, query: FocusCheckQuery) -> Response:
    """Judges rows by the rules of the FOCUS version that the table's columns are of.

    It reads the rows, and changes nothing. Of each rule that is broken it tells how many rows break it,
    and few of them.
    """
    app = call.engine.app
    return answer(check_focus(app, org, query.table, query.start_date, query.end_date))
