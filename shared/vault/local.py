"""The embedded vault: wrapping keys in a file only its owner may read, credentials in SQLite."""

from __future__ import annotations

import base64
import binascii
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from shared.core.record import Json
from shared.core.secret import Secret
from shared.errors import Terminal, Unavailable
from shared.journal import Journal
from shared.vault import Credential, CredentialInfo, KeyRing
from shared.vault.checks import checked
from shared.vault.envelope import (
    KEY_BYTES,
    DataKeys,
    credential_context,
    new_key,
    seal,
    unseal,
)

# --- the key ring ---

_ID_CHARS = 8
_HEADER = b"""\
# Keys of the credential vault: `id key` a line, the newest last. Without this file no stored
# credential can be opened: keep a copy apart from the database, and show it to nobody.
"""


class LocalKeyRing:
    """Wrapping keys in a file of mode 0600, made on the first wrap.

    The file is read at every call: the vault asks once in minutes, and so a rotation, a restored file
    or a wrong mode counts at once.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)

    def __repr__(self) -> str:
        return f"LocalKeyRing({str(self._path)!r})"

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Seals with the newest key. Raises Unavailable when the file cannot be read or made."""
        if not self._made():
            self._create()
        key_id, newest = self._load()[-1]
        return key_id.encode() + seal(newest, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Opens with the key that sealed. A missing file is Unavailable: a new key would not open it."""
        try:
            key_id = wrapped[:_ID_CHARS].decode("ascii")
        except UnicodeDecodeError:
            key_id = ""
        key = dict(self._load()).get(key_id)
        if key is None:
            raise Terminal(
                "no key in the key file has sealed this data key; add the lines of the key file "
                "that was in use when the credential was stored, or store the credential again",
                code="unsealable",
            )
        return unseal(
            key,
            wrapped[_ID_CHARS:],
            context,
            "the organization's data key",
            "restore the database from a backup, or store the credential again",
        )

    def rotate(self) -> str:
        """Adds a key, with which everything is wrapped from now on; its id. Older keys still unwrap.

        Appends, so that two rotations at once both stay.
        """
        if not self._made():
            self._create()
            return self._load()[-1][0]
        self._load()  # a damaged file is refused, not grown
        key_id, line = _line(new_key())
        try:
            with self._path.open("rb") as file:
                ended = file.read().endswith(b"\n")
            with self._path.open("ab") as file:
                file.write(line if ended else b"\n" + line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Unavailable(f"{self._path}: cannot add a key: {error.strerror}") from error
        return key_id

    def _made(self) -> bool:
        try:
            self._path.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unavailable(
                f"{self._path}: cannot read the key file: {error.strerror}"
            ) from error
        return True

    def _create(self) -> None:
        # Whole or not at all, and never over another's: the link fails if somebody was first.
        _, line = _line(new_key())
        temporary = self._path.with_name(f".{self._path.name}.{os.urandom(6).hex()}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_HEADER + line)
                    file.flush()
                    os.fsync(file.fileno())
                with suppress(FileExistsError):
                    os.link(temporary, self._path)
            finally:
                temporary.unlink()
            _sync_folder(self._path.parent)
        except OSError as error:
            raise Unavailable(
                f"{self._path}: cannot make the key file: {error.strerror}"
            ) from error

    def _load(self) -> list[tuple[str, bytes]]:
        """The keys by id, newest last. Raises Unavailable, never with a line's content."""
        try:
            with self._path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                raw = file.read()
        except FileNotFoundError:
            raise Unavailable(
                f"{self._path}: the key file is missing; put it back from your copy"
            ) from None
        except OSError as error:
            raise Unavailable(
                f"{self._path}: cannot read the key file: {error.strerror}"
            ) from error
        if mode & 0o077:
            raise Unavailable(
                f"{self._path}: others may read the key file (mode {mode:04o}): "
                f"chmod 600 {self._path}"
            )
        keys = []
        for number, line in enumerate(raw.splitlines(), 1):
            if not line.strip() or line.startswith(b"#"):
                continue
            key_id, _, text = line.partition(b" ")
            try:
                key = base64.b64decode(text.strip(), validate=True)
            except binascii.Error:
                key = b""
            if len(key) != KEY_BYTES or key_id.decode("latin-1") != _key_id(key):
                raise Unavailable(
                    f"{self._path}:{number}: not a whole key; put the file back from your copy, "
                    "or delete the line if a rotation was killed there"
                ) from None
            keys.append((_key_id(key), key))
        if not keys:
            raise Unavailable(f"{self._path}: has no key in it; put it back from your copy")
        return keys


def _key_id(key: bytes) -> str:
    # Follows from the key, so a mistyped line is found; 32 bits of a hash tell nothing of 256.
    return sha256(b"key-id" + key).hexdigest()[:_ID_CHARS]


def _line(key: bytes) -> tuple[str, bytes]:
    key_id = _key_id(key)
    return key_id, key_id.encode() + b" " + base64.b64encode(key) + b"\n"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the vault ---

SCHEMA = """
CREATE TABLE IF NOT EXISTS data_keys (
    org TEXT NOT NULL,
    number INTEGER NOT NULL,       -- the greatest seals; the others still open what they sealed
    wrapped BLOB NOT NULL,
    PRIMARY KEY (org, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS credentials (
    org TEXT NOT NULL,
    provider TEXT NOT NULL,
    credential_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    active INTEGER NOT NULL,
    created_at INTEGER NOT NULL,   -- microseconds since 1970, UTC
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (org, provider, credential_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS credential_versions (
    org TEXT NOT NULL,
    provider TEXT NOT NULL,
    credential_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    key_number INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    metadata BLOB NOT NULL,        -- JSON, not secret
    created_at INTEGER NOT NULL,
    PRIMARY KEY (org, provider, credential_id, version)
) STRICT;
"""

_INFO = """
SELECT c.org, c.provider, c.credential_id, c.version, c.created_at, c.updated_at, v.metadata
FROM credentials AS c JOIN credential_versions AS v USING (org, provider, credential_id, version)
WHERE c.active AND c.org = ? AND c.provider = coalesce(?, c.provider)
"""
_OPEN = """
SELECT c.org, c.provider, c.credential_id, c.version, c.created_at, c.updated_at, v.metadata,
    v.sealed, k.wrapped
FROM credentials AS c JOIN credential_versions AS v USING (org, provider, credential_id, version)
LEFT JOIN data_keys AS k ON k.org = c.org AND k.number = v.key_number
WHERE c.active AND c.org = ? AND c.provider = ? AND c.credential_id = ?
"""
_NEW_VERSION = """
INSERT INTO credentials (org, provider, credential_id, version, active, created_at, updated_at)
VALUES (:org, :provider, :id, 1, 1, :at, :at)
ON CONFLICT DO UPDATE SET version = version + 1, active = 1, updated_at = :at
RETURNING version, created_at
"""
_NEWEST_KEY = "SELECT number, wrapped FROM data_keys WHERE org = ? ORDER BY number DESC LIMIT 1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SqliteVault:
    """Credentials in the journal's SQLite file, which its owner closes. Versions are kept."""

    def __init__(self, journal: Journal, keyring: KeyRing, now: Callable[[], datetime]) -> None:
        self._journal = journal
        self._now = now
        self._keys = DataKeys(keyring, now)
        journal.extend(SCHEMA)

    def put(
        self, org: str, provider: str, credential_id: str, secret: Secret, metadata: dict[str, Json]
    ) -> CredentialInfo:
        """Raises Invalid, which repeats nothing of what was sent: it might be the secret."""
        stored = checked(org, provider, credential_id, secret, metadata)
        number, key = self._sealing_key(org)
        at = (self._now() - _EPOCH) // _MICROSECOND
        name = {"org": org, "provider": provider, "id": credential_id}

        def put(db: sqlite3.Connection) -> tuple[int, int]:
            version, created = db.execute(_NEW_VERSION, {**name, "at": at}).fetchone()
            context = credential_context(org, provider, credential_id, version)
            db.execute(
                "INSERT INTO credential_versions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *name.values(),
                    version,
                    number,
                    seal(key, secret.reveal(), context),
                    stored,
                    at,
                ),
            )
            return version, created

        version, created = self._journal.write(put)
        return _info((org, provider, credential_id, version, created, at, stored))

    def find(self, org: str, provider: str | None = None) -> list[CredentialInfo]:
        select = f"{_INFO} ORDER BY c.provider, c.credential_id"
        rows = self._journal.read(lambda db: db.execute(select, (org, provider)).fetchall())
        return [_info(row) for row in rows]

    def info(self, org: str, provider: str, credential_id: str) -> CredentialInfo | None:
        row = self._journal.read(
            lambda db: db.execute(
                f"{_INFO} AND c.credential_id = ?", (org, provider, credential_id)
            ).fetchone()
        )
        return _info(row) if row else None

    def open(self, org: str, provider: str, credential_id: str) -> Credential:
        what = f"credential {credential_id!r} of {provider!r} for {org!r}"
        remedy = "store the credential again"
        row = self._journal.read(
            lambda db: db.execute(_OPEN, (org, provider, credential_id)).fetchone()
        )
        if row is None:
            raise Terminal(f"{what} is not there or not active: {remedy}", code="no_credential")
        *shown, sealed, wrapped = row
        if wrapped is None:
            raise Terminal(f"{what} has lost its data key: {remedy}", code="unsealable")
        info = _info(shown)
        context = credential_context(org, provider, credential_id, info.version)
        key = self._keys.unwrap(org, wrapped)
        return Credential(info, Secret(unseal(key, sealed, context, what, remedy)))

    def deactivate(self, org: str, provider: str, credential_id: str) -> bool:
        at = (self._now() - _EPOCH) // _MICROSECOND

        def deactivate(db: sqlite3.Connection) -> bool:
            changed = db.execute(
                "UPDATE credentials SET active = 0, updated_at = ? "
                "WHERE active AND org = ? AND provider = ? AND credential_id = ?",
                (at, org, provider, credential_id),
            )
            return bool(changed.rowcount)

        return self._journal.write(deactivate)

    def rewrap(self, org: str) -> int:
        """Raises Terminal for a data key that does not open, after doing the others."""
        rows = self._journal.read(
            lambda db: db.execute(
                "SELECT number, wrapped FROM data_keys WHERE org = ? ORDER BY number", (org,)
            ).fetchall()
        )
        failed: Terminal | None = None
        done = []
        for number, wrapped in rows:
            try:
                done.append((self._keys.rewrap(org, wrapped), org, number, wrapped))
            except Terminal as error:
                failed = error

        def replace(db: sqlite3.Connection) -> None:
            db.executemany(
                "UPDATE data_keys SET wrapped = ? WHERE org = ? AND number = ? AND wrapped = ?",
                done,
            )

        self._journal.write(replace)
        if failed is not None:
            raise failed
        return len(done)

    def _sealing_key(self, org: str) -> tuple[int, bytes]:
        """The organization's newest data key; a new one if there is none, or it is lost for good.

        What the lost one sealed stays, and opens again if its key file comes back.
        """
        row = self._newest_key(org)
        if row is not None:
            try:
                return row[0], self._keys.unwrap(org, row[1])
            except Terminal:
                number = row[0] + 1
        else:
            number = 1
        wrapped = self._keys.create(org)
        self._journal.write(
            lambda db: db.execute(
                "INSERT OR IGNORE INTO data_keys VALUES (?, ?, ?)", (org, number, wrapped)
            ),
            wait=False,  # the credential follows it in the same journal
        )
        number, wrapped = self._newest_key(org)  # another's, if that was first
        return number, self._keys.unwrap(org, wrapped)

    def _newest_key(self, org: str) -> Any:
        return self._journal.read(lambda db: db.execute(_NEWEST_KEY, (org,)).fetchone())


def _info(row: Any) -> CredentialInfo:
    org, provider, credential_id, version, created, updated, metadata = row
    return CredentialInfo(
        org=org,
        provider=provider,
        credential_id=credential_id,
        version=version,
        active=True,
        created_at=_EPOCH + timedelta(microseconds=created),
        updated_at=_EPOCH + timedelta(microseconds=updated),
        metadata=msgspec.json.decode(metadata, type=dict[str, Json]),
    )
