"""Tokens that Google signs for a service account: who calls an endpoint that only our own services may.

Pub/Sub, Cloud Scheduler and Cloud Tasks send one with each request (developers.google.com/identity/
openid-connect, "Validating an ID token"). Only RS256 is taken: that is what Google signs with.
"""

from __future__ import annotations

import binascii
import re
import threading
from base64 import urlsafe_b64decode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from shared.errors import Forbidden, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

KEYS_URL = "https://www.googleapis.com/oauth2/v3/certs"
LEEWAY = timedelta(seconds=60)
_ISSUERS = frozenset({"https://accounts.google.com", "accounts.google.com"})
_MAX_TOKEN = 16_384
_FETCH_SECONDS = 5.0
_FRESH = timedelta(hours=1)  # where the answer does not say for how long
_AGAIN = timedelta(minutes=1)  # a key that nobody knows must not make us ask for every request
_STALE = timedelta(hours=24)  # longer than Google takes to rotate keys out of use
_MAX_AGE = re.compile(r"max-age=([0-9]{1,9})")


class _Header(Struct, frozen=True, kw_only=True):
    alg: str
    kid: str


class _Claims(Struct, frozen=True, kw_only=True):
    iss: str
    aud: str
    exp: float
    iat: float
    email: str = ""
    email_verified: bool = False


class Key(Struct, frozen=True, kw_only=True):
    """An RSA key as a JSON Web Key: the numbers in URL-safe base64."""

    kid: str
    n: str
    e: str
    kty: str = "RSA"


class _Keys(Struct, frozen=True, kw_only=True):
    keys: tuple[Key, ...]


class GoogleKeys:
    """The public keys by their id, fetched when they are needed and kept for as long as Google says."""

    def __init__(self, now: Callable[[], datetime], url: str = KEYS_URL) -> None:
        self._now = now
        self._url = url
        self._guard = threading.Lock()
        self._keys: dict[str, RSAPublicKey] = {}
        self._fetched = datetime.min.replace(tzinfo=UTC)
        self._tried = self._fetched
        self._fresh = timedelta(0)

    def find(self, kid: str) -> RSAPublicKey | None:
        """The key, or None when Google has none of that id. Raises Unavailable without any keys."""
        with self._guard:
            now = self._now()
            known = kid in self._keys and now - self._fetched < self._fresh
            if not known and now - self._tried >= _AGAIN:
                self._tried = now
                self._fetch(now)
            if now - self._fetched > _STALE:
                self._tried = datetime.min.replace(
                    tzinfo=UTC
                )  # the next request may have more luck
                raise Unavailable(f"the keys of Google's tokens cannot be fetched from {self._url}")
            return self._keys.get(kid)

    def _fetch(self, now: datetime) -> None:
        """Replaces the keys; leaves those that there are when there is no answer."""
        import urllib3  # noqa: PLC0415  # only the first request of an hour pays for it

        try:
            answer = urllib3.request(
                "GET", self._url, timeout=_FETCH_SECONDS, retries=False, redirect=False
            )
            if answer.status != 200:
                return
            found = msgspec.json.decode(answer.data, type=_Keys)
            keys = {key.kid: _public(key) for key in found.keys if key.kty == "RSA"}
        except (urllib3.exceptions.HTTPError, ValueError):  # no answer, or one that makes no sense
            return
        self._keys = keys
        said = _MAX_AGE.search(answer.headers.get("Cache-Control", ""))
        self._fresh = timedelta(seconds=int(said[1])) if said else _FRESH
        self._fetched = now


class Callers:
    """Lets in whoever has a token of `account` for `audience` (None: for the endpoint itself)."""

    def __init__(
        self,
        account: str,
        audience: str | None,
        find: Callable[[str], RSAPublicKey | None],
        now: Callable[[], datetime],
    ) -> None:
        self._account = account
        self._audience = audience
        self._find = find
        self._now = now

    def check(self, authorization: str, endpoint: str) -> None:
        """Takes the header Authorization and the URL that was called, without its path.

        Raises Unauthenticated for a token that is none, Forbidden for one of somebody else, Unavailable
        when that cannot be found out.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not 0 < len(token) <= _MAX_TOKEN:
            raise Unauthenticated("send a token of the push account: Authorization: Bearer TOKEN")
        claims = self._claims(token.strip())
        now = self._now().timestamp()
        leeway = LEEWAY.total_seconds()
        if not claims.iat - leeway <= now <= claims.exp + leeway:
            raise Unauthenticated("the token has expired, or is not valid yet")
        if claims.iss not in _ISSUERS:
            raise Unauthenticated("the token is not of Google's issuer")
        wanted = self._audience or endpoint
        if claims.aud.rstrip("/") != wanted.rstrip("/"):
            raise Unauthenticated(f"the token is not for the audience {wanted}")
        if claims.email != self._account or not claims.email_verified:
            raise Forbidden("the token is not of the account that may call this")

    def _claims(self, token: str) -> _Claims:
        """What the token says, once its signature is proven. Raises Unauthenticated, Unavailable."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # with the first token
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

        refused = Unauthenticated("the token is not one that Google signed")
        signed, _, signature = token.rpartition(".")
        try:
            head, body = map(_bytes, signed.split("."))
            header = msgspec.json.decode(head, type=_Header)
            key = self._find(header.kid) if header.alg == "RS256" else None
            if key is None:
                raise refused
            key.verify(_bytes(signature), signed.encode(), PKCS1v15(), SHA256())
            return msgspec.json.decode(body, type=_Claims)
        except (ValueError, InvalidSignature, msgspec.DecodeError) as error:
            raise refused from error


def _public(key: Key) -> Any:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers  # noqa: PLC0415

    n, e = (int.from_bytes(_bytes(number)) for number in (key.n, key.e))
    return RSAPublicNumbers(e, n).public_key()


def _bytes(text: str) -> bytes:
    """URL-safe base64 without its padding. Raises ValueError."""
    try:
        return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64") from error
