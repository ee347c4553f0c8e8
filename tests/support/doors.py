"""Doors in front of servers: open, slow, silent or shut, as a test says while clients use them."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import tempfile
import threading
import time
from enum import Enum
from pathlib import Path

from tests.support.cloud import Backends
from tests.support.postgres import SOCKET


class Way(Enum):
    """What a client meets. What is under way is met by it too."""

    OPEN = "bytes pass"
    SLOW = "every answer comes a while later"
    SILENT = "bytes are taken, and nothing comes back"
    SHUT = "connections are refused, and those that there are end"


class Door:
    """Passes connections on to `upstream`: HOST:PORT, or the path of a Unix socket.

    `host` is where clients go instead: HOST:PORT, or a folder with a socket of the same name in it.
    """

    def __init__(self, upstream: str, slow_seconds: float = 0.5) -> None:
        self._upstream = upstream
        self._slow = slow_seconds
        self._way = Way.OPEN
        self._folder: Path | None = None
        self._guard = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._closed = False
        if upstream.startswith("/"):
            self._folder = Path(tempfile.mkdtemp(prefix="door-", dir="/tmp"))
            self.host = str(self._folder)
        else:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self._port = probe.getsockname()[1]
            self.host = f"127.0.0.1:{self._port}"
        self._listener = self._listen()

    def set(self, way: Way) -> None:
        """From now on; a shut door is no listener at all, so that clients are refused."""
        with self._guard:
            before, self._way = self._way, way
        if way is Way.SHUT:
            self._listener.close()
            self._end()
        elif before is Way.SHUT:
            self._listener = self._listen()

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        self._end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _listen(self) -> socket.socket:
        if self._folder is not None:
            path = self._folder / Path(self._upstream).name
            path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
        else:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._port))
        listener.listen(64)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            # `close` does not wake a thread in `accept`, and the port would stay taken.
            try:
                ready, _, _ = select.select([listener], [], [], 0.05)
                client = listener.accept()[0] if ready else None
            except (OSError, ValueError):
                return
            if client is not None:
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._upstream.startswith("/"):
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._upstream)
            else:
                host, _, port = self._upstream.rpartition(":")
                server = socket.create_connection((host, int(port)))
        except OSError:
            client.close()
            return
        pair = (client, server)
        with self._guard:
            self._pairs.add(pair)
        if self._way is Way.SHUT:
            self._end()
            return
        back = threading.Thread(target=self._pump, args=(server, client, True), daemon=True)
        back.start()
        self._pump(client, server, False)
        back.join()
        with self._guard:
            self._pairs.discard(pair)
        for one in pair:
            one.close()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if answers:
                    if self._way is Way.SLOW:
                        time.sleep(self._slow)
                    while self._way is Way.SILENT and not self._closed:
                        time.sleep(0.05)
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        with self._guard:
            pairs = list(self._pairs)
        for pair in pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


class Doors:
    """One for each dependency of a system in the cloud mode, open until a test says otherwise."""

    def __init__(self, backends: Backends) -> None:
        self.by_name = {
            "firestore": Door(backends.firestore),
            "pubsub": Door(backends.pubsub),
            "tasks": Door(backends.tasks),
            "postgres": Door(f"{backends.postgres.sockets}/{SOCKET}"),
            "kms": Door(backends.kms.host),
            "bigquery": Door(backends.bigquery),
            "storage": Door(backends.storage),
        }

    @property
    def environ(self) -> dict[str, str]:
        """What has a system go through them, but for Postgres."""
        at = {name: door.host for name, door in self.by_name.items()}
        return {
            "FIRESTORE_EMULATOR_HOST": at["firestore"],
            "PUBSUB_EMULATOR_HOST": at["pubsub"],
            "CLOUD_TASKS_EMULATOR_HOST": at["tasks"],
            "CLOUD_KMS_EMULATOR_HOST": at["kms"],
            "BIGQUERY_EMULATOR_HOST": f"http://{at['bigquery']}",
            "STORAGE_EMULATOR_HOST": at["storage"],
        }

    @property
    def postgres(self) -> Path:
        """The host of Postgres that goes through its door."""
        return Path(self.by_name["postgres"].host)

    def close(self) -> None:
        for door in self.by_name.values():
            door.close()
