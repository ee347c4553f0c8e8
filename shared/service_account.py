"""Access tokens for a service account, from the JSON key that an organization has stored.

Of the key only what was checked is used, and the token is asked of Google's own address, whatever the
key says: a key that somebody made up leads to no other host.
https://developers.google.com/identity/protocols/oauth2/service-account
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlencode

import msgspec

from shared.core.secret import Secret
from shared.errors import Terminal, Transient

if TYPE_CHECKING:
    from urllib3 import PoolManager  # who opens a pool has it

TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105  # an address, no secret

_TOKEN_URIS = (
    TOKEN_URI,
    # what Google wrote into keys over the years
    "https://accounts.google.com/o/oauth2/token",
    "https://www.googleapis.com/oauth2/v4/token",
)
_UNIVERSE = "googleapis.com"
_EMAIL = re.compile(r"[a-z0-9._-]+@[a-z0-9.-]+\.gserviceaccount\.com")
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_LIFE = timedelta(hours=1)  # the longest that Google gives
_EARLY = timedelta(minutes=5)  # a large file may take as long
_MAX_ANSWER_BYTES = 65_536
FORM = {"content-type": "application/x-www-form-urlencoded"}


class _Key(msgspec.Struct):
    """What is used of a key file, and what must be as we use it."""

    type: str
    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = TOKEN_URI
    universe_domain: str = _UNIVERSE


class _Token(msgspec.Struct):
    access_token: str
    expires_in: int


class _Refusal(msgspec.Struct):
    error: str = "no reason"
    error_description: str = ""


class Refused(Exception):
    """Google gives this account no token; says why."""


# Sends the form to Google's token service, and gives its answer. Raises Refused.
Exchange: TypeAlias = Callable[[bytes], bytes]


def by_pool(pool: PoolManager, uri: str = TOKEN_URI) -> Exchange:
    """The exchange at `uri`. Raises Transient, or what urllib3 raises, when waiting may help."""

    def exchange(form: bytes) -> bytes:
        request = pool.request("POST", uri, body=form, headers=FORM, preload_content=False)
        with closing(request) as answer:
            content: bytes = answer.read(_MAX_ANSWER_BYTES)
        if answer.status == HTTPStatus.OK:
            return content
        if answer.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            said = msgspec.json.decode(content, type=_Refusal)
            raise Refused(f"{said.error}: {said.error_description[:200]}")
        raise Transient(f"Google's token service answered {answer.status}", code="unreachable")

    return exchange


class Tokens:
    """Tokens of one account for one scope; each is used until shortly before its end."""

    def __init__(
        self,
        secret: Callable[[], Secret],
        scope: str,
        exchange: Exchange | None,
        *,
        now: Callable[[], datetime],
    ) -> None:
        """`secret` gives the key file; it is called for each new token, and not before the first.

        Without an `exchange` the key is checked and nobody is asked: emulators take any token.
        """
        self.account = "the service account"  # its address, once the key has been read
        self._secret = secret
        self._scope = scope
        self._now = now
        self._exchange = exchange
        self._mutex = threading.Lock()
        self._kept = ""
        self._until: datetime | None = None

    def get(self) -> str:
        """Raises Terminal `bad_credential`, and what the exchange raises when waiting may help."""
        with self._mutex:
            now = self._now()
            if self._until is None or self._until <= now:
                key = _parsed(self._secret().reveal())
                self.account = key.client_email
                token = self._exchanged(key, now)
                self._kept = token.access_token
                self._until = now + timedelta(seconds=token.expires_in) - _EARLY
            return self._kept

    def _exchanged(self, key: _Key, now: datetime) -> _Token:
        if self._exchange is None:
            return _Token("emulator", int(_LIFE.total_seconds()))
        form = urlencode({"grant_type": _GRANT, "assertion": self._assertion(key, now)})
        try:
            return msgspec.json.decode(self._exchange(form.encode()), type=_Token)
        except Refused as refused:
            raise _bad_credential(
                f"Google gives {key.client_email} no token ({refused}); "
                "was the key deleted, or the account disabled?"
            ) from None

    def _assertion(self, key: _Key, now: datetime) -> str:
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 -- import time
        from google.auth import crypt, jwt  # noqa: PLC0415 -- 0.08 s

        claims = {
            "iss": key.client_email,
            "scope": self._scope,
            "aud": TOKEN_URI,
            "iat": int(now.timestamp()),
            "exp": int((now + _LIFE).timestamp()),
        }
        signer: Any = crypt.RSASigner
        encode: Any = jwt.encode
        try:
            signed: bytes = encode(signer.from_string(key.private_key, key.private_key_id), claims)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _bad_credential(
                "private_key in the credential's secret is no RSA key that can be read"
            ) from None
        return signed.decode()


def _parsed(secret: bytes) -> _Key:
    """Raises Terminal, which repeats nothing of what it got: any part of it may be the secret."""
    try:
        key = msgspec.json.decode(secret, type=_Key)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _bad_credential(
            "the credential's secret is no JSON key of a service account"
        ) from None
    if key.type != "service_account":
        raise _bad_credential(
            "the credential's secret is a key of another type than service_account"
        )
    if not _EMAIL.fullmatch(key.client_email):
        raise _bad_credential("client_email in the credential's secret is no service account")
    if key.token_uri not in _TOKEN_URIS or key.universe_domain != _UNIVERSE:
        raise _bad_credential(
            "token_uri or universe_domain in the credential's secret is not Google's"
        )
    return key


def _bad_credential(said: str) -> Terminal:
    return Terminal(
        f"{said}: make a key with `gcloud iam service-accounts keys create`, and store that file as "
        "the credential",
        code="bad_credential",
    )
