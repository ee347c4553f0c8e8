"""The tick: hints for what is due, and an orderly quota. Called every minute, or more often."""

from __future__ import annotations

import functions_framework
from flask import Request, Response

from shared.bootstrap import engine
from shared.engine.tick import tick
from shared.errors import Unavailable


@functions_framework.http
def scheduler(request: Request) -> Response:
    """Answers 200 with the counts of what it did, or 503."""
    try:
        done = tick(engine(request.environ).app)
    except Unavailable as error:
        return Response(str(error), status=503, mimetype="text/plain")
    return Response(
        f"hints={done.hints} expired={done.expired} orphans={done.orphans} purged={done.purged}\n",
        mimetype="text/plain",
    )
