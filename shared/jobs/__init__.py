"""The port of jobs: a process of its own for an attempt that may outlive a request.

What is started twice, or started and never seen again, is no more than that: the claim decides who runs
the attempt, and its lease for how long.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol


class Jobs(Protocol):
    """Starts jobs and waits for none of them."""

    def start(self, run_id: str, step_id: str, attempt: int, timeout: timedelta) -> None:
        """Starts a process that runs the attempt, which may take `timeout`.

        Raises Unavailable, in seconds; it may have been started all the same.
        """

    def close(self) -> None:
        """Releases what is held here; what was started goes on. Twice is once."""
