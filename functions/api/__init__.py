"""The HTTPS API of organizations and operators: see `routes` for what there is."""

from __future__ import annotations

import re

import functions_framework
from flask import Request, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from functions.api.http import Call, authenticate, authorize, rate_headers, within
from functions.api.problems import problem
from functions.api.route import Route
from functions.api.routes import PREFIX, ROUTES, urls
from shared.bootstrap import engine, new_id
from shared.errors import NotFound, PipelinesError, RequestError, WrongMethod
from shared.log import Log, fault_of

_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,64}")


@functions_framework.http
def api(request: Request) -> Response:
    """Answers one request; whatever goes wrong, as problem details with a `request_id`."""
    request_id = _request_id(request)
    log = Log()
    rate: dict[str, str] = {}
    try:
        made = engine(request.environ)
        log = made.app.log
        route, values = _match(request)
        key = None
        if route.scope is not None:
            key = authenticate(request, made)
            standing = made.requests.take(key.key_id)
            rate |= rate_headers(made.requests, standing)
            within(made.requests, standing)
            org = None if route.platform else values.get("org")
            authorize(key, route.scope, org)
        response = route.call(Call(request, made, request_id, key), values)
        if request.method not in ("GET", "HEAD"):
            made.app.runs.sync()  # what the answer tells must survive
    except RequestError as error:
        response = problem(error, request_id)
    except PipelinesError as error:
        log.error("api.failed", request_id=request_id, error=str(error))
        response = problem(error, request_id)
    except Exception as error:  # noqa: BLE001  # where it was leaves by the log, never by the answer
        log.error("api.fault", request_id=request_id, **fault_of(error))
        response = problem(error, request_id)
    response.headers.update(rate)
    response.headers["X-Request-Id"] = request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def _request_id(request: Request) -> str:
    """The caller's own id if it is harmless, so that its logs and ours meet; else a new one."""
    given = request.headers.get("X-Request-Id", "")
    return given if _HARMLESS.fullmatch(given) else new_id()


def _match(request: Request) -> tuple[Route, dict[str, str]]:
    path = request.path
    if "\0" in path:  # nothing has such a name: PostgreSQL could not even be asked for it
        raise NotFound("there is nothing at a path with a NUL in it", code="path_not_found")
    if path != PREFIX and not path.startswith(PREFIX + "/"):
        path = PREFIX + path
    adapter = urls().bind_to_environ(request.environ)
    try:
        name, values = adapter.match(path, method=request.method)
    except MethodNotAllowed as error:
        allowed = sorted(set(error.valid_methods or ()) - {"HEAD"})
        raise WrongMethod(f"{request.path} takes {', '.join(allowed)}", allowed) from error
    except HTTPException as error:
        raise NotFound(
            f"there is nothing at {request.path}",
            code="path_not_found",
        ) from error
    return ROUTES[name], dict(values)
