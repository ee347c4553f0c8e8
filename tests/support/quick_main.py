"""The functions as they are deployed, but for the times of the protocol: a lease of seconds, not minutes.

functions-framework is given this file as its source. A test of what a machine's death does, or a cancel,
would wait for minutes otherwise.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import main
from shared.bootstrap import ENGINE_KEY, once
from shared.bootstrap.cloud import open_cloud
from shared.core.run import Timing
from shared.engine import Engine
from shared.settings import read_settings

TIMING = Timing(
    lease=timedelta(seconds=10),
    heartbeat=timedelta(seconds=2),
    lease_grace=timedelta(seconds=1),
    requeue=timedelta(seconds=5),
    requeue_cap=timedelta(seconds=30),
    cancel_grace=timedelta(seconds=8),
    effects_delay=timedelta(seconds=2),
    orphan_age=timedelta(seconds=10),
    quota_wait=timedelta(seconds=5),
)


def _open() -> Engine:
    settings = read_settings()
    assert settings.cloud is not None
    return open_cloud(settings, settings.cloud, timing=TIMING).engine


_engine = once(_open)


def __getattr__(name: str) -> Any:
    function = getattr(main, name)

    def quicker(request: Any) -> Any:
        request.environ[ENGINE_KEY] = _engine()
        return function(request)

    return quicker
