"""HTTP of the API: reading a request strictly into typed values, and answering typed values as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from math import ceil, isfinite
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from flask import Request, Response
from msgspec import Meta, Struct

from shared.accounts import ApiKey, Author, Change, Scope
from shared.core.record import Record
from shared.core.typed import from_json, from_texts
from shared.engine import Engine
from shared.engine.limit import WINDOW, Limit, Standing
from shared.errors import (
    Fault,
    Forbidden,
    Invalid,
    NotFound,
    RequestError,
    TooLarge,
    TooMany,
    Unauthenticated,
    WrongMediaType,
)

MAX_BODY_BYTES = 1_000_000
MAX_PAGE = 200

PageSize = Annotated[int, Meta(ge=1, le=MAX_PAGE, description="How many there are on a page.")]
Time = Annotated[datetime, Meta(tz=True)]
R = TypeVar("R", bound=Record)


class NoQuery(Record, frozen=True, kw_only=True):
    """No parameters."""


class Call(NamedTuple):
    """One request that may be answered. `key` is its caller's; None where the route is open to all."""

    request: Request
    engine: Engine
    request_id: str
    key: ApiKey | None

    @property
    def author(self) -> Author:
        """Who makes the change that this request asks for: a new audit entry each time."""
        if self.key is None:
            raise AssertionError("a route that changes something needs a scope")
        app = self.engine.app
        return Author(self.key.key_id, self.key.name, self.request_id, app.now(), app.new_id())

    @contextmanager
    def elsewhere(self, asked: str, org: str | None, target: str) -> Iterator[None]:
        """A change in another store than the accounts', with which the audit shares no transaction.

        That it was asked for is an entry before it, and `note` has to leave another when it is done; a
        refusal is one too. Of what was asked and neither done nor refused nobody knows: whoever did it
        died, or could not reach a store.
        """
        change = Change(org, asked, target, None, {"asked": True})
        self.note(change)
        try:
            yield
        except RequestError as error:
            self.note(change._replace(after={"refused": error.code}))
            raise

    def note(self, change: Change) -> None:
        """Leaves the entry of a change that was made in another store."""
        self.engine.app.accounts.note(self.author, change)

    def body(self, kind: type[R]) -> R:
        """The JSON body as `kind`. Raises Invalid with every fault by its path in the body."""
        return from_json(json_body(self.request), kind)

    def query(self, kind: type[R]) -> R:
        """The query's parameters as `kind`. Raises Invalid with every fault by its parameter."""
        given = self.request.args
        faults = [
            Fault(name, "is given more than once") for name in given if len(given.getlist(name)) > 1
        ]
        if faults:
            raise Invalid("the query is not valid", faults)
        return from_texts(given, kind, what="the query")


def _number(text: str) -> float:
    """20.0 is the whole number 20, in JSON Schema as for people. Raises ValueError for what is none."""
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number is too large")
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


_EXACT = 2**53  # beyond it a float is no longer every whole number
_JSON = msgspec.json.Decoder(float_hook=_number)


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
        return _JSON.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the body is not JSON: {error}", code="invalid_json") from error


def authenticate(request: Request, engine: Engine) -> ApiKey:
    """The caller's key. Raises Unauthenticated, and TooMany to who has sent too many that are none."""
    text = request.headers.get("X-API-Key", "")
    if not text:
        raise Unauthenticated("send an API key in the header X-API-Key")
    address = _address(request)
    wait = engine.failed_keys.look(address).wait
    if wait:
        raise TooMany(
            "too many requests with keys that are not valid came from this address",
            retry_after=wait,
            code="too_many_attempts",
        )
    key = engine.app.accounts.authenticate(text, engine.app.now())
    if key is None:
        engine.failed_keys.take(address)
        raise Unauthenticated("the API key is not known, has expired or was revoked")
    return key


def _address(request: Request) -> str:
    """Where the caller is. Cloud Run ends X-Forwarded-For with it; what stands before is anybody's word."""
    forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return forwarded or request.remote_addr or ""


def rate_headers(limit: Limit, standing: Standing) -> dict[str, str]:
    """What is told of a limit, as draft-ietf-httpapi-ratelimit-headers has it."""
    window, full_in = (ceil(time.total_seconds()) for time in (WINDOW, standing.full_in))
    return {
        "RateLimit-Policy": f'"key";q={limit.per_minute};w={window}',
        "RateLimit": f'"key";r={standing.left};t={full_in}',
    }


def within(limit: Limit, standing: Standing) -> None:
    """Raises TooMany."""
    if standing.wait:
        raise TooMany(
            f"more than {limit.per_minute} requests a minute came with this key",
            retry_after=standing.wait,
        )


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


def known_org(call: Call, org: str) -> None:
    """Raises NotFound for an organization that is none, which a platform key may ask for."""
    if call.engine.app.accounts.organization(org) is None:
        raise NotFound(f"there is no organization {org!r}", code="org_not_found")


def answer(value: Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON."""
    response = Response(
        msgspec.json.encode(value) + b"\n", status=status, mimetype="application/json"
    )
    response.headers.update(headers or {})
    return response
