"""The port of HTTP: what a processor asks of its provider's API.

An answer that is returned says yes (2xx) and is whole; every other end is raised, by type. Requests go
to the provider's own addresses only, as fast as its limits allow, and end with the step. Nothing is
asked twice, but for a GET whose kept connection the server had closed: whether waiting helps says the
error, and when to come back the retry policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from shared.core.providers import Rate
from shared.core.record import Json
from shared.errors import Transient

MEBIBYTE = 1024 * 1024
LIMIT = 32 * MEBIBYTE

Params: TypeAlias = Mapping[str, str | Sequence[str]]


class Answer(NamedTuple):
    """An answer that says yes. Names of headers are found in any case; `where` is for messages."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    where: str = "the answer"

    def json(self) -> Any:
        """The body as JSON, every fraction a Decimal of its own digits. Raises Transient where it is none."""
        try:
            return _JSON.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidOperation) as error:
            raise Transient(
                f"{self.where}: the answer is not JSON ({error})", code="unreadable_answer"
            ) from None


_JSON = msgspec.json.Decoder(float_hook=Decimal)


class Http(Protocol):
    """The way to one provider, for one credential.

    Raises Transient for 408, 429 (with `retry_after`), 5xx, a timeout, a broken connection, an answer
    that ended early; Terminal with the code `unauthorized`, `forbidden`, `http_{status}` for another
    refusal, `untrusted` for a certificate that is not the host's, `answer_too_large`,
    `unsendable` for a header that is none, and `foreign_address` for a URL that is not the provider's. Raises what `check` of the step raises.
    """

    def get(
        self,
        url: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        limit: int = LIMIT,
    ) -> Answer:
        """Asks for `url`; several values of a parameter are sent one after the other."""

    def post(
        self,
        url: str,
        *,
        body: Mapping[str, Json] | bytes,
        headers: Mapping[str, str] | None = None,
        limit: int = LIMIT,
    ) -> Answer:
        """Sends `body`: a mapping as JSON, bytes as they are (`headers` say what they are)."""


class CallLog(Protocol):
    """Where each call leaves a line, without its query and headers."""

    def info(self, event: str, **fields: object) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks, for how long, and what must not be told of it.

    `account` is whose limits they are: requests of one account share them, in one process. `left` is
    the seconds until the caller's deadline, `check` raises when it must not go on, and `on_stop` takes
    what to do then. `secrets` are the texts that no message may repeat.
    """

    account: tuple[str, ...]
    addresses: tuple[str, ...]
    rate: Rate
    left: Callable[[], float]
    check: Callable[[], None]
    on_stop: Callable[[Callable[[], None]], None]
    secrets: Callable[[], Iterable[str]]
    log: CallLog


class HttpClient(Protocol):
    """The connections of one process."""

    def open(self, caller: Caller) -> Http:
        """The way for one caller; costs nothing until it is used."""

    def close(self) -> None:
        """Closes the connections. Twice is once."""
