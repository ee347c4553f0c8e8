"""Which days of every source of an organization are loaded: each pipeline that says how its days are judged,
with each credential that it can be run with, and with those whose loads are still there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Annotated, NamedTuple

from msgspec import Meta

from shared.app import App
from shared.core.coverage import Due, Held, Source, Span, State, gaps, spans
from shared.core.dates import Dates
from shared.core.lineage import FIRST_DAY, NO_CREDENTIAL, dataset_of
from shared.core.nearmiss import clipped, did_you_mean, listed
from shared.core.period import Unit
from shared.core.pipeline import Pipeline
from shared.core.record import Json
from shared.core.spec import Coverage
from shared.engine.query import View
from shared.errors import Fault, Invalid, Transient, Unavailable
from shared.vault import CredentialInfo
from shared.warehouse import LoadedSlice, LoadsOf

MOST_SOURCES = 50
_MOST_ROWS = 20_000  # of `_loads` for a page, unless one source alone may have more


class DaysView(View, frozen=True, kw_only=True):
    """Days in a row, both ends included, of which the same is known."""

    start_date: date
    end_date: date
    state: State
    final: Annotated[bool, Meta(description="Loaded or empty, and nothing of it changes any more.")]
    lacking: Annotated[
        tuple[str, ...], Meta(description="The tables that keep missing days from being loaded.")
    ]


class GapView(View, frozen=True, kw_only=True):
    """Missing days in a row, as a run takes them."""

    start_date: date
    end_date: date


class DueView(View, frozen=True, kw_only=True):
    """Units in a row that are worth another look, as a run takes them."""

    start_date: date
    end_date: date
    looked_at: Annotated[
        datetime, Meta(description="When the source was last looked at, of the oldest unit.")
    ]


class SourceView(View, frozen=True, kw_only=True):
    """The days of one pipeline with one credential. `counts` has how many there are in each state."""

    pipeline: str
    pipeline_id: str
    provider: str
    credential_id: str
    in_use: Annotated[
        bool, Meta(description="False: the credential was taken out of use; nothing is expected.")
    ]
    tables: tuple[str, ...]
    unit: Unit
    expected_after_days: int
    final_after_days: int
    first_day: date | None
    counts: dict[State, int]
    final: Annotated[int, Meta(description="How many of the loaded and empty days are final.")]
    days: tuple[DaysView, ...]
    gaps: tuple[GapView, ...]
    due: tuple[DueView, ...]


class CoverageView(View, frozen=True, kw_only=True):
    """A page of sources, by pipeline_id and credential_id. `next` is the cursor, null at the end."""

    org: str
    start_date: date
    end_date: date
    at: datetime
    sources: tuple[SourceView, ...]
    next: str | None


class Asked(NamedTuple):
    """Which sources, and which days of them. A provisional unit is due when its look is `older_than`."""

    dates: Dates
    older_than: timedelta
    pipeline_id: str | None = None
    provider: str | None = None
    credential_id: str | None = None


class _Key(NamedTuple):
    """A source, in the order of pages."""

    pipeline_id: str
    credential_id: str


class _Read(NamedTuple):
    """What `_loads` holds, by source; of `end` and what comes behind it nothing was read."""

    held: dict[_Key, dict[tuple[str, date], Held]]
    end: _Key | None = None


def coverage(app: App, org: str, asked: Asked, limit: int, cursor: str | None) -> CoverageView:
    """A page of the organization's sources. Raises Invalid, Unavailable."""
    after = None if cursor is None else _place(cursor)
    pipelines = _pipelines(app, asked)
    credentials = {(info.provider, info.credential_id): info for info in app.vault.find(org)}
    read = _read(app, org, asked, pipelines, limit, after) if pipelines else _Read({})
    keys = sorted(
        key
        for key in {*read.held, *_expected(app, asked, pipelines, credentials)}
        if (after is None or key > after) and (read.end is None or key < read.end)
    )
    now = app.now()
    sources = []
    for key in keys[:limit]:
        pipeline = pipelines[key.pipeline_id]
        info = credentials.get((pipeline.provider, key.credential_id))
        in_use = info is not None or not pipeline.needs_credential(app.processors)
        held = read.held.get(key, {})
        source = _source(_rule(pipeline), held, info, in_use=in_use)
        sources.append(_view(pipeline, key.credential_id, source, asked, now))
    more = len(keys) > limit or read.end is not None
    return CoverageView(
        org=org,
        start_date=asked.dates.start,
        end_date=asked.dates.end,
        at=now,
        sources=tuple(sources),
        next="/".join(keys[:limit][-1]) if more else None,
    )


def _pipelines(app: App, asked: Asked) -> dict[str, Pipeline]:
    """The pipelines asked for, by id. Raises Invalid for one whose days nobody counts."""
    catalog = app.catalog()
    known = {
        pipeline.pipeline_id: pipeline
        for pipeline in map(catalog.get, catalog.addresses())
        if pipeline.coverage is not None
    }
    wanted = asked.pipeline_id
    if wanted is not None and wanted not in known:
        message = (
            f"{clipped(wanted)} is no pipeline whose days are counted{did_you_mean(wanted, known)}; "
            f"known: {listed(known) or 'none'}"
        )
        raise Invalid("the query is not valid", [Fault("pipeline_id", message)])
    return {
        pipeline_id: pipeline
        for pipeline_id, pipeline in known.items()
        if wanted in (None, pipeline_id) and asked.provider in (None, pipeline.provider)
    }


