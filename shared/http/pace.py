"""How fast an account is asked: never more in any minute than its provider allows.

A quarter of a minute's requests may come at once, so that a few pages do not wait; what follows is
spread over the minute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from math import inf

from shared.core.providers import Rate
from shared.errors import Transient
from shared.http import Caller

_MINUTE = 60.0
_KEPT = 1_000  # accounts; of more those are forgotten that nobody waits for


class Pace:
    """The requests of one account, by the seconds of a monotonic clock. Not safe for threads."""

    def __init__(self, rate: Rate) -> None:
        at_once = max(1, rate.requests_per_minute // 4)
        # At most `at_once - 1` more than one for each interval: `requests_per_minute` in [t, t + 60).
        self._interval = _MINUTE / (rate.requests_per_minute - at_once + 1)
        self._ahead = (at_once - 1) * self._interval
        self._concurrent = rate.concurrent
        self._due = -inf  # when the next one would come if all of them were spread
        self._held = -inf
        self.running = 0

    def wait(self, now: float) -> float:
        """Seconds until one more may begin; infinite while it waits for another one to end."""
        if self.running >= self._concurrent:
            return inf
        return max(0.0, self._due - self._ahead - now, self._held - now)

    def begin(self, now: float) -> None:
        self._due = max(self._due, now) + self._interval
        self.running += 1

    def end(self) -> None:
        self.running -= 1

    def hold(self, until: float) -> None:
        """Nothing begins before: the provider said so."""
        self._held = max(self._held, until)

    def idle(self, now: float) -> bool:
        return not self.running and self._due <= now and self._held <= now


class Gate:
    """The paces of all accounts of this process."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._paces: dict[tuple[str, ...], Pace] = {}

    @contextmanager
    def turn(self, caller: Caller, where: str) -> Iterator[None]:
        """Waits for the caller's turn, which lasts as long as the `with`.

        Raises what the caller's `check` raises, as soon as it does, and Transient at once where the
        turn would come after the caller's deadline.
        """
        pace = self._begin(caller, where)
        try:
            yield
        finally:
            with self._changed:
                pace.end()
                self._changed.notify_all()

    def hold(self, caller: Caller, time: timedelta) -> None:
        """Keeps everybody of that account waiting, as its provider asked one of them to."""
        with self._changed:
            self._pace(caller).hold(self._monotonic() + time.total_seconds())

    def wake(self) -> None:
        """Has those who wait look whether they still may."""
        with self._changed:
            self._changed.notify_all()

    def _begin(self, caller: Caller, where: str) -> Pace:
        with self._changed:
            while True:
                caller.check()
                now = self._monotonic()
                pace = self._pace(caller)
                wait, left = pace.wait(now), caller.left()
                if not wait:
                    pace.begin(now)
                    return pace
                if wait == inf and left > 0:
                    self._changed.wait(left)
                elif wait <= left:
                    self._changed.wait(wait)
                else:
                    raise Transient(
                        f"{where}: the account's limit of requests is used until after the step's "
                        "deadline",
                        code="rate_limited",
                        retry_after=None if wait == inf else timedelta(seconds=wait),
                    )

    def _pace(self, caller: Caller) -> Pace:
        found = self._paces.get(caller.account)
        if found is None:
            if len(self._paces) >= _KEPT:
                now = self._monotonic()
                self._paces = {key: pace for key, pace in self._paces.items() if not pace.idle(now)}
            found = self._paces[caller.account] = Pace(caller.rate)
        return found
