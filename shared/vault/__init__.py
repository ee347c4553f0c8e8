"""The ports of secrets: a key ring that wraps data keys, and a vault that keeps sealed credentials.

Envelope encryption: AES-256-GCM under a data key per organization, which the key ring wraps. The
associated data names organization, provider and credential, so that a blob moved between them does
not open.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, Protocol

from shared.core.record import Document, Json
from shared.core.secret import Secret


class CredentialInfo(Document, frozen=True, kw_only=True):
    """What may be shown of a credential. `metadata` is not secret (a bucket, a region, an account)."""

    org: str
    provider: str
    credential_id: str
    version: int
    active: bool
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Json] = {}


class Credential(NamedTuple):
    """An opened credential: exists inside one step only."""

    info: CredentialInfo
    secret: Secret


class KeyRing(Protocol):
    """Wraps and unwraps data keys (32 bytes). The key that wraps never leaves it."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """The data key, sealed. `context` must be given again to unwrap."""

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The data key. Raises Terminal when it does not open, Unavailable when it cannot be asked."""


class Vault(Protocol):
    """Credentials of organizations, sealed at rest."""

    def put(
        self, org: str, provider: str, credential_id: str, secret: Secret, metadata: dict[str, Json]
    ) -> CredentialInfo:
        """Stores a new version of the credential and makes it the active one."""

    def find(self, org: str, provider: str | None = None) -> list[CredentialInfo]:
        """The active credentials of the organization, for the provider or for all, by provider and id."""

    def info(self, org: str, provider: str, credential_id: str) -> CredentialInfo | None:
        """What may be shown of the active version, or None."""

    def open(self, org: str, provider: str, credential_id: str) -> Credential:
        """The active version, opened. Raises Terminal when it is missing or does not open."""

    def deactivate(self, org: str, provider: str, credential_id: str) -> bool:
        """Takes the credential out of use; False when there is none."""

    def rewrap(self, org: str) -> int:
        """Wraps the organization's data key with the ring's newest key; the count of keys done."""
