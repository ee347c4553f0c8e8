"""Group commit over one SQLite file: many threads write, one transaction carries them to the disk.

Writes take effect in the order in which they were made, and become durable in that order. So a write
that follows another may be trusted once *it* is durable, and a caller waits (`wait=True`) only where
the fact is about to leave the process: a claim before its step runs, a run before its 202. The rest
(`wait=False`) is committed with the next waited write, or within `FLUSH_SECONDS`. A process killed in
between loses a tail of the order, never a middle.

Measured: one FULL commit costs 0.45 ms of waiting on a laptop's disk, a statement 0.015 ms.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

from shared.errors import Unavailable

T = TypeVar("T")
Values: TypeAlias = Sequence[Any] | Mapping[str, Any]

FLUSH_SECONDS = 0.002
BUSY_SECONDS = 10.0


class Journal:
    """One writer connection, shared by all threads of the process. Closed once, by its owner."""

    def __init__(self, path: Path | str, schema: str = "") -> None:
        """Opens or creates `path` and runs `schema`, which must be idempotent (IF NOT EXISTS).

        Raises Unavailable when the file cannot be opened or is locked by another process.
        """
        self._mutex = threading.Lock()
        self._commit = threading.Lock()
        self._dirty = threading.Event()
        self._applied = 0  # writes executed so far
        self._durable = 0  # writes committed so far
        self._open = False  # inside a transaction?
        self._failure: BaseException | None = None
        self._closed = False
        self.path = str(path)
        try:
            self._db = sqlite3.connect(
                self.path,
                isolation_level=None,
                check_same_thread=False,
                timeout=BUSY_SECONDS,
                cached_statements=512,
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            if schema:
                self._db.executescript(schema)
        except sqlite3.Error as error:
            raise Unavailable(f"{self.path}: cannot open the state file: {error}") from error
        self._flusher = threading.Thread(target=self._flush, name="journal-flush", daemon=True)
        self._flusher.start()

    def extend(self, schema: str) -> None:
        """Adds another owner's tables to the file. Idempotent."""
        with self._mutex:
            self._check()
            self._end()
            try:
                self._db.executescript(schema)
            except sqlite3.DatabaseError as error:
                raise Unavailable(f"{self.path}: cannot add tables: {error}") from error

    def write(self, operation: Callable[[sqlite3.Connection], T], *, wait: bool = True) -> T:
        """Runs `operation` in the current transaction and returns what it returns.

        An exception undoes this operation alone and is raised to the caller. With `wait` the call
        returns when the write, and every one before it, is on the disk.
        """

        def undone_alone(db: sqlite3.Connection) -> T:
            db.execute("SAVEPOINT op")
            try:
                return operation(db)
            except BaseException:
                db.execute("ROLLBACK TO op")
                raise
            finally:
                db.execute("RELEASE op")

        return self._apply(undone_alone, wait)

    def execute(self, sql: str, values: Values, *, wait: bool = True) -> sqlite3.Cursor:
        """`write` for a single statement, which SQLite itself undoes when it fails: half the cost."""
        return self._apply(lambda db: db.execute(sql, values), wait)

    def _apply(self, operation: Callable[[sqlite3.Connection], T], wait: bool) -> T:
        with self._mutex:
            self._check()
            try:
                if not self._open:
                    self._db.execute("BEGIN IMMEDIATE")
                    self._open = True
                result = operation(self._db)
            except sqlite3.IntegrityError:
                raise
            except sqlite3.DatabaseError as error:
                if self._open and not self._db.in_transaction:
                    self._fail(error)  # SQLite gave up the whole transaction, others' writes too
                raise Unavailable(f"{self.path}: {error}") from error
            self._applied += 1
            ticket = self._applied
        if wait:
            self._wait(ticket)
        elif not self._dirty.is_set():
            self._dirty.set()
        return result

    def read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `operation` on what this process has written so far, durable or not."""
        with self._mutex:
            self._check()
            try:
                return operation(self._db)
            except sqlite3.DatabaseError as error:
                raise Unavailable(f"{self.path}: {error}") from error

    def sync(self) -> None:
        """Returns when every write made so far is on the disk."""
        with self._mutex:
            ticket = self._applied
        self._wait(ticket)

    def close(self) -> None:
        """Commits what is left and closes the file. Twice is once."""
        with self._mutex:
            if self._closed:
                return
            if self._failure is None:
                self._end()
            self._closed = True
            self._db.close()
        self._dirty.set()
        self._flusher.join()

    def _wait(self, ticket: int) -> None:
        # One thread commits for all that applied before it; the others find their ticket durable.
        while self._durable < ticket:
            with self._commit:
                if self._durable >= ticket:
                    return
                with self._mutex:
                    self._check()
                    self._end()

    def _end(self) -> None:
        if not self._open:
            return
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._fail(error)
        self._open = False
        self._durable = self._applied

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        # What other threads have seen may be gone: nothing may be built on it any more.
        self._failure = error
        raise Unavailable(
            f"{self.path}: a commit failed ({error}); free disk space and restart the process"
        ) from error

    def _check(self) -> None:
        if self._closed:
            raise Unavailable(f"{self.path}: the state file is closed")
        if self._failure is not None:
            raise Unavailable(
                f"{self.path}: an earlier commit failed ({self._failure}); restart the process"
            )

    def _flush(self) -> None:
        while not self._closed:
            self._dirty.wait()
            time.sleep(FLUSH_SECONDS)
            self._dirty.clear()
            try:
                self.sync()
            except Unavailable:
                return  # closed, or broken: then every later call of the owner raises it
