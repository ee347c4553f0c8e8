"""What is told when something went wrong: problem details as RFC 9457 has them, with a stable `error`."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import ceil
from typing import Annotated

from flask import Response
from msgspec import Meta

from functions.api.http import answer
from shared.core.record import Document
from shared.errors import (
    ConfigError,
    Conflict,
    Invalid,
    QuotaExceeded,
    RequestError,
    TooMany,
    Unauthenticated,
    Unavailable,
    WrongMethod,
)

RETRY_SECONDS = 5  # after a store could not be reached


class FaultView(Document, frozen=True, kw_only=True):
    """One thing that is wrong with what was sent: where, and what."""

    field: str
    message: str


class Problem(Document, frozen=True, kw_only=True):
    """Problem details. `error` is stable, for programs; `detail` is for people, and may change."""

    type: str
    title: str
    status: int
    error: Annotated[str, Meta(description="One of the codes of docs/errors.md.")]
    detail: str
    request_id: Annotated[str, Meta(description="Quote it when you report the problem.")]
    faults: tuple[FaultView, ...] = ()


class QuotaProblem(Problem, frozen=True, kw_only=True):
    """A limit of the plan is reached. `reset_at` is null when it is the end of a run that helps.

    Then Retry-After is when it is worth asking again, and no promise: nobody knows when a run ends.
    """

    limit_type: str
    limit: int
    used: int
    reset_at: datetime | None


def problem(error: Exception, request_id: str) -> Response:
    """The problem details of an error; of an unforeseen one nothing but its request id."""
    status, code, detail = _said(error)
    told = Problem(
        type="about:blank",
        title=code.replace("_", " "),
        status=status,
        error=code,
        detail=detail,
        request_id=request_id,
        faults=_faults(error),
    )
    if isinstance(error, QuotaExceeded):
        told = QuotaProblem(
            **{name: getattr(told, name) for name in told.__struct_fields__},
            limit_type=error.limit_type,
            limit=error.limit,
            used=error.used,
            reset_at=error.reset_at,
        )
    response = answer(told, told.status, _headers(error))
    response.mimetype = "application/problem+json"
    return response


def _said(error: Exception) -> tuple[int, str, str]:
    """The status, the code, and what a stranger may hear."""
    match error:
        case RequestError():
            return error.status, error.code, error.detail
        case Unavailable():
            return 503, "unavailable", "a store of the engine cannot be reached; try again"
        case ConfigError():
            detail = "this release's configuration is faulty; its operator can see why"
            return 500, "configuration_fault", detail
    return 500, "internal", "a fault of the engine; quote the request_id when you report it"


def _faults(error: Exception) -> tuple[FaultView, ...]:
    if not isinstance(error, Invalid | Conflict):
        return ()
    return tuple(FaultView(field=fault.where, message=fault.message) for fault in error.faults)


def _headers(error: Exception) -> dict[str, str]:
    match error:
        case WrongMethod():
            return {"Allow": ", ".join(error.allowed)}
        case Unauthenticated():
            return {"WWW-Authenticate": 'ApiKey header="X-API-Key"'}
        case QuotaExceeded() | TooMany():
            return {"Retry-After": whole_seconds(error.retry_after)}
        case Unavailable():
            return {"Retry-After": str(RETRY_SECONDS)}
    return {}


def whole_seconds(wait: timedelta) -> str:
    """The wait as Retry-After says it: never shorter, and at least a second."""
    return str(max(1, ceil(wait.total_seconds())))
