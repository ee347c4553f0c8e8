"""The use cases, over ports only: what the functions call."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from shared.app import App
from shared.engine.advance import Coordinator
from shared.engine.limit import Limit, Places
from shared.engine.work import Worker

if TYPE_CHECKING:
    from shared.engine.tick import Ticked


class Engine:
    """The use cases of one process. A coordinator or a worker is made when it is first asked for."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._refreshed = False

    @cached_property
    def coordinator(self) -> Coordinator:
        return Coordinator(self.app)

    @cached_property
    def worker(self) -> Worker:
        return Worker(self.app)

    @cached_property
    def requests(self) -> Limit:
        """Of one API key."""
        return Limit(self.app.requests_per_minute, self.app.monotonic)

    @cached_property
    def failed_keys(self) -> Limit:
        """Requests from one address with a key that is none."""
        return Limit(self.app.failed_keys_per_minute, self.app.monotonic)

    @cached_property
    def followers(self) -> Places:
        """Of those who wait for the lines of a run."""
        return Places(self.app.followers)

    def tick(self) -> Ticked:
        """One tick; before the first, what this release has changed of schedules. Raises Unavailable."""
        from shared.engine.schedules import refresh  # noqa: PLC0415  # one function ticks
        from shared.engine.tick import tick  # noqa: PLC0415

        if not self._refreshed:
            refresh(self.app)
            self._refreshed = True
        return tick(self.app)

    def close(self) -> None:
        """Ends the worker's thread, if there is one."""
        if "worker" in vars(self):
            self.worker.close()
