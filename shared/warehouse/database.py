"""One DuckDB of this process, opened at its first use: every thread has a cursor of its own.

All cursors share one memory limit, so large statements take turns, and one that does not fit gets it on a
single thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from shared.errors import Terminal, Transient
from shared.warehouse import Batches, Load
from shared.warehouse.leases import waited
from shared.warehouse.session import OUT_OF_MEMORY, Session, translated

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

T = TypeVar("T")


class Database:
    """The DuckDB in the file `path`, or in memory; what does not fit goes to the folder `overflow`.

    `reopened` is called when a fatal error has closed it, and the next cursor opens it again.
    """

    def __init__(
        self,
        path: Path | None,
        overflow: Path,
        memory_limit: str,
        threads: int,
        reopened: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._overflow = overflow
        self._memory_limit = memory_limit
        self._threads = threads
        self._reopened = reopened
        self._guard = threading.Lock()
        self._root: DuckDBPyConnection | None = None
        self._closed = False
        self._narrow = 0  # loads that need the memory of the other threads
        self._large = threading.Lock()

    @contextmanager
    def session(self, check: Callable[[], None], what: str) -> Iterator[Session]:
        """A cursor at work; its errors are ours, and say `what` it was about."""
        import duckdb  # noqa: PLC0415 -- see _connected

        with translated(what):
            session = Session(self._connected(), check)
            try:
                yield session
            except duckdb.FatalException:
                self._forget()
                raise
            finally:
                session.end()

    @contextmanager
    def turn(self, check: Callable[[], None]) -> Iterator[None]:
        """Holds back the other large statements."""
        with waited(self._large, check):
            yield

    def roomy(self, load: Load, run: Callable[[Load], T]) -> T:
        """Runs the load; again, on one thread, when memory was too small and it can be read again."""
        try:
            return run(load)
        except Terminal as exc:
            if exc.code != OUT_OF_MEMORY or isinstance(load.source, Batches) or self._threads == 1:
                raise
        # Each thread holds a row group of the source and one of the table: fewer threads need less.
        with self._one_thread():
            return run(load)

    def close(self) -> None:
        """Nobody opens it again. Twice is once."""
        with self._guard:
            self._closed = True
            root, self._root = self._root, None
        if root is not None:
            root.close()

    def _connected(self) -> DuckDBPyConnection:
        import duckdb  # noqa: PLC0415 -- 0.15 s, paid by the first who uses the warehouse

        with self._guard:
            if self._closed:
                raise Transient("the warehouse is closed", code="warehouse")
            if self._root is None:
                if self._path is not None:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                self._root = duckdb.connect(
                    ":memory:" if self._path is None else str(self._path),
                    config={
                        "memory_limit": self._memory_limit,
                        "threads": str(self._threads),
                        "temp_directory": str(self._overflow),
                        "preserve_insertion_order": "false",
                        # What a load must hold at least: measured, these four take 100 MB off a
                        # million rows of 57 columns, at no cost in time.
                        "write_buffer_row_group_count": "1",
                        "read_ahead_depth": "0",
                        "enable_external_file_cache": "false",
                        "autoinstall_known_extensions": "false",
                        "autoload_known_extensions": "false",
                    },
                )
                self._root.execute("SET GLOBAL TimeZone = 'UTC'")
                self._root.execute("SET GLOBAL disable_parquet_prefetching = true")  # see above
            return self._root.cursor()

    def _forget(self) -> None:
        """After a fatal error DuckDB answers nothing more."""
        with self._guard:
            root, self._root = self._root, None
        self._reopened()
        if root is not None:
            root.close()

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        self._narrowed(1)
        try:
            yield
        finally:
            self._narrowed(-1)

    def _narrowed(self, by: int) -> None:
        with self.session(lambda: None, "threads") as session, self._guard:
            self._narrow += by
            session.run(f"SET GLOBAL threads = {1 if self._narrow else self._threads}")
