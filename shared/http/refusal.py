"""What an answer that says no means for the step, in the provider's own words as far as they may be told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import msgspec

from shared.core.record import Json
from shared.errors import StepError, Terminal, Transient

MAX_SAID = 300
LONGEST_WAIT = timedelta(days=1)

_LEAST_SECRET = 8  # characters; a shorter text may stand in a message by chance
_CODES: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
}
# What Google answers 403 with where others answer 429
_BUSY = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"})
_SECONDS = re.compile(r"[0-9]{1,9}")


def refusal(
    where: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    secrets: Iterable[str],
) -> StepError:
    """Transient where waiting may help, else Terminal. `where` names method, host and path."""
    said = _decoded(body)
    words = clean(" ".join(_words(said)) or _text(said, body), secrets)
    message = f"{where}: answered {status}" + (f": {words}" if words else "")
    if status == HTTPStatus.TOO_MANY_REQUESTS or _BUSY & set(_reasons(said)):
        wait = retry_after(headers, now)
        return Transient(message, code="rate_limited", retry_after=wait)
    if status == HTTPStatus.REQUEST_TIMEOUT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        wait = retry_after(headers, now)
        return Transient(message, code=f"http_{status}", retry_after=wait)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        message = f"{where}: answered {status}, a redirect, which is not followed"
    return Terminal(message, code=_CODES.get(status, f"http_{status}"))


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """What the header Retry-After asks for, in seconds or as a date; at most a day."""
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return min(timedelta(seconds=int(text)), LONGEST_WAIT)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)  # "-0000" is read as no zone
    return min(max(until - now, timedelta(0)), LONGEST_WAIT)


def clean(text: str, secrets: Iterable[str]) -> str:
    """`text` on one line, without any of the secrets, and clipped."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        for form in {secret, msgspec.json.encode(secret).decode()[1:-1]}:
            if len(form) >= _LEAST_SECRET:
                text = text.replace(form, "…")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MAX_SAID else text[: MAX_SAID - 1] + "…"


def _decoded(body: bytes) -> Json:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _words(said: Json) -> Iterator[str]:
    """The sentences of an error, in the shapes that APIs give it."""
    match said:
        case str():
            yield said
        case [first, *_]:
            yield from _words(first)
        case {"error": str(code), "error_description": str(text)}:
            yield f"{code}: {text}"
        case {"error": inner} | {"errors": inner} if inner:
            yield from _words(inner)
        case {"message": str(text)} | {"detail": str(text)} | {"title": str(text)}:
            yield text


def _reasons(said: Json) -> Iterator[str]:
    """What Google gives as reasons, in both of its shapes."""
    match said:
        case {"error": dict(error)}:
            for key in ("errors", "details"):
                listing = error.get(key)
                for each in listing if isinstance(listing, list) else ():
                    reason = each.get("reason") if isinstance(each, dict) else None
                    if isinstance(reason, str):
                        yield reason


def _text(said: Json, body: bytes) -> str:
    """What is said where it is no JSON; nothing of a page for browsers but its title."""
    if said is not None:
        return ""
    text = body.decode(errors="replace")
    if title := re.search(r"<(title|message)>([^<]*)<", text, re.IGNORECASE):
        return title[2]
    return "" if text.lstrip().startswith("<") else text
