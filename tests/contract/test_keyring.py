"""What every key ring promises, then what only the key file does, and what only Cloud KMS."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.errors import ConfigError, PipelinesError, Terminal, Unavailable
from shared.vault import KeyRing
from shared.vault.kms import TRIES, KmsKeyRing
from shared.vault.local import LocalKeyRing
from tests.support import kms
from tests.support.kms import Fault, KmsServer

KEY = bytes(range(32))


def key_file(request: pytest.FixtureRequest) -> KeyRing:
    folder: Path = request.getfixturevalue("tmp_path")
    return LocalKeyRing(folder / "keys" / "vault.key")


def cloud_kms(request: pytest.FixtureRequest) -> KeyRing:
    ring: KmsKeyRing = request.getfixturevalue("kms_ring")
    return ring


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], KeyRing]] = {
    "local": key_file,
    "kms": cloud_kms,
}


@pytest.fixture(params=["local", pytest.param("kms", marks=pytest.mark.cloud)])
def ring(request: pytest.FixtureRequest) -> KeyRing:
    return BACKENDS[request.param](request)


@pytest.fixture
def server() -> Iterator[KmsServer]:
    made = KmsServer()
    yield made
    made.stop()


def client(server: KmsServer, key: str = kms.KEY, timeout_seconds: float = 3.0) -> KmsKeyRing:
    return KmsKeyRing(
        key,
        sleep=lambda _: None,
        random=random.random,
        emulator=server.host,
        timeout_seconds=timeout_seconds,
    )


@pytest.fixture
def kms_ring(server: KmsServer) -> Iterator[KmsKeyRing]:
    made = client(server)
    yield made
    made.close()


def test_what_is_wrapped_unwraps_in_the_same_context(ring: KeyRing) -> None:
    assert ring.unwrap(ring.wrap(KEY, b"acme"), b"acme") == KEY


def test_another_context_does_not_unwrap(ring: KeyRing) -> None:
    wrapped = ring.wrap(KEY, b"acme")
    for context in (b"", b"beta", b"acme ", b"acm"):
        with pytest.raises(Terminal):
            ring.unwrap(wrapped, context)


def test_a_wrapped_key_says_nothing_of_the_key_and_is_new_every_time(ring: KeyRing) -> None:
    first, second = ring.wrap(KEY, b"acme"), ring.wrap(KEY, b"acme")
    assert first != second
    for wrapped in (first, second):
        assert all(KEY[at : at + 4] not in wrapped for at in range(29))


def test_every_cut_or_altered_wrapping_is_terminal(ring: KeyRing) -> None:
    wrapped = ring.wrap(KEY, b"acme")
    cut = [wrapped[:length] for length in range(len(wrapped))]
    flipped = [
        wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :] for at in range(len(wrapped))
    ]
    for damaged in (*cut, *flipped, wrapped + b"\0", b"\xff" * len(wrapped)):
        with pytest.raises(Terminal):
            ring.unwrap(damaged, b"acme")


# --- the key file ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vault.key"


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_the_key_file_is_made_on_the_first_wrap_for_its_owner_alone(path: Path) -> None:
    ring = LocalKeyRing(path)
    assert not path.exists()
    ring.wrap(KEY, b"acme")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert len(lines(path)) == 1


def test_a_key_ring_survives_its_process(path: Path) -> None:
    wrapped = LocalKeyRing(path).wrap(KEY, b"acme")
    assert LocalKeyRing(path).unwrap(wrapped, b"acme") == KEY


def test_threads_that_are_all_first_make_one_key(path: Path) -> None:
    wrapped: list[bytes] = []
    start = threading.Barrier(32)

    def first() -> None:
        start.wait()
        wrapped.append(LocalKeyRing(path).wrap(KEY, b"acme"))

    threads = [threading.Thread(target=first) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(path)) == 1
    assert [LocalKeyRing(path).unwrap(each, b"acme") for each in wrapped] == [KEY] * 32


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_key_file_that_others_may_read_is_refused_with_the_command_that_mends_it(
    path: Path, mode: int
) -> None:
    ring = LocalKeyRing(path)
    wrapped = ring.wrap(KEY, b"acme")
    path.chmod(mode)
    for call in (
        lambda: ring.wrap(KEY, b"acme"),
        lambda: ring.unwrap(wrapped, b"acme"),
        ring.rotate,
    ):
        with pytest.raises(Unavailable, match=f"chmod 600 {path}"):
            call()
    path.chmod(0o600)
    assert ring.unwrap(wrapped, b"acme") == KEY


def test_a_missing_key_file_is_asked_for_and_not_made_anew(path: Path) -> None:
    ring = LocalKeyRing(path)
    wrapped = ring.wrap(KEY, b"acme")
    path.unlink()
    with pytest.raises(Unavailable, match="put it back"):
        ring.unwrap(wrapped, b"acme")
    assert not path.exists()


def test_another_key_file_is_terminal_and_says_what_to_do(path: Path) -> None:
    wrapped = LocalKeyRing(path).wrap(KEY, b"acme")
    path.unlink()
    LocalKeyRing(path).wrap(KEY, b"acme")
    with pytest.raises(Terminal, match="add the lines of the key file"):
        LocalKeyRing(path).unwrap(wrapped, b"acme")


def test_a_rotation_wraps_with_the_new_key_and_unwraps_with_the_old(path: Path) -> None:
    ring = LocalKeyRing(path)
    old = ring.wrap(KEY, b"acme")
    key_id = ring.rotate()
    new = ring.wrap(KEY, b"acme")
    assert new.startswith(key_id.encode())
    assert not old.startswith(key_id.encode())
    assert ring.unwrap(old, b"acme") == ring.unwrap(new, b"acme") == KEY
    assert path.stat().st_mode & 0o777 == 0o600
    only_new = [line for line in lines(path) if line.startswith(key_id)]
    path.write_text("\n".join(only_new))  # the old key thrown away, no newline at the end
    assert ring.unwrap(new, b"acme") == KEY
    with pytest.raises(Terminal):
        ring.unwrap(old, b"acme")
    ring.rotate()
    assert ring.unwrap(new, b"acme") == KEY
    assert len(lines(path)) == 2


def test_the_first_rotation_makes_the_file(path: Path) -> None:
    key_id = LocalKeyRing(path).rotate()
    assert [line.split()[0] for line in lines(path)] == [key_id]


def test_rotations_at_once_all_stay(path: Path) -> None:
    LocalKeyRing(path).wrap(KEY, b"acme")
    threads = [threading.Thread(target=LocalKeyRing(path).rotate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(path)) == 9


@pytest.mark.parametrize("damage", ["cut", "altered", "words", "not base64", "empty"])
def test_a_damaged_key_file_is_refused_by_line_without_showing_it(path: Path, damage: str) -> None:
    ring = LocalKeyRing(path)
    ring.wrap(KEY, b"acme")
    ring.rotate()
    kept, text = path.read_text().rsplit("\n", 2)[:2]
    number = kept.count("\n") + 2
    damaged = {
        "cut": text[:-7],
        "altered": text[:12] + ("A" if text[12] != "A" else "B") + text[13:],
        "words": "put the key here",
        "not base64": text.replace("=", "") + "é",
        "empty": "",
    }[damage]
    path.write_text("" if damage == "empty" else f"{kept}\n{damaged}\n")
    with pytest.raises(Unavailable) as caught:
        ring.wrap(KEY, b"acme")
    where = f"{path}:" if damage == "empty" else f"{path}:{number}:"
    assert str(caught.value).startswith(where)
    assert text[10:30] not in str(caught.value)
    before = path.read_text()
    with pytest.raises(Unavailable):
        ring.rotate()
    assert path.read_text() == before


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ring = LocalKeyRing(tmp_path / "file" / "vault.key")
    with pytest.raises(Unavailable, match=r"vault\.key: cannot"):
        ring.wrap(KEY, b"acme")


def test_a_key_ring_shows_only_its_path(path: Path) -> None:
    ring = LocalKeyRing(path)
    ring.wrap(KEY, b"acme")
    key = lines(path)[0].split()[1]
    assert str(path) in repr(ring)
    assert key not in f"{ring!r} {vars(ring)}"


# --- Cloud KMS ---


def both(ring: KeyRing, wrapped: bytes) -> list[Callable[[], bytes]]:
    return [lambda: ring.wrap(KEY, b"acme"), lambda: ring.unwrap(wrapped, b"acme")]


@pytest.mark.cloud
def test_after_a_rotation_kms_wraps_with_the_new_version_and_unwraps_with_the_old(
    kms_ring: KmsKeyRing, server: KmsServer
) -> None:
    old = kms_ring.wrap(KEY, b"acme")
    version = server.rotate()
    new = kms_ring.wrap(KEY, b"acme")
    assert kms_ring.unwrap(old, b"acme") == kms_ring.unwrap(new, b"acme") == KEY
    server.put("DISABLED", version=version - 1)
    assert kms_ring.unwrap(new, b"acme") == KEY
    with pytest.raises(Unavailable):
        kms_ring.unwrap(old, b"acme")


@pytest.mark.cloud
@pytest.mark.parametrize("state", ["DISABLED", "DESTROY_SCHEDULED", "DESTROYED"])
def test_a_version_that_is_not_enabled_is_not_taken_for_a_lost_key(
    kms_ring: KmsKeyRing, server: KmsServer, state: str
) -> None:
    wrapped = kms_ring.wrap(KEY, b"acme")
    server.put(state, version=1)
    server.calls.clear()
    for call in both(kms_ring, wrapped):
        with pytest.raises(Unavailable, match="enable the version that it names, or restore it"):
            call()
    assert server.calls == {"encrypt": 1, "decrypt": 1}  # no use in asking again
    server.put("ENABLED", version=1)
    assert kms_ring.unwrap(wrapped, b"acme") == KEY


@pytest.mark.cloud
def test_a_right_that_is_missing_is_named_with_the_key(
    kms_ring: KmsKeyRing, server: KmsServer
) -> None:
    wrapped = kms_ring.wrap(KEY, b"acme")
    for call in both(kms_ring, wrapped):
        server.faults.append(Fault.DENIED)
        with pytest.raises(Unavailable, match="cryptoKeyEncrypterDecrypter") as caught:
            call()
        assert kms.KEY in str(caught.value)
        assert call()


@pytest.mark.cloud
def test_a_key_that_is_not_there_is_the_operators_to_mend(server: KmsServer) -> None:
    ring = client(server, f"{kms.KEY}-elsewhere")
    for call in both(ring, b"wrapped"):
        with pytest.raises(Unavailable, match=r"-elsewhere: .*there is no such key"):
            call()
    ring.close()


@pytest.mark.cloud
def test_what_another_key_wrapped_is_terminal_and_says_what_to_do(
    kms_ring: KmsKeyRing, server: KmsServer
) -> None:
    server.rotate(f"{kms.KEY}-2")
    other = client(server, f"{kms.KEY}-2")
    with pytest.raises(Terminal, match="name the key that wrapped it") as caught:
        other.unwrap(kms_ring.wrap(KEY, b"acme"), b"acme")
    assert caught.value.code == "unsealable"
    other.close()


@pytest.mark.cloud
@pytest.mark.parametrize(
    "fault",
    [Fault.REFUSED, Fault.BUSY, Fault.DAMAGED_REQUEST, Fault.DAMAGED_ANSWER],
)
def test_what_waiting_mends_is_asked_again_and_noticed_by_nobody(
    kms_ring: KmsKeyRing, server: KmsServer, fault: Fault
) -> None:
    server.faults.extend([fault] * (TRIES - 1))
    wrapped = kms_ring.wrap(KEY, b"acme")
    server.faults.extend([fault] * (TRIES - 1))
    assert kms_ring.unwrap(wrapped, b"acme") == KEY
    assert server.calls == {"encrypt": TRIES, "decrypt": TRIES}


@pytest.mark.cloud
@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.BUSY, Fault.DAMAGED_ANSWER])
def test_what_does_not_mend_is_unavailable_and_never_a_key(
    kms_ring: KmsKeyRing, server: KmsServer, fault: Fault
) -> None:
    wrapped = kms_ring.wrap(KEY, b"acme")
    for call in both(kms_ring, wrapped):
        server.faults.extend([fault] * TRIES)
        with pytest.raises(Unavailable, match=kms.KEY):
            call()
        assert not server.faults


@pytest.mark.cloud
@pytest.mark.parametrize("fault", [Fault.KEY_UNVERIFIED, Fault.CONTEXT_UNVERIFIED])
def test_a_key_that_kms_did_not_get_whole_is_not_taken_for_wrapped(
    kms_ring: KmsKeyRing, server: KmsServer, fault: Fault
) -> None:
    server.faults.append(fault)
    wrapped = kms_ring.wrap(KEY, b"acme")
    assert server.calls["encrypt"] == 2
    assert kms_ring.unwrap(wrapped, b"acme") == KEY
    server.faults.extend([fault] * TRIES)
    with pytest.raises(Unavailable, match="damaged on its way"):
        kms_ring.wrap(KEY, b"acme")


@pytest.mark.cloud
def test_a_server_that_does_not_answer_is_unavailable_within_its_tries(server: KmsServer) -> None:
    ring = client(server, timeout_seconds=0.3)
    server.faults.extend([Fault.SLOW] * TRIES)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="waiting may help"):
        ring.wrap(KEY, b"acme")
    assert time.monotonic() - began < 20
    ring.close()


@pytest.mark.cloud
def test_no_server_at_all_is_unavailable_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host = "{}:{}".format(*closed.getsockname())
    ring = KmsKeyRing(kms.KEY, sleep=time.sleep, random=random.random, emulator=host)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="waiting may help"):
        ring.unwrap(b"wrapped", b"acme")
    assert time.monotonic() - began < 20
    ring.close()


@pytest.mark.cloud
def test_a_server_that_comes_back_is_found_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port: int = closed.getsockname()[1]
    ring = KmsKeyRing(kms.KEY, sleep=time.sleep, random=random.random, emulator=f"127.0.0.1:{port}")
    for _ in range(10):  # by itself gRPC waits longer and longer for the next try
        with pytest.raises(Unavailable):
            ring.wrap(KEY, b"acme")
    back = KmsServer(port)
    until = time.monotonic() + 10
    wrapped = b""
    while not wrapped and time.monotonic() < until:
        with contextlib.suppress(Unavailable):
            wrapped = ring.wrap(KEY, b"acme")
    assert ring.unwrap(wrapped, b"acme") == KEY
    ring.close()
    back.stop()


@pytest.mark.cloud
def test_threads_that_are_all_first_share_one_connection(
    kms_ring: KmsKeyRing, server: KmsServer
) -> None:
    wrapped: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: wrapped.append(kms_ring.wrap(KEY, b"acme")))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [kms_ring.unwrap(each, b"acme") for each in wrapped] == [KEY] * 16


@pytest.mark.cloud
def test_a_closed_ring_is_unavailable_and_closing_twice_is_once(kms_ring: KmsKeyRing) -> None:
    wrapped = kms_ring.wrap(KEY, b"acme")
    for _ in range(2):
        kms_ring.close()
        with pytest.raises(Unavailable, match="closed"):
            kms_ring.unwrap(wrapped, b"acme")


@pytest.mark.cloud
def test_no_error_of_kms_has_the_data_key_in_it(kms_ring: KmsKeyRing, server: KmsServer) -> None:
    key = b"sk-canary-7Qd0vXw3ZrB9mN5tLk2Hab"
    server.put("DISABLED", version=1)
    calls = [[], [Fault.DENIED], [Fault.REFUSED] * TRIES, [Fault.DAMAGED_REQUEST] * TRIES]
    for faults in calls:
        server.faults.extend(faults)
        with pytest.raises(PipelinesError) as caught:
            kms_ring.wrap(key, b"acme")
        assert key.decode() not in f"{caught.value!r} {caught.value.__cause__!r} {kms_ring!r}"


@pytest.mark.parametrize(
    "name",
    ["", "credentials", f"{kms.KEY}/cryptoKeyVersions/1", f"/{kms.KEY}", f"{kms.KEY}\n"],
)
def test_a_name_that_no_key_has_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(ConfigError, match="no key of Cloud KMS"):
        KmsKeyRing(name, sleep=time.sleep, random=random.random)


def test_kms_is_imported_by_who_asks_it_only() -> None:
    script = (
        "import sys; from shared.vault.kms import KmsKeyRing; "
        f"KmsKeyRing({kms.KEY!r}, sleep=None, random=None); "
        "sys.exit(any(name in sys.modules for name in ('google.auth', 'grpc', 'google_crc32c')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
