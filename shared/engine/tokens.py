"""Tokens of a service account, asked for through the HTTP of who needs them."""

from __future__ import annotations

from shared.core.providers import Provider
from shared.errors import Terminal
from shared.http import Http
from shared.service_account import FORM, Exchange, Refused

_NO_TOKEN = frozenset({"http_400", "unauthorized", "forbidden"})


def token_exchange(http: Http, provider: Provider) -> Exchange:
    """The exchange at the provider's base_url `token`. Raises Terminal when it has none."""
    url = f"{provider.base_url('token')}/token"

    def exchange(form: bytes) -> bytes:
        try:
            return http.post(url, body=form, headers=FORM).body
        except Terminal as error:
            if error.code in _NO_TOKEN:
                raise Refused(str(error)) from None
            raise

    return exchange