def _expected(
    app: App,
    asked: Asked,
    pipelines: Mapping[str, Pipeline],
    credentials: Mapping[tuple[str, str], CredentialInfo],
) -> set[_Key]:
    """The sources that can be loaded, whether or not they ever were.

    Who has a provider's credential wants its costs. What needs no credential may be of no use to an
    organization that has never run it, and is expected when it was loaded, or is asked for by name.
    """
    found = set()
    for pipeline_id, pipeline in pipelines.items():
        if pipeline.needs_credential(app.processors):
            found |= {
                _Key(pipeline_id, credential_id)
                for provider, credential_id in credentials
                if provider == pipeline.provider
            }
        elif asked.pipeline_id == pipeline_id:
            found.add(_Key(pipeline_id, NO_CREDENTIAL))
    return {key for key in found if asked.credential_id in (None, key.credential_id)}


def _read(
    app: App,
    org: str,
    asked: Asked,
    pipelines: Mapping[str, Pipeline],
    limit: int,
    after: _Key | None,
) -> _Read:
    """As many markers as `limit` sources can have, but no more than are good for a page's memory.

    They are always more than those of one source, so that a page gets on.
    """
    rules = [_rule(pipeline) for pipeline in pipelines.values()]
    tables = tuple(sorted({table for rule in rules for table in rule.tables}))
    first = min(rule.unit.first(asked.dates.start) for rule in rules)
    dates = (asked.dates.end - first).days + 1
    usual = dates * max(len(rule.tables) for rule in rules) * limit
    most = max(min(usual, _MOST_ROWS), dates * len(tables)) + 1
    where = LoadsOf(
        tables=tables,
        pipelines=tuple(pipelines),
        credential_id=asked.credential_id,
        first=first,
        last=asked.dates.end,
        after=after,
    )
    try:
        rows = app.warehouse().loads(dataset_of(org, app.environment), where, most)
    except Transient as exc:
        raise Unavailable(f"the warehouse cannot be asked what is loaded: {exc}") from exc
    held: dict[_Key, dict[tuple[str, date], Held]] = {}
    for row in rows:
        of_source = held.setdefault(_Key(row.slice.pipeline_id, row.slice.credential_id), {})
        of_source[row.table, row.slice.run_date] = _held(row)
    if len(rows) < most:
        return _Read(held)
    end = max(held)
    del held[end]
    return _Read(held, end)


def _held(row: LoadedSlice) -> Held:
    # what was rejected stands in the source, too: such a slice is not empty
    return Held(row.rows + row.rejected, row.source_at, row.run_created_at, row.committed_at)


def _source(
    rule: Coverage,
    held: Mapping[tuple[str, date], Held],
    info: CredentialInfo | None,
    *,
    in_use: bool,
) -> Source:
    of_credential = None if info is None else _day(info.metadata.get(FIRST_DAY))
    return Source(rule=rule, held=held, first_day=of_credential or rule.first_day, in_use=in_use)


def _day(value: Json) -> date | None:
    """The vault refuses what is no day; what it took before it did says nothing."""
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        return None


def _view(
    pipeline: Pipeline, credential_id: str, source: Source, asked: Asked, now: datetime
) -> SourceView:
    known = source.days(asked.dates, now)
    told = spans(known)
    states = Counter(day.state for day in known.values())
    return SourceView(
        pipeline=pipeline.address,
        pipeline_id=pipeline.pipeline_id,
        provider=pipeline.provider,
        credential_id=credential_id,
        in_use=source.in_use,
        tables=source.rule.tables,
        unit=source.rule.unit,
        expected_after_days=source.rule.expected_after_days,
        final_after_days=source.rule.final_after_days,
        first_day=source.first_day,
        counts={state: states[state] for state in State},
        final=sum(day.final for day in known.values()),
        days=tuple(_days_view(span) for span in told),
        gaps=tuple(GapView(start_date=gap.start, end_date=gap.end) for gap in gaps(told)),
        due=tuple(_due_view(due) for due in source.due(asked.dates, now, asked.older_than)),
    )


def _days_view(span: Span) -> DaysView:
    return DaysView(
        start_date=span.start,
        end_date=span.end,
        state=span.day.state,
        final=span.day.final,
        lacking=span.day.lacking,
    )


def _due_view(due: Due) -> DueView:
    return DueView(start_date=due.start, end_date=due.end, looked_at=due.looked_at)


def _rule(pipeline: Pipeline) -> Coverage:
    if pipeline.coverage is None:
        raise AssertionError("only pipelines with a coverage are looked at")
    return pipeline.coverage


def _place(cursor: str) -> _Key:
    pipeline_id, slash, credential_id = cursor.partition("/")
    if not slash:
        message = "is none of ours; take it from `next` of the page before"
        raise Invalid("the query is not valid", [Fault("cursor", message)])
    return _Key(pipeline_id, credential_id)
