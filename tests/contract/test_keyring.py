"""What every key ring promises, then what only the key file on this machine does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import Terminal, Unavailable
from shared.vault import KeyRing
from shared.vault.local import LocalKeyRing

BACKENDS: dict[str, Callable[[Path], KeyRing]] = {
    "local": lambda folder: LocalKeyRing(folder / "keys" / "vault.key")
}
KEY = bytes(range(32))


@pytest.fixture(params=BACKENDS)
def ring(request: pytest.FixtureRequest, tmp_path: Path) -> KeyRing:
    return BACKENDS[request.param](tmp_path)


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
