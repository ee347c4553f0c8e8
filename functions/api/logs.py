"""The lines of a run: a page, the next ones as they come, or all of them as a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from enum import StrEnum
from itertools import chain, islice
from typing import Annotated

import msgspec
from flask import Response
from msgspec import Meta

from functions.api.http import MAX_PAGE, Call, answer
from shared.core.record import Record
from shared.engine import logs as lines_of
from shared.engine.logs import LineFilter, LineView
from shared.errors import TooMany
from shared.log import Level

_COLUMNS = ("time", "severity", "step_id", "attempt", "message", "fields")
# A spreadsheet takes what begins so for a formula, which may run a program or send data away.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class Severity(StrEnum):
    """How loud a line is."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class Format(StrEnum):
    """What the lines are written as."""

    JSON = "json"
    CSV = "csv"
    NDJSON = "ndjson"


_StepId = Annotated[str, Meta(description="Of this step only.")]
_Level = Annotated[Severity, Meta(description="Of this level and above.")]


class LogsQuery(Record, frozen=True, kw_only=True):
    """Which lines, and from where on."""

    step_id: _StepId | None = None
    level: _Level = Severity.DEBUG
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE, description="The most lines of a page.")] = 100
    cursor: Annotated[str, Meta(description="`next` of the page before.")] | None = None
    follow: Annotated[
        bool,
        Meta(description="True: while a run at work has no more lines, wait up to 20 s for some."),
    ] = False


class DownloadQuery(Record, frozen=True, kw_only=True):
    """Which lines, and as what."""

    format: Format = Format.JSON
    step_id: _StepId | None = None
    level: _Level = Severity.DEBUG


def logs(call: Call, org: str, run_id: str, query: LogsQuery) -> Response:
    """The lines that the run's steps wrote, in the order in which they were stored.

    A step's lines are stored with each renewal of its lease and with its end. Go on with `next` until
    it is null: then the run has ended, and this was all. A page may be empty before.
    """
    asked = (call.engine.app, org, run_id, _filter(query), query.limit, query.cursor)
    if not query.follow:
        return answer(lines_of.page(*asked))
    with call.engine.followers.one() as place:
        if not place:
            raise TooMany(
                f"{call.engine.app.followers} requests wait for lines at this process already",
                retry_after=timedelta(seconds=lines_of.FOLLOW_SECONDS),
                code="too_many_followers",
            )
        return answer(lines_of.follow(*asked))


def download_logs(call: Call, org: str, run_id: str, query: DownloadQuery) -> Response:
    """The lines that there are now as a file: a JSON array, CSV, or a JSON object a line.

    In CSV, a cell that a spreadsheet would take for a formula begins with an apostrophe.
    """
    lines = lines_of.every_line(call.engine.app, org, run_id, _filter(query))
    # What can fail now must, as long as it can still be said in the status.
    lines = chain(list(islice(lines, 1)), lines)
    write, mimetype = _WRITERS[query.format]
    response = Response(write(lines), mimetype=mimetype)
    response.headers.set(
        "Content-Disposition", "attachment", filename=f"{run_id}-logs.{query.format}"
    )
    return response


def _filter(query: LogsQuery | DownloadQuery) -> LineFilter:
    return LineFilter(Level[query.level], query.step_id)


def _json(lines: Iterator[LineView]) -> Iterator[bytes]:
    before = b"["
    for line in lines:
        yield before + b"\n" + msgspec.json.encode(line)
        before = b","
    yield b"\n]\n" if before == b"," else b"[]\n"


def _ndjson(lines: Iterator[LineView]) -> Iterator[bytes]:
    for line in lines:
        yield msgspec.json.encode(line) + b"\n"


def _csv(lines: Iterator[LineView]) -> Iterator[bytes]:
    yield _row(_COLUMNS)
    for line in lines:
        fields = msgspec.json.encode(line.fields).decode() if line.fields else ""
        place = (line.time.isoformat(), line.severity, line.step_id, str(line.attempt))
        yield _row((*place, line.message, fields))


def _row(cells: tuple[str, ...]) -> bytes:
    made = io.StringIO()
    csv.writer(made).writerow(f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells)
    return made.getvalue().encode()


_WRITERS: dict[Format, tuple[Callable[[Iterator[LineView]], Iterator[bytes]], str]] = {
    Format.JSON: (_json, "application/json"),
    Format.CSV: (_csv, "text/csv"),
    Format.NDJSON: (_ndjson, "application/x-ndjson"),
}
