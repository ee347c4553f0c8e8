"""How fast one caller may be in this process, and how many may wait in it.

Token buckets, as many as fit into bounded memory. Each process counts for itself. What an organization may use altogether is its quota, which accounts keep.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

WINDOW = timedelta(seconds=60)
MAX_CALLERS = 10_000  # some 2 MB; beyond it those that were not heard of for longest begin anew


class Standing(NamedTuple):
    """`left` may come at once, and in `full_in` as many as ever. `wait`: not before that, if not none."""

    left: int
    full_in: timedelta
    wait: timedelta


class Limit:
    """So many a minute for each caller, and all of them at once where it was quiet for a minute."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._per_second = per_minute / WINDOW.total_seconds()
        self._monotonic = monotonic
        self._guard = threading.Lock()
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> Standing:
        """Counts one more, unless none is left: then `wait` says when there is one again."""
        return self._look(caller, 1)

    def look(self, caller: str) -> Standing:
        """Counts nothing."""
        return self._look(caller, 0)

    def _look(self, caller: str, more: int) -> Standing:
        now = self._monotonic()
        with self._guard:
            spent, at = self._spent.get(caller, (0.0, now))
            spent = max(0.0, spent - (now - at) * self._per_second)
            wait = max(0.0, spent + 1 - self.per_minute) / self._per_second
            if more and not wait:
                spent += more
                self._spent[caller] = spent, now
                self._spent.move_to_end(caller)
                if len(self._spent) > MAX_CALLERS:
                    self._spent.popitem(last=False)
        return Standing(
            left=int(self.per_minute - spent),
            full_in=timedelta(seconds=spent / self._per_second),
            wait=timedelta(seconds=wait),
        )


class Places:
    """So many may wait at once: whoever waits keeps a thread from everybody else's requests."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)

    @contextmanager
    def one(self) -> Iterator[bool]:
        """A place as long as the `with`; False when none is free."""
        taken = self._free.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self._free.release()
