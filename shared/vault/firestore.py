"""Credentials in Firestore: `vault/{org}` with its data keys, `vault/{org}/credentials/{provider}|{id}`.

A credential's document holds its newest version whole, so that opening one is a single request of two
documents. The commit that replaces a version moves it to `…/versions/{n}`: versions are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from shared.core.record import Json
from shared.core.secret import Secret
from shared.errors import Terminal, Unavailable
from shared.firestore import (
    KEY,
    Database,
    Path,
    Query,
    Ref,
    Stored,
    Where,
    changed,
    created,
    sayable,
)
from shared.vault import Credential, CredentialInfo, KeyRing
from shared.vault.checks import checked
from shared.vault.envelope import DataKeys, credential_context, seal, unseal

VAULT, CREDENTIALS, VERSIONS = "vault", "credentials", "versions"

_TRIES = 50
_INFO = ("active", "version", "created_at", "updated_at", "metadata")
_OF_A_VERSION = ("version", "key", "sealed", "metadata", "updated_at", "nonce")


class _DataKey(NamedTuple):
    number: int  # the greatest seals; the others still open what they sealed
    wrapped: bytes


class FirestoreVault:
    """Vault over a Database, which its owner closes."""

    def __init__(
        self,
        database: Database,
        keyring: KeyRing,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
        sleep: Callable[[float], None],
        random: Callable[[], float],
    ) -> None:
        self._db = database
        self._now = now
        self._new_id = new_id
        self._sleep = sleep
        self._random = random
        self._keys = DataKeys(keyring, now)

    def put(
        self, org: str, provider: str, credential_id: str, secret: Secret, metadata: dict[str, Json]
    ) -> CredentialInfo:
        """Raises Invalid, which repeats nothing of what was sent: it might be the secret."""
        stored = checked(org, provider, credential_id, secret, metadata)
        sealing = self._sealing_key(org)
        key = self._keys.unwrap(org, sealing.wrapped)
        path = _credential(org, provider, credential_id)
        what = f"store credential {credential_id!r} of {provider!r} for {org!r}"
        nonce, tried = self._new_id(), 0
        for _ in self._tries(what):
            there = self._db.get([path]).get(path)
            version = 1 if there is None else there.fields["version"] + 1
            if tried:
                done = self._unanswered(there, path, tried, nonce)
                if done is not None:
                    return _info(path, done)
            at = self._now()
            context = credential_context(org, provider, credential_id, version)
            fields: dict[str, Any] = {
                "active": True,
                "version": version,
                "created_at": at if there is None else there.fields["created_at"],
                "updated_at": at,
                "key": sealing.number,
                "sealed": seal(key, secret.reveal(), context),
                "metadata": stored,
                "nonce": nonce,
            }
            if there is None:
                writes = [created(path, fields)]
            else:
                old = {name: there.fields[name] for name in _OF_A_VERSION}
                writes = [
                    created(_version(path, there.fields["version"]), old),
                    changed(path, {(name,): fields[name] for name in fields}, there.version),
                ]
            done_now = self._db.commit(what, *writes)
            if done_now.versions is not None:
                return _info(path, fields)
            if done_now.in_doubt:
                tried = version
        raise AssertionError("_tries does not end")

    def find(self, org: str, provider: str | None = None) -> list[CredentialInfo]:
        bounds: tuple[Where, ...] = ()
        if provider is not None:
            if not sayable((org, provider)):
                return []
            # By id, which needs no index: `}` comes right after the `|` behind the provider.
            bounds = (
                Where(KEY, ">", Ref((VAULT, org, CREDENTIALS, f"{provider}|"))),
                Where(KEY, "<", Ref((VAULT, org, CREDENTIALS, f"{provider}}}"))),
            )
        query = Query((VAULT, org), CREDENTIALS, _INFO, where=bounds, order=((KEY, False),))
        found = [
            _info(stored.path, stored.fields)
            for stored in self._db.query(query)
            if stored.fields["active"]
        ]
        return sorted(found, key=lambda info: (info.provider, info.credential_id))

    def info(self, org: str, provider: str, credential_id: str) -> CredentialInfo | None:
        path = _credential(org, provider, credential_id)
        found = self._db.get([path], _INFO).get(path)
        return _info(path, found.fields) if found and found.fields["active"] else None

    def open(self, org: str, provider: str, credential_id: str) -> Credential:
        what = f"credential {credential_id!r} of {provider!r} for {org!r}"
        remedy = "store the credential again"
        path, keys_path = _credential(org, provider, credential_id), (VAULT, org)
        both = self._db.get([path, keys_path])
        found = both.get(path)
        if found is None or not found.fields["active"]:
            raise Terminal(f"{what} is not there or not active: {remedy}", code="no_credential")
        number = found.fields["key"]
        keys = {key.number: key.wrapped for key in _data_keys(both.get(keys_path))}
        if number not in keys:
            raise Terminal(f"{what} has lost its data key: {remedy}", code="unsealable")
        info = _info(path, found.fields)
        context = credential_context(org, provider, credential_id, info.version)
        key = self._keys.unwrap(org, keys[number])
        plain = unseal(key, found.fields["sealed"], context, what, remedy)
        return Credential(info, Secret(plain))

    def deactivate(self, org: str, provider: str, credential_id: str) -> bool:
        path = _credential(org, provider, credential_id)
        what = f"deactivate credential {credential_id!r} of {provider!r} for {org!r}"
        nonce, tried = self._new_id(), False
        for _ in self._tries(what):
            found = self._db.get([path], ("active", "stopped_by")).get(path)
            if found is None:
                return False
            if tried and found.fields.get("stopped_by") == nonce:
                return True
            if not found.fields["active"]:
                return False
            changes: dict[Path, Any] = {
                ("active",): False,
                ("updated_at",): self._now(),
                ("stopped_by",): nonce,
            }
            done = self._db.commit(what, changed(path, changes, found.version))
            if done.versions is not None:
                return True
            tried = tried or done.in_doubt
        raise AssertionError("_tries does not end")

    def rewrap(self, org: str) -> int:
        """Raises Terminal for a data key that does not open, after doing the others."""
        path = (VAULT, org)
        what = f"rewrap the data keys of {org!r}"
        for _ in self._tries(what):
            stored = self._db.get([path]).get(path)
            failed: Terminal | None = None
            changes: dict[Path, bytes] = {}
            for number, wrapped in _data_keys(stored):
                try:
                    changes["keys", str(number)] = self._keys.rewrap(org, wrapped)
                except Terminal as error:
                    failed = error
            if stored is not None and changes:
                # Whether an unanswered try was applied does not matter: twice is once.
                done = self._db.commit(what, changed(path, changes, stored.version))
                if done.versions is None:
                    continue
            if failed is not None:
                raise failed
            return len(changes)
        raise AssertionError("_tries does not end")

    def _sealing_key(self, org: str) -> _DataKey:
        """The organization's newest data key; a new one if there is none, or it is lost for good.

        What the lost one sealed stays, and opens again if its key comes back.
        """
        path = (VAULT, org)
        what = f"add a data key of {org!r}"
        for _ in self._tries(what):
            stored = self._db.get([path]).get(path)
            keys = _data_keys(stored)
            newest = max(keys, default=None)
            if newest is not None:
                try:
                    self._keys.unwrap(org, newest.wrapped)
                except Terminal:
                    pass
                else:
                    return newest
            number = 1 if newest is None else newest.number + 1
            wrapped = self._keys.create(org)
            if stored is None:
                write = created(path, {"keys": {str(number): wrapped}})
            else:
                write = changed(path, {("keys", str(number)): wrapped}, stored.version)
            if self._db.commit(what, write).versions is not None:
                return _DataKey(number, wrapped)
        raise AssertionError("_tries does not end")

    def _unanswered(
        self, there: Stored | None, path: Path, version: int, nonce: str
    ) -> dict[str, Any] | None:
        """The version that a try without an answer stored after all: still the newest, or replaced."""
        if there is None:
            return None
        if there.fields["nonce"] == nonce:
            return there.fields
        replaced = _version(path, version)
        kept = self._db.get([replaced]).get(replaced)
        if kept is None or kept.fields["nonce"] != nonce:
            return None
        return {**kept.fields, "created_at": there.fields["created_at"]}

    def _tries(self, what: str) -> Iterator[int]:
        """Counts tries, with a pause between two; Unavailable when others always come first."""
        for tries in range(_TRIES):
            if tries:
                self._sleep(0.005 + self._random() * 0.055)
            yield tries
        raise Unavailable(f"could not {what}: {_TRIES} conditional writes in a row were lost")


def _credential(org: str, provider: str, credential_id: str) -> Path:
    return (VAULT, org, CREDENTIALS, f"{provider}|{credential_id}")


def _version(path: Path, version: int) -> Path:
    return (*path, VERSIONS, str(version))


def _data_keys(stored: Stored | None) -> list[_DataKey]:
    keys = {} if stored is None else stored.fields.get("keys", {})
    return sorted(_DataKey(int(number), wrapped) for number, wrapped in keys.items())


def _info(path: Path, fields: dict[str, Any]) -> CredentialInfo:
    provider, _, credential_id = path[-1].partition("|")
    return CredentialInfo(
        org=path[1],
        provider=provider,
        credential_id=credential_id,
        version=fields["version"],
        active=True,
        created_at=fields["created_at"],
        updated_at=fields["updated_at"],
        metadata=msgspec.json.decode(fields["metadata"], type=dict[str, Json]),
    )
