"""What the providers of generative AI tell of usage and cost, one file each.

A provider gives feeds: an endpoint, read page by page to its end mark. A page says which days it answers
for, so that a day without usage (answered, and nothing there) is told apart from a day without an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cached_property
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from shared.core.genai import Cost, Usage
from shared.core.lineage import Finding
from shared.core.record import Json
from shared.core.secret import Secret
from shared.errors import Terminal
from shared.http import Http
from shared.objects import ObjectStore
from shared.vault import Credential

Row = TypeVar("Row", Usage, Cost)


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a provider is asked: over this way or from its files, with this credential.

    `account` is the account's id at the provider as the credential's metadata have it (`account_id`), or
    else the credential's id.
    """

    http: Http
    base_url: Callable[[str], str]
    objects: Callable[[str], ObjectStore]
    credential: Credential
    account: str

    @cached_property
    def fields(self) -> Mapping[str, Json]:
        """Every field of the credential, secret or not."""
        return {**self.credential.info.metadata, **_object(self.credential.secret)}

    def field(self, name: str) -> str:
        """Raises Terminal (`bad_credential`) when the credential has no such text."""
        value = self.fields.get(name)
        if not isinstance(value, str) or not value:
            raise Terminal(
                f"the credential {self.credential.info.credential_id!r} has no {name}",
                code="bad_credential",
            )
        return value


def _object(secret: Secret) -> dict[str, Json]:
    value = msgspec.json.decode(secret.reveal() or b"{}")
    return value if isinstance(value, dict) else {}


class Span(NamedTuple):
    """Days, both included."""

    first: date
    last: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Row]):
    """Some rows, and the days that are answered with this page."""

    rows: Sequence[Row]
    days: Collection[date]
    findings: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True)
class Feed(Generic[Row]):
    """One endpoint. `read` raises Transient or Terminal; when it ends, its last page was read."""

    name: str
    read: Callable[[Span], Iterator[Page[Row]]]


class Total(NamedTuple):
    """The provider's own sum of a day in one currency, asked for apart from the rows."""

    day: date
    currency: str
    amount: Decimal


class GenaiSource(Protocol):
    """What a provider of generative AI can be asked."""

    def usage(self, access: Access) -> Sequence[Feed[Usage]]:
        """What was used."""

    def costs(self, access: Access) -> Sequence[Feed[Cost]]:
        """What it costs as the provider says; none where it does not say."""

    def totals(self, access: Access, span: Span) -> Iterator[Total] | None:
        """The provider's own sums; None where it has none to ask for."""
