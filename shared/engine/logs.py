"""The lines that a run's steps wrote, in the order in which they were stored, a bounded part at a time.

A step's lines are stored while it runs, with each renewal of its lease, and with its end. A cursor says
how far its reader has come; it is good for one run, with any filter, and never shows a line twice.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from shared.app import App
from shared.core.record import Json
from shared.engine.query import View, find_run
from shared.errors import Fault, Invalid
from shared.log import Level
from shared.state import LogChunk, PlacedChunk

FOLLOW_SECONDS = 20.0
_LOOK_SECONDS = 0.5  # between two looks of a follower
_CHUNKS = 4  # of at most 256 KiB, in memory at a time
_PAGE_CHUNKS = 64  # after which a page ends, however few lines the filter has let through
_PAGE_BYTES = 1 << 20


class LineView(View, frozen=True, kw_only=True):
    """One line. `fields` is what its event has beside its name."""

    time: datetime
    severity: str
    step_id: str
    attempt: int
    message: str
    fields: dict[str, Json]


class LogView(View, frozen=True, kw_only=True):
    """A page of lines, which may be empty. `next` is null when the run has ended and this was all."""

    lines: tuple[LineView, ...]
    next: Annotated[str | None, Meta(description="The cursor to go on with.")]


class LineFilter(NamedTuple):
    """Lines of that level and above; of every step, or of one."""

    level: Level = Level.DEBUG
    step_id: str | None = None


class _Reached(NamedTuple):
    """How far a reader has come: the chunks up to `place` are read, and `lines` of the next."""

    place: str | None = None
    lines: int = 0


def page(
    app: App, org: str, run_id: str, where: LineFilter, limit: int, cursor: str | None
) -> LogView:
    """The next lines behind the cursor. Raises NotFound, and Invalid for a cursor of another run."""
    find_run(app, org, run_id)
    return _page(app, run_id, where, limit, cursor)


def follow(
    app: App, org: str, run_id: str, where: LineFilter, limit: int, cursor: str | None
) -> LogView:
    """As `page`, but while there is no such line of a run at work, it waits up to FOLLOW_SECONDS."""
    find_run(app, org, run_id)
    until = app.monotonic() + FOLLOW_SECONDS
    while True:
        found = _page(app, run_id, where, limit, cursor)
        if found.lines or found.next is None or app.monotonic() >= until:
            return found
        cursor = found.next
        app.sleep(_LOOK_SECONDS)


def every_line(app: App, org: str, run_id: str, where: LineFilter) -> Iterator[LineView]:
    """Every line that there is now, a few chunks of them in memory. Raises NotFound before the first."""
    live = not find_run(app, org, run_id).run.status.terminal
    place = None
    while chunks := _chunks(app, run_id, place, where, live=live):
        for found in chunks:
            place = found.place
            yield from (line for line in map(_line, _split(found.chunk)) if _wanted(line, where))


def _page(app: App, run_id: str, where: LineFilter, limit: int, cursor: str | None) -> LogView:
    # The status first: what is stored before a run ends is there when it has ended.
    status = app.runs.run_status(run_id)
    live = status is not None and not status.terminal
    reached = _Reached() if cursor is None else _read_cursor(run_id, cursor)
    lines: list[LineView] = []
    taken = 0
    for _ in range(_PAGE_CHUNKS // _CHUNKS):
        chunks = _chunks(app, run_id, reached.place, where, live=live)
        for place, chunk in chunks:
            texts = _split(chunk)
            for number, text in enumerate(texts[reached.lines :], reached.lines):
                if len(lines) == limit or taken > _PAGE_BYTES:
                    return LogView(lines=tuple(lines), next=_cursor(run_id, reached))
                reached = reached._replace(lines=number + 1)
                line = _line(text)
                if _wanted(line, where):
                    lines.append(line)
                    taken += len(text)
            reached = _Reached(place)
        if not chunks:
            end = _cursor(run_id, reached) if live else None
            return LogView(lines=tuple(lines), next=end)
    return LogView(lines=tuple(lines), next=_cursor(run_id, reached))


def _chunks(
    app: App, run_id: str, place: str | None, where: LineFilter, *, live: bool
) -> list[PlacedChunk]:
    return app.runs.read_log(run_id, place, where.step_id, live=live, limit=_CHUNKS)


def _split(chunk: LogChunk) -> list[bytes]:
    return chunk.lines.splitlines()


def _line(text: bytes) -> LineView:
    fields = msgspec.json.decode(text)
    return LineView(
        time=datetime.fromisoformat(fields.pop("time")),
        severity=fields.pop("severity"),
        step_id=fields.pop("step"),
        attempt=fields.pop("attempt"),
        message=fields.pop("message"),
        fields=fields,
    )


def _wanted(line: LineView, where: LineFilter) -> bool:
    return Level[line.severity] >= where.level


def _cursor(run_id: str, reached: _Reached) -> str:
    text = f"{_mark(run_id)}.{reached.lines}.{reached.place or ''}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(run_id: str, cursor: str) -> _Reached:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    mark, _, rest = text.partition(".")
    lines, dot, place = rest.partition(".")
    if mark != _mark(run_id) or not dot or not lines.isascii() or not lines.isdigit():
        raise Invalid(
            "the query is not valid",
            [Fault("cursor", "is none of this run; take it from `next` of the page before")],
        )
    return _Reached(place or None, int(lines[:9]))


def _mark(run_id: str) -> str:
    return sha256(run_id.encode()).hexdigest()[:8]
