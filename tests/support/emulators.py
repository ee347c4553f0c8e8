"""Emulators of Google Cloud, each a process of its own on a free port of this machine.

An emulator is started directly (the wrapper scripts leave their JVM behind when they are killed), in a
process group of its own, and ends with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

READY_SECONDS = 60.0
_STOP_SECONDS = 10.0
_STARTS = 3  # a port may be taken between its choice and its use

# Ends "$@" when it gets a signal, when the pipe from the starting process closes, or with "$@" itself.
_LIVES_WITH_US = """
exec 3<&0 </dev/null
"$@" 3<&- &
emulator=$!
trap 'kill "$emulator" 2>/dev/null' TERM
(cat <&3 >/dev/null; kill "$emulator" 2>/dev/null) >/dev/null 2>&1 &
wait "$emulator"
"""


class Kind(NamedTuple):
    """One sort of emulator. `command` gets a port; None: what it needs is not on this machine."""

    name: str
    needs: str
    command: Callable[[int], list[str] | None]
    ready: str  # said in its log when the port is its own


def _sdk() -> Path | None:
    gcloud = shutil.which("gcloud")
    return None if gcloud is None else Path(gcloud).resolve().parents[1]


def _firestore(port: int) -> list[str] | None:
    sdk, java = _sdk(), shutil.which("java")
    if sdk is None or java is None:
        return None
    jar = sdk / "platform" / "cloud-firestore-emulator" / "cloud-firestore-emulator.jar"
    if not jar.exists():
        return None
    return [
        java,
        "-Duser.language=en",
        "-XX:+UseSerialGC",
        "-Xmx768m",
        "-cp",
        str(jar),
        "com.google.cloud.datastore.emulator.firestore.CloudFirestore",
        "--host=127.0.0.1",
        f"--port={port}",
    ]


FIRESTORE = Kind(
    "firestore",
    "java and the Google Cloud SDK with its cloud-firestore-emulator",
    _firestore,
    "Dev App Server is now running",
)


class Missing(Exception):
    """What the emulator needs is not on this machine."""


class Emulator:
    """A running emulator at `host` (HOST:PORT). `stop` it; twice is once."""

    def __init__(self, kind: Kind) -> None:
        """Starts it and waits until it answers. Raises Missing, or RuntimeError with its log."""
        said = ""
        for _ in range(_STARTS):
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            command = kind.command(port)
            if command is None:
                raise Missing(f"the {kind.name} emulator needs {kind.needs}")
            self.host = f"127.0.0.1:{port}"
            self._log = tempfile.TemporaryFile()  # noqa: SIM115  # `stop` closes it
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _LIVES_WITH_US, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            if self._ready(kind):
                return
            said = self._said()
            self.stop()
        raise RuntimeError(f"the {kind.name} emulator did not start {_STARTS} times:\n{said}")

    def stop(self) -> None:
        """Ends the whole group, and waits for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _ready(self, kind: Kind) -> bool:
        deadline = time.monotonic() + READY_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            # Another emulator might answer at the port: only our own log says that it is ours.
            if kind.ready in self._said() and self._answers():
                return True
            time.sleep(0.05)
        return False

    def _said(self) -> str:
        # Not `read`: the emulator writes at the position that we would move.
        return os.pread(self._log.fileno(), 1_000_000, 0).decode(errors="replace")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.host}/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _run(kind: Kind) -> Iterator[Emulator]:
    try:
        emulator = Emulator(kind)
    except Missing as missing:
        why = str(missing)
    else:
        yield emulator
        emulator.stop()
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must not skip this: {why}", pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="session")
def firestore_emulator() -> Iterator[Emulator]:
    yield from _run(FIRESTORE)


_projects = itertools.count(1)


@pytest.fixture
def firestore_project() -> str:
    """A project of the emulator that no other test has seen: it is empty."""
    return f"test-{os.getpid()}-{next(_projects)}"
