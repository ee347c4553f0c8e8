"""One connection to DuckDB at work for somebody: it can be stopped, and its errors are ours.

duckdb is imported at the first use.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shared.errors import Stopped, Terminal, Transient

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Row = tuple[Any, ...]

# All but the last part of an absolute path; in quotes it may have spaces.
_FOLDERS = re.compile(
    r"(?P<before>(?P<quote>[\"'])|(?<![^\s(=:,]))/(?:(?(quote)[^/\"'\n]|[^/\s\"'])+/)+"
)

OUT_OF_MEMORY = "out_of_memory"


class Session:
    """A cursor and the flag that stops it. Statements run in the thread that opened it."""

    def __init__(self, cursor: DuckDBPyConnection, check: Callable[[], None]) -> None:
        self._cursor = cursor
        self._check = check
        self._stop = threading.Event()
        self._ended = threading.Event()

    def check(self) -> None:
        """Raises Stopped when the work was taken away, or what the caller's own check raises."""
        if self._stop.is_set():
            raise Stopped("the load was interrupted")
        self._check()

    def run(self, sql: str, params: Mapping[str, object] | None = None) -> list[Row]:
        """Executes one statement and fetches all of its answer."""
        return self.open(sql, params).fetchall()

    def open(self, sql: str, params: Mapping[str, object] | None = None) -> DuckDBPyConnection:
        """Executes one statement; its answer is fetched from what is returned."""
        import duckdb  # noqa: PLC0415 -- loaded already: a cursor is here

        if self._stop.is_set():
            raise Stopped("the load was interrupted")
        try:
            return self._cursor.execute(sql, dict(params) if params else None)
        except duckdb.InterruptException as exc:
            raise Stopped("the load was interrupted") from exc

    def first(self, sql: str, params: Mapping[str, object] | None = None) -> Any:
        """The first column of the first row."""
        return self.run(sql, params)[0][0]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commits at the end, or changes nothing."""
        self.run("BEGIN TRANSACTION")
        try:
            yield
            self.check()
            self._ended.set()  # from here on nobody stops it
            self._cursor.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def _rollback(self) -> None:
        import duckdb  # noqa: PLC0415 -- loaded already: a cursor is here

        try:
            self._cursor.execute("ROLLBACK")
        except duckdb.Error:
            return  # a failed COMMIT has ended the transaction

    def interrupt(self) -> None:
        """Stops the statement that runs, or the next one. Returns when the work has ended, or soon."""
        self._stop.set()
        # An interrupt between two statements is forgotten by the database, so it is said again.
        for _ in range(10):
            if self._ended.is_set():
                return
            self._cursor.interrupt()
            self._ended.wait(0.02)

    def end(self) -> None:
        self._ended.set()
        self._cursor.close()


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns DuckDB's errors into ours: would waiting help?"""
    import duckdb  # noqa: PLC0415 -- loaded already: somebody is about to use it

    try:
        yield
    except duckdb.InterruptException as exc:
        raise Stopped(f"{what}: interrupted") from exc
    except duckdb.OutOfMemoryException as exc:
        raise Terminal(
            f"{what}: does not fit into the warehouse's memory_limit; raise it, or have the source "
            f"deliver smaller files ({told(exc)})",
            code=OUT_OF_MEMORY,
        ) from exc
    except (duckdb.TransactionException, duckdb.IOException) as exc:
        raise Transient(f"{what}: {told(exc)}", code="warehouse") from exc
    except (duckdb.FatalException, duckdb.InternalException, duckdb.ConnectionException) as exc:
        raise Transient(f"{what}: {told(exc)}", code="warehouse") from exc
    except duckdb.Error as exc:
        raise Terminal(f"{what}: {told(exc)}", code="warehouse") from exc


def told(exc: Exception, path: str = "", name: str = "") -> str:
    """What DuckDB says, in one line: `path` by its `name`, and no folder of this machine.

    It is stored with the step, for the organization to read.
    """
    line = str(exc).split("\n", 1)[0]
    if path:
        line = line.replace(path, name)
    return _FOLDERS.sub(r"\g<before>", line)[:500]


def stored(value: object) -> object:
    """A value as a parameter: times are stored as UTC without a zone."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError("a time without a zone is not a time")
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


def aware(value: object) -> Any:
    """A value as it was stored, times in UTC."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
