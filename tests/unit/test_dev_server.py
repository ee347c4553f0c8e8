"""The server of `pipelines dev` stops cleanly, whatever wakes its loop meanwhile."""

from __future__ import annotations

import time
from typing import cast

import pytest

from shared.bootstrap.embedded import Embedded
from shared.cli import dev


def test_a_stop_survives_a_loop_that_was_faster_than_its_own_wake_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = dev.Server(cast("Embedded", None), "127.0.0.1", 0)  # not asked: nobody sends a request
    trigger = server._server.trigger
    pull = trigger._physical_pull

    def late() -> None:
        """Another pull runs the thunk first: a request that ends, or the one before."""
        pull()
        until = time.monotonic() + 5
        while trigger.thunks and time.monotonic() < until:
            time.sleep(0.001)
        pull()

    monkeypatch.setattr(trigger, "_physical_pull", late)

    server.close()
    server.close()

    assert not server._loop.is_alive()
