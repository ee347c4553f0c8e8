"""What every vault promises. A new one adds its class to BACKENDS, nothing else."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import random
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from shared.core.secret import Secret
from shared.errors import Invalid, PipelinesError, Terminal, Unavailable
from shared.firestore import Stored, changed
from shared.journal import Journal
from shared.vault import KeyRing, Vault
from shared.vault.envelope import KEEP_KEY, credential_context
from shared.vault.firestore import FirestoreVault
from shared.vault.kms import TRIES, KmsKeyRing
from shared.vault.local import LocalKeyRing, SqliteVault
from tests.support import kms
from tests.support.stores import everything, firestore_database, new_id

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
CANARY = "sk-canary-7Qd0vXw3ZrB9mN5tLk2H"
Place = tuple[str, str, str]
ACME: Place = ("acme", "openai", "main")


class CountingRing:
    """A key ring, and how often it was asked to unwrap."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring
        self.unwrapped = 0

    def wrap(self, key: bytes, context: bytes) -> bytes:
        return self.ring.wrap(key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        self.unwrapped += 1
        return self.ring.unwrap(wrapped, context)


class Keys(Protocol):
    """What is behind a key ring, and can be turned, thrown away and lost."""

    ring: KeyRing

    def rotate(self) -> None:
        """The ring has a new key from now on."""

    def forget_old(self) -> None:
        """The ring has only its newest key."""

    def lose(self) -> None:
        """The ring's keys are gone for good, and it has made a new one."""

    def stored(self) -> bytes:
        """Every byte at rest."""

    def close(self) -> None: ...


class FileKeys:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "vault.key"
        self._local = LocalKeyRing(self._path)
        self.ring: KeyRing = self._local

    def rotate(self) -> None:
        self._local.rotate()

    def forget_old(self) -> None:
        self._path.write_text(self._path.read_text().splitlines()[-1] + "\n")

    def lose(self) -> None:
        self._path.unlink()
        self._local.rotate()

    def stored(self) -> bytes:
        return self._path.read_bytes()

    def close(self) -> None:
        pass


class KmsKeys:
    """A key of the server; it is lost when the operator has to name another one."""

    def __init__(self, server: kms.KmsServer) -> None:
        self._server = server
        self._versions = 1
        self._name(kms.KEY)

    def _name(self, key: str) -> None:
        self._kms = KmsKeyRing(
            key, sleep=lambda _: None, random=random.random, emulator=self._server.host
        )
        self.ring: KeyRing = self._kms

    def rotate(self) -> None:
        self._versions = self._server.rotate()

    def forget_old(self) -> None:
        for version in range(1, self._versions):
            self._server.put("DESTROYED", version=version)

    def lose(self) -> None:
        another = f"{kms.KEY}-2"
        self._server.rotate(another)
        self.close()
        self._name(another)

    def stored(self) -> bytes:
        return b""

    def close(self) -> None:
        self._kms.close()


class Backend(Protocol):
    """One vault with its store and its keys, which can be looked at and tampered with."""

    vault: Vault
    keys: Keys
    ring: CountingRing
    now: datetime

    def restart(self) -> None:
        """Another process on the same store: nothing is cached."""

    def sealed(self, place: Place, version: int) -> bytes: ...

    def replace(self, place: Place, version: int, sealed: bytes) -> None: ...

    def copy_data_key(self, source: str, target: str) -> None:
        """Puts one organization's wrapped data key in the place of another's."""

    def disconnect(self) -> None: ...

    def stored(self) -> bytes:
        """Every byte at rest: database, journal, key file."""

    def close(self) -> None: ...


class SqliteBackend:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.keys: Keys = FileKeys(folder)
        self.now = NOON
        self._open()

    def _open(self) -> None:
        self._journal = Journal(self._folder / "state.db")
        self.ring = CountingRing(self.keys.ring)
        self.vault: Vault = SqliteVault(self._journal, self.ring, lambda: self.now)

    def restart(self) -> None:
        self._journal.close()
        self._open()

    def sealed(self, place: Place, version: int) -> bytes:
        row = self._journal.read(
            lambda db: db.execute(
                "SELECT sealed FROM credential_versions "
                "WHERE (org, provider, credential_id, version) = (?, ?, ?, ?)",
                (*place, version),
            ).fetchone()
        )
        return bytes(row[0])

    def replace(self, place: Place, version: int, sealed: bytes) -> None:
        def replace(db: sqlite3.Connection) -> int:
            return db.execute(
                "UPDATE credential_versions SET sealed = ? "
                "WHERE (org, provider, credential_id, version) = (?, ?, ?, ?)",
                (sealed, *place, version),
            ).rowcount

        assert self._journal.write(replace) == 1

    def copy_data_key(self, source: str, target: str) -> None:
        def copy_key(db: sqlite3.Connection) -> int:
            return db.execute(
                "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE org = ?) "
                "WHERE org = ?",
                (source, target),
            ).rowcount

        assert self._journal.write(copy_key) == 1

    def disconnect(self) -> None:
        self._journal.close()

    def stored(self) -> bytes:
        self._journal.sync()
        return b"".join(path.read_bytes() for path in self._folder.iterdir())

    def close(self) -> None:
        self._journal.close()


class FirestoreBackend:
    def __init__(self, keys: Keys, host: str, project: str) -> None:
        self._place = host, project
        self.keys = keys
        self.now = NOON
        self._open()

    def _open(self) -> None:
        self._database = firestore_database(*self._place)
        self.ring = CountingRing(self.keys.ring)
        self.vault: Vault = FirestoreVault(
            self._database,
            self.ring,
            now=lambda: self.now,
            new_id=new_id,
            sleep=time.sleep,
            random=random.random,
        )

    def restart(self) -> None:
        self._database.close()
        self._open()

    def _version(self, place: Place, version: int) -> Stored:
        org, provider, credential_id = place
        path = ("vault", org, "credentials", f"{provider}|{credential_id}")
        older = (*path, "versions", str(version))
        found = self._database.get([path, older])
        return found.get(older) or found[path]

    def sealed(self, place: Place, version: int) -> bytes:
        stored = self._version(place, version)
        assert stored.fields["version"] == version
        sealed: bytes = stored.fields["sealed"]
        return sealed

    def replace(self, place: Place, version: int, sealed: bytes) -> None:
        path = self._version(place, version).path
        assert self._database.commit("tamper", changed(path, {("sealed",): sealed})).versions

    def copy_data_key(self, source: str, target: str) -> None:
        keys = self._database.get([("vault", source)])["vault", source].fields["keys"]
        assert self._database.commit(
            "tamper", changed(("vault", target), {("keys",): keys})
        ).versions

    def disconnect(self) -> None:
        self._database.close()

    def stored(self) -> bytes:
        documents = everything(self._database)
        assert b"sealed" in documents
        assert b"versions" in documents
        return documents + self.keys.stored()

    def close(self) -> None:
        self._database.close()
        self.keys.close()


def _sqlite(request: pytest.FixtureRequest, folder: Path) -> Backend:
    return SqliteBackend(folder)


def _on_firestore(request: pytest.FixtureRequest, keys: Keys) -> Backend:
    emulator, project = map(request.getfixturevalue, ("firestore_emulator", "firestore_project"))
    return FirestoreBackend(keys, emulator.host, project)


def _firestore(request: pytest.FixtureRequest, folder: Path) -> Backend:
    return _on_firestore(request, FileKeys(folder))


def _kms(request: pytest.FixtureRequest, folder: Path) -> Backend:
    return _on_firestore(request, KmsKeys(request.getfixturevalue("kms_server")))


BACKENDS = {"sqlite": _sqlite, "firestore": _firestore, "kms": _kms}
EVERY = ["sqlite", pytest.param("firestore", marks=pytest.mark.cloud)]
# Where the ring matters, also as on Google Cloud: Firestore with its data keys wrapped by Cloud KMS.
EVERY_RING = [*EVERY, pytest.param("kms", marks=pytest.mark.cloud)]
over_every_ring = pytest.mark.parametrize("backend", EVERY_RING, indirect=True)


@pytest.fixture
def kms_server() -> Iterator[kms.KmsServer]:
    made = kms.KmsServer()
    yield made
    made.stop()


@pytest.fixture(params=EVERY)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made = BACKENDS[request.param](request, tmp_path)
    yield made
    made.close()


@pytest.fixture
def vault(backend: Backend) -> Vault:
    return backend.vault


def put(vault: Vault, place: Place = ACME, secret: str = CANARY) -> None:
    vault.put(*place, Secret(secret), {})


def value(vault: Vault, place: Place = ACME) -> str:
    return vault.open(*place).secret.reveal().decode()


# --- credentials and their versions ---


@over_every_ring
def test_what_is_put_is_opened_also_after_a_restart(backend: Backend) -> None:
    put(backend.vault)
    assert value(backend.vault) == CANARY
    backend.restart()
    assert value(backend.vault) == CANARY


@pytest.mark.parametrize("secret", [b"\0", bytes(range(256)), "ключ\n".encode(), b"x" * 65_536])
def test_any_bytes_are_kept_as_they_are(vault: Vault, secret: bytes) -> None:
    vault.put(*ACME, Secret(secret), {})
    assert vault.open(*ACME).secret.reveal() == secret


def test_what_may_be_shown_is_shown(backend: Backend, vault: Vault) -> None:
    metadata = {"bucket": "exports", "accounts": [1, 2], "nested": {"a": None}}
    made = vault.put(*ACME, Secret(CANARY), metadata)
    assert (made.org, made.provider, made.credential_id) == ACME
    assert (made.version, made.active, made.metadata) == (1, True, metadata)
    assert made.created_at == made.updated_at == NOON
    assert vault.info(*ACME) == made
    assert vault.find("acme", "openai") == [made]
    assert vault.open(*ACME).info == made


def test_a_second_put_is_a_new_version_and_the_first_is_kept(
    backend: Backend, vault: Vault
) -> None:
    put(vault, secret="first-secret")
    backend.now += timedelta(hours=1)
    made = vault.put(*ACME, Secret("second-secret"), {"region": "eu"})
    assert (made.version, made.created_at, made.updated_at) == (
        2,
        NOON,
        NOON + timedelta(hours=1),
    )
    assert vault.info(*ACME) == made
    assert value(vault) == "second-secret"
    assert backend.sealed(ACME, 1) != backend.sealed(ACME, 2)


def test_credentials_are_found_by_organization_and_provider_in_order_of_id(vault: Vault) -> None:
    for place in (
        ("acme", "openai", "b"),
        ("acme", "openai", "a"),
        ("acme", "gemini", "c"),
        ("acme", "open", "e"),
        ("beta", "openai", "d"),
    ):
        put(vault, place)
    assert [info.credential_id for info in vault.find("acme", "openai")] == ["a", "b"]
    assert vault.find("acme", "aws") == []
    assert vault.find("nobody", "openai") == []
    assert [(info.provider, info.credential_id) for info in vault.find("acme")] == [
        ("gemini", "c"),
        ("open", "e"),
        ("openai", "a"),
        ("openai", "b"),
    ]
    assert vault.find("nobody") == []


def test_a_deactivated_credential_is_out_of_use_until_it_is_stored_again(vault: Vault) -> None:
    put(vault)
    assert vault.deactivate(*ACME)
    assert not vault.deactivate(*ACME)
    assert vault.info(*ACME) is None
    assert vault.find("acme", "openai") == []
    with pytest.raises(Terminal, match="store the credential again"):
        vault.open(*ACME)
    made = vault.put(*ACME, Secret("new-secret"), {})
    assert (made.version, made.active) == (2, True)
    assert value(vault) == "new-secret"


def test_what_was_never_stored_is_terminal_and_named(vault: Vault) -> None:
    put(vault)
    for place in (
        ("beta", "openai", "main"),
        ("acme", "gemini", "main"),
        ("acme", "openai", "mainn"),
    ):
        assert vault.info(*place) is None
        assert not vault.deactivate(*place)
        with pytest.raises(Terminal, match=place[2]):
            vault.open(*place)


@over_every_ring
def test_threads_that_are_all_first_share_one_data_key(backend: Backend) -> None:
    start = threading.Barrier(16)

    def first(number: int) -> None:
        start.wait()
        put(backend.vault, ("acme", "openai", f"c{number}"), f"secret-{number}")

    threads = [threading.Thread(target=first, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backend.restart()
    for number in range(16):
        assert value(backend.vault, ("acme", "openai", f"c{number}")) == f"secret-{number}"
    assert backend.vault.rewrap("acme") == 1


def test_threads_that_store_one_credential_make_a_version_each(vault: Vault) -> None:
    put(vault)
    threads = [threading.Thread(target=put, args=(vault,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    info = vault.info(*ACME)
    assert info is not None
    assert info.version == 9
    assert value(vault) == CANARY


def test_a_fault_of_the_store_is_unavailable_and_not_a_missing_credential(
    backend: Backend,
) -> None:
    put(backend.vault)
    backend.disconnect()
    with pytest.raises(Unavailable):
        backend.vault.open(*ACME)
    with pytest.raises(Unavailable):
        put(backend.vault)


# --- bad input ---


def test_all_faults_of_a_credential_are_told_at_once(vault: Vault) -> None:
    with pytest.raises(Invalid) as caught:
        vault.put("A", "open ai", "a|b", Secret(""), {"when": object()})
    assert [fault.where for fault in caught.value.faults] == [
        "org",
        "provider",
        "credential_id",
        "secret",
        "metadata",
    ]


def test_none_is_no_name_of_a_credential_because_it_means_that_there_is_none(
    vault: Vault,
) -> None:
    with pytest.raises(Invalid):
        put(vault, ("acme", "openai", "none"))


@pytest.mark.parametrize("secret", [CANARY, '{\n  "private_key": "abc"\n}\n'])
def test_metadata_with_the_secret_in_it_is_refused(vault: Vault, secret: str) -> None:
    with pytest.raises(Invalid) as caught:
        vault.put(*ACME, Secret(secret), {"note": f"the key is {secret}"})
    assert secret not in told(caught.value)
    with pytest.raises(Invalid):
        vault.put(*ACME, Secret(secret), {"secret": Secret(secret)})
    assert vault.info(*ACME) is None


def test_what_is_too_large_is_refused(vault: Vault) -> None:
    with pytest.raises(Invalid):
        vault.put(*ACME, Secret(b"x" * 65_537), {})
    with pytest.raises(Invalid):
        vault.put(*ACME, Secret(CANARY), {"note": "x" * 20_000})


# --- sealed: moved, cut, altered ---


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(("beta", "openai", "main"), id="to another organization"),
        pytest.param(("acme", "gemini", "main"), id="to another provider"),
        pytest.param(("acme", "openai", "spare"), id="to another credential"),
    ],
)
def test_a_blob_moved_to_another_place_does_not_open(backend: Backend, other: Place) -> None:
    put(backend.vault, ACME)
    put(backend.vault, other, "another-secret")
    backend.replace(other, 1, backend.sealed(ACME, 1))
    with pytest.raises(Terminal, match="copied from another place: store the credential again"):
        backend.vault.open(*other)
    assert value(backend.vault) == CANARY


@over_every_ring
def test_a_blob_moved_with_its_data_key_does_not_open_either(backend: Backend) -> None:
    other = ("beta", "openai", "main")
    put(backend.vault, ACME)
    put(backend.vault, other, "another-secret")
    backend.replace(other, 1, backend.sealed(ACME, 1))
    backend.copy_data_key("acme", "beta")
    backend.restart()
    with pytest.raises(Terminal):
        backend.vault.open(*other)


@over_every_ring
def test_a_data_key_moved_to_another_organization_does_not_open(backend: Backend) -> None:
    put(backend.vault, ACME)
    put(backend.vault, ("beta", "openai", "main"))
    backend.copy_data_key("acme", "beta")
    backend.restart()
    with pytest.raises(Terminal, match="copied from another place"):
        backend.vault.rewrap("beta")
    assert backend.vault.rewrap("acme") == 1


def test_an_old_version_put_in_the_place_of_the_new_one_does_not_open(backend: Backend) -> None:
    put(backend.vault, secret="revoked-secret")
    put(backend.vault, secret="current-secret")
    backend.replace(ACME, 2, backend.sealed(ACME, 1))
    with pytest.raises(Terminal):
        backend.vault.open(*ACME)


def test_every_truncated_blob_is_terminal_and_says_what_to_do(backend: Backend) -> None:
    put(backend.vault)
    whole = backend.sealed(ACME, 1)
    for length in range(len(whole)):
        backend.replace(ACME, 1, whole[:length])
        with pytest.raises(Terminal, match="store the credential again") as caught:
            backend.vault.open(*ACME)
        assert "'main'" in str(caught.value)
    backend.replace(ACME, 1, whole)
    assert value(backend.vault) == CANARY


def test_every_altered_byte_is_terminal(backend: Backend) -> None:
    put(backend.vault)
    whole = backend.sealed(ACME, 1)
    for at in range(len(whole)):
        backend.replace(ACME, 1, whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
        with pytest.raises(Terminal):
            backend.vault.open(*ACME)


def test_a_format_of_a_newer_release_is_said(backend: Backend) -> None:
    put(backend.vault)
    backend.replace(ACME, 1, b"\x02" + backend.sealed(ACME, 1)[1:])
    with pytest.raises(Terminal, match="newer release"):
        backend.vault.open(*ACME)


def test_the_same_secret_sealed_twice_looks_different(backend: Backend) -> None:
    put(backend.vault)
    put(backend.vault)
    assert backend.sealed(ACME, 1)[1:13] != backend.sealed(ACME, 2)[1:13]


def test_two_places_never_share_a_context() -> None:
    with pytest.raises(ValueError, match=r"no '\|'"):
        credential_context("acme", "a|b", "c", 1)
    assert credential_context("acme", "a", "b", 1) == b"acme|a|b|1"


# --- data keys ---


@over_every_ring
def test_the_ring_is_asked_once_in_some_minutes(backend: Backend) -> None:
    put(backend.vault)
    put(backend.vault, ("acme", "openai", "spare"))
    backend.restart()
    for _ in range(20):
        value(backend.vault)
        value(backend.vault, ("acme", "openai", "spare"))
    assert backend.ring.unwrapped == 1
    backend.now += KEEP_KEY
    value(backend.vault)
    assert backend.ring.unwrapped == 2
    assert timedelta(minutes=10) >= KEEP_KEY


@over_every_ring
def test_rewrapping_moves_the_data_key_to_the_rings_newest_key(backend: Backend) -> None:
    put(backend.vault)
    put(backend.vault, ("beta", "openai", "main"))
    sealed = backend.sealed(ACME, 1)
    backend.keys.rotate()
    assert backend.vault.rewrap("acme") == 1
    backend.keys.forget_old()
    backend.restart()
    assert value(backend.vault) == CANARY
    assert backend.sealed(ACME, 1) == sealed
    with pytest.raises((Terminal, Unavailable)):  # KMS does not tell destroyed from disabled
        backend.vault.open("beta", "openai", "main")  # nobody rewrapped it


def test_rewrapping_nothing_is_nothing(vault: Vault) -> None:
    assert vault.rewrap("nobody") == 0


@over_every_ring
def test_a_credential_stored_again_opens_after_the_keys_were_lost(backend: Backend) -> None:
    put(backend.vault)
    put(backend.vault, ("acme", "openai", "spare"))
    backend.keys.lose()
    backend.restart()
    with pytest.raises(Terminal, match="store the credential again"):
        backend.vault.open(*ACME)
    put(backend.vault, secret="stored-again")
    backend.restart()
    assert value(backend.vault) == "stored-again"
    with pytest.raises(Terminal):
        backend.vault.open("acme", "openai", "spare")
    with pytest.raises(Terminal):
        backend.vault.rewrap("acme")  # the lost one; the new one is done
    assert value(backend.vault) == "stored-again"


@pytest.mark.parametrize("backend", [pytest.param("kms", marks=pytest.mark.cloud)], indirect=True)
def test_twenty_steps_ask_kms_once(backend: Backend, kms_server: kms.KmsServer) -> None:
    put(backend.vault)
    assert kms_server.calls == {"encrypt": 1, "decrypt": 1}
    backend.restart()
    kms_server.calls.clear()
    for _ in range(20):
        value(backend.vault)
    assert kms_server.calls == {"decrypt": 1}


@pytest.mark.parametrize("backend", [pytest.param("kms", marks=pytest.mark.cloud)], indirect=True)
def test_while_kms_is_gone_or_refuses_nothing_is_lost_and_no_new_data_key_is_made(
    backend: Backend, kms_server: kms.KmsServer
) -> None:
    put(backend.vault)
    for faults in ([kms.Fault.REFUSED] * TRIES, [kms.Fault.DENIED], []):
        kms_server.put("ENABLED" if faults else "DISABLED", version=1)
        for call in (put, value):
            backend.restart()
            kms_server.faults.extend(faults)
            with pytest.raises(Unavailable, match=kms.KEY):
                call(backend.vault)
    backend.restart()
    kms_server.put("ENABLED", version=1)
    assert value(backend.vault) == CANARY
    assert backend.vault.rewrap("acme") == 1


# --- the canary: nothing secret is anywhere ---


def told(error: BaseException) -> str:
    """Everything an error tells, with what it was raised from."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))


def forms(secret: str) -> list[bytes]:
    raw = secret.encode()
    whole = base64.b64encode(raw)
    return [
        raw,
        raw[:12],
        raw[-12:],
        raw[::-1],
        whole[:16],
        base64.urlsafe_b64encode(raw)[:16],
        base64.b64encode(b"\0" + raw)[4:20],
        base64.b64encode(b"\0\0" + raw)[4:20],
        raw.hex().encode(),
        raw.hex().upper().encode(),
        secret.encode("utf-16-le"),
    ]


def test_a_secret_is_nowhere_in_what_is_stored(backend: Backend) -> None:
    put(backend.vault, secret="an-earlier-" + CANARY)
    backend.vault.put(*ACME, Secret(CANARY), {"bucket": "exports"})
    backend.vault.open(*ACME)
    backend.vault.deactivate(*ACME)
    stored = backend.stored()
    backend.restart()
    for data in (stored, backend.stored()):
        assert b"exports" in data
        assert [form for form in forms(CANARY) if form in data] == []


def test_a_secret_is_nowhere_in_what_is_returned(vault: Vault) -> None:
    info = vault.put(*ACME, Secret(CANARY), {"bucket": "exports"})
    credential = vault.open(*ACME)
    shown = [
        f"{found!r} {found!s} {found}"
        for found in (info, vault.info(*ACME), vault.find("acme", "openai"))
    ]
    shown += [repr(credential), str(credential), f"{credential}", repr(vault), repr(vars(vault))]
    shown += [msgspec.json.encode(info).decode(), repr(pickle.dumps(info))]
    shown += ["%s %r" % (credential.secret, credential.secret)]  # noqa: UP031 -- as logging does it
    for text in shown:
        assert [form for form in forms(CANARY) if form in text.encode()] == []


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(json.dumps, id="json"),
        pytest.param(msgspec.json.encode, id="msgspec"),
        pytest.param(msgspec.msgpack.encode, id="msgpack"),
        pytest.param(pickle.dumps, id="pickle"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(lambda credential: f"{credential.secret}", id="f-string"),
        pytest.param(lambda credential: str.format("{}", credential.secret), id="format"),
        pytest.param(lambda credential: format(credential.secret, "s"), id="spec"),
        pytest.param(lambda credential: {credential.secret: 1}, id="hash"),
    ],
)
def test_an_opened_credential_cannot_leave_as_a_text(
    vault: Vault, write: Callable[[object], object]
) -> None:
    put(vault)
    credential = vault.open(*ACME)
    with pytest.raises(TypeError) as caught:
        write(credential)
    assert CANARY not in told(caught.value)


@over_every_ring
def test_a_secret_is_in_no_error(backend: Backend) -> None:
    vault = backend.vault
    secret = Secret(CANARY)
    put(vault)
    whole = backend.sealed(ACME, 1)

    def tampered(sealed: bytes) -> Callable[[], object]:
        def call() -> object:
            backend.replace(ACME, 1, sealed)
            return vault.open(*ACME)

        return call

    def lost() -> object:
        backend.keys.lose()
        backend.restart()
        return backend.vault.open(*ACME)

    def gone() -> object:
        backend.disconnect()
        return backend.vault.put(*ACME, secret, {})

    calls: list[Callable[[], object]] = [
        lambda: vault.put("acme", "openai", CANARY + " ", secret, {}),  # in the wrong place
        lambda: vault.put("acme", CANARY + "!", "main", secret, {}),
        lambda: vault.put(CANARY, "openai", "main", secret, {}),
        lambda: vault.put(*ACME, secret, {"note": CANARY}),
        lambda: vault.put(*ACME, secret, {"note": secret}),
        lambda: vault.put(*ACME, Secret(CANARY * 4000), {}),
        tampered(whole[:-1]),
        tampered(whole[:20]),
        tampered(b"\x02" + whole[1:]),
        lost,
        gone,
    ]
    for call in calls:
        with pytest.raises(PipelinesError) as caught:
            call()
        # the source lines that a traceback quotes name CANARY, never its value
        assert [form for form in forms(CANARY) if form in told(caught.value).encode()] == []
