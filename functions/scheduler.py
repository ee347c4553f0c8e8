"""The tick: hints for what is due, and an orderly quota. Called every minute, or more often."""

from __future__ import annotations

import functions_framework
from flask import Request, Response

from functions._push import admit
from shared.bootstrap import engine
from shared.errors import RequestError, Unavailable


@functions_framework.http
def scheduler(request: Request) -> Response:
    """Answers 200 with the counts of what it did, 503, or 401 and 403 to who may not ask."""
    try:
        made = engine(request.environ)
        admit(request, made)
        done = made.tick()
    except RequestError as error:
        return Response(str(error), status=error.status, mimetype="text/plain")
    except Unavailable as error:
        return Response(str(error), status=503, mimetype="text/plain")
    return Response(
        f"starts={done.starts} hints={done.hints} expired={done.expired} orphans={done.orphans} purged={done.purged}\n",
        mimetype="text/plain",
    )
