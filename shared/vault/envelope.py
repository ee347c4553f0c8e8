"""Sealing: AES-256-GCM under a data key, bound to whose credential it is.

Every vault seals with this, so that what one wrote another can open. A sealed blob is one byte of
format, 12 of nonce, then the ciphertext with its 16-byte tag (NIST SP 800-38D). Nonces are random: at
one per stored version, a data key stays far below the 2^32 messages that allows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta

from shared.errors import Terminal
from shared.vault import KeyRing

KEY_BYTES = 32
KEEP_KEY = timedelta(minutes=5)

_FORMAT = 1
_NONCE_BYTES = 12
_TAG_BYTES = 16
_SEPARATOR = "|"


def new_key() -> bytes:
    """256 random bits."""
    return os.urandom(KEY_BYTES)


def credential_context(org: str, provider: str, credential_id: str, version: int) -> bytes:
    """What a sealed credential is bound to: moved to another place, it does not open.

    Raises ValueError for a name with a separator in it, which could stand for two places.
    """
    if any(_SEPARATOR in part for part in (org, provider, credential_id)):
        raise ValueError(f"a name in a context has no {_SEPARATOR!r}")
    return _SEPARATOR.join((org, provider, credential_id, str(version))).encode()


def data_key_context(org: str) -> bytes:
    """What a wrapped data key is bound to."""
    return f"data-key{_SEPARATOR}{org}".encode()


def seal(key: bytes, plain: bytes, context: bytes) -> bytes:
    """`plain`, unreadable without the key and unusable in another context."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 -- import time

    nonce = os.urandom(_NONCE_BYTES)
    return bytes((_FORMAT,)) + nonce + AESGCM(key).encrypt(nonce, plain, context)


def unseal(key: bytes, sealed: bytes, context: bytes, what: str, remedy: str) -> bytes:
    """The plain bytes. Raises Terminal, saying `what` does not open, why, and the `remedy`."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 -- import time
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 -- import time

    if len(sealed) < 1 + _NONCE_BYTES + _TAG_BYTES:
        raise Terminal(f"{what} is truncated ({len(sealed)} bytes): {remedy}", code="unsealable")
    if sealed[0] != _FORMAT:
        raise Terminal(
            f"{what} has format {sealed[0]}, this release reads {_FORMAT}: "
            f"run a newer release, or {remedy}",
            code="unsealable",
        )
    body = sealed[1:]
    try:
        return AESGCM(key).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], context)
    except InvalidTag:
        raise Terminal(
            f"{what} does not open; it was cut, altered, or copied from another place: {remedy}",
            code="unsealable",
        ) from None


class DataKeys:
    """Unwrapped data keys, kept for a few minutes so that the key ring is not asked for every step.

    Threads share it; two that miss at once both ask.
    """

    def __init__(self, ring: KeyRing, now: Callable[[], datetime]) -> None:
        self._ring = ring
        self._now = now
        self._kept: dict[tuple[str, bytes], tuple[bytes, datetime]] = {}

    def create(self, org: str) -> bytes:
        """A new data key of the organization, wrapped."""
        return self._ring.wrap(new_key(), data_key_context(org))

    def unwrap(self, org: str, wrapped: bytes) -> bytes:
        """The data key. Raises what the key ring raises."""
        now = self._now()
        kept = self._kept.get((org, wrapped))
        if kept is not None and now < kept[1]:
            return kept[0]
        key = self._ring.unwrap(wrapped, data_key_context(org))
        for place, (_, until) in list(self._kept.items()):
            if until <= now:
                self._kept.pop(place, None)
        self._kept[org, wrapped] = (key, now + KEEP_KEY)
        return key

    def rewrap(self, org: str, wrapped: bytes) -> bytes:
        """The same data key, wrapped with the ring's newest key."""
        context = data_key_context(org)
        return self._ring.wrap(self._ring.unwrap(wrapped, context), context)
