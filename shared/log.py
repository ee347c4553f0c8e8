"""Log lines are events: one JSON object (or one readable line) each.

Severity and time use the names that Cloud Logging understands. Never a secret, never a row of data.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from enum import IntEnum
from typing import TextIO


class Level(IntEnum):
    """How loud. Values compare; names are Cloud Logging's severities."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class Log:
    """Writes to one stream; lines below `level` cost one comparison."""

    def __init__(
        self, level: Level = Level.INFO, *, readable: bool = False, stream: TextIO | None = None
    ) -> None:
        self.level = level
        self._readable = readable
        self._stream = stream

    def debug(self, event: str, **fields: object) -> None:
        self._write(Level.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(Level.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(Level.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(Level.ERROR, event, fields)

    def _write(self, level: Level, event: str, fields: dict[str, object]) -> None:
        if level < self.level:
            return
        at = datetime.now(UTC)  # noqa: TID251  # the time of writing, which decides nothing
        if self._readable:
            text = " ".join(f"{name}={value}" for name, value in fields.items())
            line = f"{at:%H:%M:%S.%f} {level.name:<7} {event} {text}".rstrip()
        else:
            line = line_of(level, event, fields, at)
        stream = self._stream or sys.stderr
        stream.write(line + "\n")
        stream.flush()


def fault_of(error: BaseException) -> dict[str, object]:
    """Fields that say which fault it was, and where; not its text, which may hold somebody's values."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "an unknown place"
    if frame is not None:
        code = frame.tb_frame.f_code
        file = "/".join(code.co_filename.rsplit("/", 2)[-2:])
        where = f"{file}:{frame.tb_lineno} ({code.co_name})"
    return {"error": type(error).__name__, "where": where}


def line_of(level: Level, event: str, fields: dict[str, object], at: datetime) -> str:
    """One log line as JSON. A value that JSON does not know is written as its text."""
    place = {"severity": level.name, "time": at.isoformat(), "message": event}
    try:
        return _json({**place, **fields})
    except (TypeError, ValueError):  # a key that is no text, a number that is none
        plain = {
            name: value if isinstance(value, str | int | None) else str(value)
            for name, value in fields.items()
        }
        return _json({**place, **plain})


def _json(line: dict[str, object]) -> str:
    text = json.dumps(line, default=str, allow_nan=False, ensure_ascii=False)
    return text.encode(errors="replace").decode()  # half a character, as a file's name may have
