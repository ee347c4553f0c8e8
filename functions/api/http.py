"""HTTP of the API: reading a request strictly, answering JSON, and problems as RFC 9457 says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from flask import Request, Response

from shared.accounts import ApiKey, Scope
from shared.core.record import Record
from shared.core.typed import from_json
from shared.engine import Engine
from shared.errors import (
    ConfigError,
    Conflict,
    Fault,
    Forbidden,
    Invalid,
    NotFound,
    QuotaExceeded,
    RequestError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    WrongMediaType,
    WrongMethod,
)

MAX_BODY_BYTES = 1_000_000
MAX_PAGE = 200

R = TypeVar("R", bound=Record)


class Call(NamedTuple):
    """One request that may be answered."""

    request: Request
    engine: Engine

    def body(self, kind: type[R]) -> R:
        """The JSON body as `kind`. Raises Invalid with every fault by its path in the body."""
        return from_json(json_body(self.request), kind)

    def query(self, known: tuple[str, ...]) -> dict[str, str]:
        """The query's parameters. Raises Invalid for one that is not known, or given twice."""
        faults = []
        for name in self.request.args:
            if name not in known:
                faults.append(Fault(name, f"is not a parameter here (known: {', '.join(known)})"))
            elif len(self.request.args.getlist(name)) > 1:
                faults.append(Fault(name, "is given more than once"))
        if faults:
            raise Invalid("the query is not valid", faults)
        return dict(self.request.args)


def json_body(request: Request) -> Any:
    """The body as JSON; an empty body is an empty object. Raises Invalid."""
    # Not by the header alone: a chunked body has none.
    raw = b""
    if (request.content_length or 0) <= MAX_BODY_BYTES:
        raw = request.stream.read(MAX_BODY_BYTES + 1)
    if len(raw) > MAX_BODY_BYTES or (request.content_length or 0) > MAX_BODY_BYTES:
        raise TooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    if not raw.strip():
        return {}
    if request.mimetype not in ("application/json", ""):
        raise WrongMediaType(f"the body is {request.mimetype}; send application/json")
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the body is not JSON: {error}", code="invalid_json") from error


def page_size(given: Mapping[str, str], faults: list[Fault], default: int = 50) -> int:
    """The `limit` of the query; one that is none becomes a fault."""
    text = given.get("limit", str(default))
    if text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MAX_PAGE:
        return int(text)
    faults.append(Fault("limit", f"must be a whole number from 1 to {MAX_PAGE}"))
    return default


def authenticate(request: Request, engine: Engine) -> ApiKey:
    """The caller's key. Raises Unauthenticated."""
    text = request.headers.get("X-API-Key", "")
    if not text:
        raise Unauthenticated("send an API key in the header X-API-Key")
    key = engine.app.accounts.authenticate(text, engine.app.now())
    if key is None:
        raise Unauthenticated("the API key is not known, has expired or was revoked")
    return key


def authorize(key: ApiKey, scope: Scope, org: str | None) -> None:
    """Lets the key act on `org` (None: on the platform) with `scope`. Raises RequestError.

    For a key of an organization every other organization does not exist.
    """
    if key.org is not None and org is None:
        raise Forbidden("this needs a platform key")
    if key.org is not None and key.org != org:
        raise NotFound(f"there is no organization {org!r}", code="org_not_found")
    if scope not in key.scopes and Scope.ADMIN not in key.scopes:
        raise Forbidden(f"this needs a key with the scope {scope.value!r}", code="scope_missing")


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON."""
    response = Response(
        msgspec.json.encode(value) + b"\n", status=status, mimetype="application/json"
    )
    response.headers.update(headers or {})
    return response


def problem(error: Exception, request_id: str) -> Response:
    """The problem details of an error; of an unforeseen one nothing but its request id."""
    headers: dict[str, str] = {}
    details: dict[str, Any] = {"type": "about:blank"}
    match error:
        case RequestError():
            details |= {
                "title": error.code.replace("_", " "),
                "status": error.status,
                "error": error.code,
                "detail": error.detail,
            }
        case Unavailable():
            headers["Retry-After"] = "5"
            details |= {
                "title": "unavailable",
                "status": 503,
                "error": "unavailable",
                "detail": "a store of the engine cannot be reached; try again",
            }
        case ConfigError():
            details |= {
                "title": "configuration fault",
                "status": 500,
                "error": "configuration_fault",
                "detail": "this release's configuration is faulty; its operator can see why",
            }
        case _:
            details |= {
                "title": "internal fault",
                "status": 500,
                "error": "internal",
                "detail": "a fault of the engine; quote the request_id when you report it",
            }
    if isinstance(error, Invalid | Conflict) and error.faults:
        details["faults"] = [
            {"field": fault.where, "message": fault.message} for fault in error.faults
        ]
    if isinstance(error, QuotaExceeded):
        seconds = max(1, int(error.retry_after.total_seconds() + 0.999))
        headers["Retry-After"] = str(seconds)
        details |= {
            "limit_type": error.limit_type,
            "limit": error.limit,
            "used": error.used,
            "reset_at": error.reset_at,
        }
    if isinstance(error, WrongMethod):
        headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'ApiKey header="X-API-Key"'
    details["request_id"] = request_id
    response = answer(details, details["status"], headers)
    response.mimetype = "application/problem+json"
    return response
