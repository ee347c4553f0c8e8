"""Who may commit to a table: one at a time, so that nobody waits inside the database or fails there.

A lease keeps order and nothing else. That a late writer changes nothing is the fence's to see to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

_PATIENCE = 1.0  # seconds between two looks at whether the one who waits may still wait


class TableLeases(Protocol):
    """Leases by key."""

    def hold(self, key: str, check: Callable[[], None]) -> AbstractContextManager[None]:
        """Waits until the lease is free and holds it; calls `check` now and then, which may raise."""


class ThreadLeases:
    """Leases among the threads of one process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    @contextmanager
    def hold(self, key: str, check: Callable[[], None]) -> Iterator[None]:
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with waited(lock, check):
            yield


@contextmanager
def waited(lock: threading.Lock, check: Callable[[], None]) -> Iterator[None]:
    """Holds the lock; while waiting for it, asks now and then whether to go on waiting."""
    check()
    while not lock.acquire(timeout=_PATIENCE):
        check()
    try:
        yield
    finally:
        lock.release()
