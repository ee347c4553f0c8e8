"""Coverage: which days of an organization's sources are loaded."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from flask import Response
from msgspec import Meta

from functions.api.http import Call, answer, known_org
from shared.core.dates import parse_span
from shared.core.record import Record
from shared.engine import coverage as engine

_SPAN_DAYS = 35


_FirstDay = Annotated[
    str,
    Meta(
        description=f"The first day, UTC; {_SPAN_DAYS} days where none is given.",
        examples=["2026-01-01"],
        extra_json_schema={"format": "date"},
    ),
]
_LastDay = Annotated[
    str,
    Meta(
        description="The last day, included; yesterday where none is given.",
        examples=["2026-01-31"],
        extra_json_schema={"format": "date"},
    ),
]
_Provider = Annotated[
    str, Meta(description="Of this provider only, by its name or another that people use.")
]


class CoverageQuery(Record, frozen=True, kw_only=True):
    """Which sources, and which days."""

    start_date: _FirstDay | None = None
    end_date: _LastDay | None = None
    pipeline_id: Annotated[str, Meta(description="Of this pipeline only.")] | None = None
    provider: _Provider | None = None
    credential_id: Annotated[str, Meta(description="With this credential only.")] | None = None
    older_than_days: Annotated[
        int,
        Meta(
            ge=0,
            le=400,
            description="What is provisional is due when nobody has looked at it for so long.",
        ),
    ] = 7
    limit: Annotated[
        int, Meta(ge=1, le=engine.MOST_SOURCES, description="How many sources there are on a page.")
    ] = engine.MOST_SOURCES
    cursor: Annotated[str, Meta(description="`next` of the page before.")] | None = None


def coverage(call: Call, org: str, query: CoverageQuery) -> Response:
    """Which days are loaded, empty, missing or not expected yet, and what may still change."""
    known_org(call, org)
    app = call.engine.app
    provider = None if query.provider is None else app.providers().find(query.provider)
    asked = engine.Asked(
        dates=parse_span(query.start_date, query.end_date, app.now(), _SPAN_DAYS),
        older_than=timedelta(days=query.older_than_days),
        pipeline_id=query.pipeline_id,
        provider=query.provider if provider is None else provider.name,
        credential_id=query.credential_id,
    )
    return answer(engine.coverage(app, org, asked, query.limit, query.cursor))
