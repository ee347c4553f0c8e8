"""Asks a provider whether a credential is good for anything, before a run depends on it.

One cheap call, or a look at the place that the credential names: which one says the registry. What is
found out is an answer, and no error: also that the provider could not be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import Meta

from shared.app import App
from shared.core.credential import TYPE
from shared.core.providers import Preflight, Provider, filled
from shared.core.record import Document
from shared.engine.tokens import token_exchange
from shared.errors import NotFound, StepError, Terminal, Transient
from shared.http import Caller, Http
from shared.service_account import Tokens
from shared.vault import Credential

TIME = timedelta(seconds=20)


class Result(StrEnum):
    """What came of a check."""

    OK = "ok"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    UNCHECKED = "unchecked"


class CheckView(Document, frozen=True, kw_only=True, omit_defaults=False):
    """What a provider says of a credential. Nothing of it is secret."""

    provider: str
    credential_id: str
    version: int
    result: Annotated[
        Result,
        Meta(
            description="ok: it may do what was asked. refused: it may not, and waiting does not "
            "help. unreachable: nobody answered. unchecked: there is no cheap way to ask."
        ),
    ]
    checked: Annotated[str, Meta(description="What was asked, or why nothing was.")]
    needs: Annotated[str, Meta(description="The right that this takes.")] = ""
    error: Annotated[str, Meta(description="Code of what went wrong.")] = ""
    message: Annotated[str, Meta(description="What went wrong, in the provider's words.")] = ""
    at: datetime


def check_credential(app: App, org: str, word: str, credential_id: str) -> CheckView:
    """Checks the active version of a credential. Raises NotFound, Unavailable."""
    provider = app.providers().get(word)
    info = app.vault.info(org, provider.name, credential_id)
    if info is None:
        raise NotFound(
            f"organization {org!r} has no active {provider.name} credential {credential_id!r}",
            code="credential_not_found",
        )
    try:
        credential = app.vault.open(org, provider.name, credential_id)
    except Terminal as error:
        found = _Found(Result.REFUSED, "whether it opens", "", error.code, str(error))
    else:
        found = _Check(app, org, provider, credential).run()
    return CheckView(
        provider=provider.name,
        credential_id=credential_id,
        version=info.version,
        at=app.now(),
        **found._asdict(),
    )


class _Found(NamedTuple):
    result: Result
    checked: str
    needs: str = ""
    error: str = ""
    message: str = ""


class _Check:
    """One check of one credential."""

    def __init__(self, app: App, org: str, provider: Provider, credential: Credential) -> None:
        self.app = app
        self.org = org
        self.provider = provider
        self.credential = credential

    def run(self) -> _Found:
        metadata = self.credential.info.metadata
        kind = self.provider.credentials.get(str(metadata.get(TYPE)))
        if kind is None:
            return _Found(Result.UNCHECKED, "nothing: its type is not known; store it again")
        preflight = kind.preflight
        if preflight is None:
            return _Found(
                Result.UNCHECKED, f"nothing: {self.provider.title} has no cheap way to ask"
            )
        fields: Mapping[str, str] = msgspec.json.decode(self.credential.secret.reveal())
        missing = preflight.fields() - fields.keys()
        if missing:
            return _Found(Result.UNCHECKED, f"nothing: it has no {', '.join(sorted(missing))}")
        what, ask = self._way(preflight, fields)
        try:
            ask()
        except Transient as error:
            return _Found(Result.UNREACHABLE, what, preflight.needs, error.code, str(error))
        except StepError as error:
            return _Found(Result.REFUSED, what, preflight.needs, error.code, str(error))
        return _Found(Result.OK, what, preflight.needs)

    def _way(
        self, preflight: Preflight, fields: Mapping[str, str]
    ) -> tuple[str, Callable[[], object]]:
        """What is asked, in words, and how."""
        if preflight.lists is not None:
            source = fields[preflight.lists]
            return f"a listing of {source}", lambda: self._list(source)
        if preflight.base_url is None:
            return "a token", lambda: self._token(preflight)
        inside = {name: quote(value, safe="") for name, value in fields.items()}
        url = self.provider.base_url(preflight.base_url) + filled(preflight.path, inside)
        return f"GET {url}", lambda: self._get(preflight, url, fields)

    def _list(self, source: str) -> None:
        store = self.app.objects(self.org, source, lambda: self.credential)
        next(iter(store.list("")), None)

    def _token(self, preflight: Preflight) -> str:
        exchange = token_exchange(self._http(), self.provider)
        scope = preflight.scope or ""
        return Tokens(lambda: self.credential.secret, scope, exchange, now=self.app.now).get()

    def _get(self, preflight: Preflight, url: str, fields: Mapping[str, str]) -> None:
        headers = {name: filled(text, fields) for name, text in preflight.headers.items()}
        if preflight.scope is not None:
            headers["authorization"] = f"Bearer {self._token(preflight)}"
        self._http().get(url, params=preflight.params, headers=headers)

    def _http(self) -> Http:
        app, secret = self.app, self.credential.secret
        until = app.monotonic() + TIME.total_seconds()
        return app.http().open(
            Caller(
                account=(self.provider.name, self.org, self.credential.info.credential_id),
                addresses=tuple(self.provider.base_urls.values()),
                rate=self.provider.limits,
                left=lambda: until - app.monotonic(),
                check=lambda: None,
                on_stop=lambda _: None,
                secrets=lambda: self.provider.secrets_of(secret),
                log=app.log,
            )
        )
