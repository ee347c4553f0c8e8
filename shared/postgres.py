"""Connections to PostgreSQL, on which every statement is a transaction of its own.

So nothing is kept in a session, and a transaction pooler may give each statement another server
connection; nothing is prepared by name. Whatever goes wrong is Unavailable. A statement may be sent
twice: when its connection was lost nobody knows whether it was committed, so it is asked once more
on a fresh one, and must be written so that twice is once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from shared.errors import ConfigError, Fault, Unavailable

T = TypeVar("T")

CONFLICTS = 3  # how often a statement is sent again that lost to another transaction
IDLE_SECONDS = (
    300.0  # a NAT forgets a silent connection (Cloud NAT after 1,200 s), and tells nobody
)

_LOST_A_RACE = (errors.SerializationFailure, errors.DeadlockDetected)
# The server or the pooler ended the connection; it may come with a reason before the end of file.
_GONE = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow)


class Connections:
    """Closed by its owner; opened by the first statement, so a function starts without a database."""

    def __init__(self, dsn: str, size: int, patience: timedelta) -> None:
        """`patience` is the longest wait for a free connection, for a new one, and for an answer.

        Raises ConfigError for a DSN that cannot be read, without repeating it and its password.
        """
        try:
            conninfo_to_dict(dsn)
        except psycopg.Error:
            raise ConfigError([Fault("accounts", "the DSN cannot be read")]) from None
        self._dsn = dsn
        self._seconds = patience.total_seconds()
        self._free = threading.BoundedSemaphore(size)
        self._mutex = threading.Lock()
        self._idle: list[_Connection] = []
        self._closed = False

    def ask(
        self, statement: str, values: Mapping[str, Any], *, again: str | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows of one statement that returns rows.

        `again` is sent in its place when it may have been committed already.
        """
        if not self._free.acquire(timeout=self._seconds):
            raise Unavailable("accounts: every connection is busy")
        try:
            try:
                return self._ask(statement, values)
            except _Lost:
                # Its siblings were lost with it, most likely: a restart, a fail-over.
                self._drop_idle()
            try:
                return self._ask(again or statement, values, fresh=True)
            except _Lost as error:
                raise Unavailable(f"accounts: {error}") from error
        finally:
            self._free.release()

    def close(self) -> None:
        self._closed = True
        self._drop_idle()

    def _ask(
        self, statement: str, values: Mapping[str, Any], *, fresh: bool = False
    ) -> list[tuple[Any, ...]]:
        connection = None if fresh else self._idle_one()
        if connection is None:
            connection = self._connect()
        try:
            for _ in range(CONFLICTS):
                with contextlib.suppress(*_LOST_A_RACE):
                    return connection.rows(statement, values)
            return connection.rows(statement, values)
        except errors._WaitTimeout as error:  # noqa: SLF001 -- what Connection.wait says it raises
            connection.close()
            raise Unavailable(f"accounts: no answer in {self._seconds:g} s") from error
        except psycopg.Error as error:
            if connection.broken or isinstance(error, _GONE):
                connection.close()
                raise _Lost(_told(error)) from error
            raise Unavailable(f"accounts: {_told(error)}") from error
        finally:
            self._give_back(connection)

    def _idle_one(self) -> _Connection | None:
        while True:
            with self._mutex:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if time.monotonic() - connection.used_at < IDLE_SECONDS:
                return connection
            connection.close()

    def _connect(self) -> _Connection:
        if self._closed:
            raise Unavailable("accounts: closed")
        try:
            connection = _Connection.connect(
                self._dsn,
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=max(2, round(self._seconds)),
                application_name="cost-pipelines",
            )
        except psycopg.Error as error:
            raise Unavailable(f"accounts: {_told(error)}") from error
        connection.seconds = self._seconds
        return connection

    def _give_back(self, connection: _Connection) -> None:
        connection.used_at = time.monotonic()
        reusable = connection.pgconn.transaction_status == TransactionStatus.IDLE
        with self._mutex:
            if reusable and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _drop_idle(self) -> None:
        with self._mutex:
            dropped, self._idle = self._idle, []
        for connection in dropped:
            connection.close()


class _Lost(Exception):
    """The connection ended before its answer came."""


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """Gives up on a server that does not answer: no timeout of the server's own can tell of that."""

    seconds: float | None = None
    used_at = 0.0

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        return super().wait(gen, interval, self.seconds if timeout is None else timeout)

    def rows(self, statement: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with self.cursor() as cursor:
            cursor.execute(statement.encode(), values)
            return cursor.fetchall()


def _told(error: psycopg.Error) -> str:
    kind = type(error).__name__
    first = str(error).strip().partition("\n")[0]
    return f"{kind} {error.sqlstate}: {first}" if error.sqlstate else f"{kind}: {first}"
