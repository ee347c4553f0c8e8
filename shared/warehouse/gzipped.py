"""A gzip file, checked against its own checksum while DuckDB reads it.

DuckDB notices a file that ends too early, but not one whose bytes do not fit its checksum.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import Terminal

_READ = 2**18


@contextmanager
def whole(name: str, path: Path) -> Iterator[Callable[[], None]]:
    """Checks the file beside the block; what is given waits for the verdict.

    The verdict on a file that is not whole is Terminal (`unreadable_file`). Any other file passes.
    """
    stop = threading.Event()
    faults: list[str] = []

    def judge() -> None:
        if faults:
            raise Terminal(f"{name}: cannot be read: {faults[0]}", code="unreadable_file")

    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if not compressed:
        yield judge
        return

    def check() -> None:
        try:
            _decompress(path, stop)
        except (OSError, zlib.error) as exc:
            faults.append(getattr(exc, "strerror", None) or str(exc))

    thread = threading.Thread(target=check, name="gzip-check", daemon=True)
    thread.start()

    def wait() -> None:
        thread.join()
        judge()

    try:
        yield wait
    finally:
        stop.set()
        thread.join()


def _decompress(path: Path, stop: threading.Event) -> None:
    """Reads a gzip file to its end, in bounded memory. zlib compares the checksums on the way."""
    with path.open("rb") as file:
        member = zlib.decompressobj(wbits=31)
        held = b""
        while not stop.is_set() and (held := held or file.read(_READ)):
            if member.eof:
                member = zlib.decompressobj(wbits=31)
            member.decompress(held, 4 * _READ)
            held = member.unused_data if member.eof else member.unconsumed_tail
