"""Cloud Storage for tests: fake-gcs-server over a folder, behind a door that makes faults.

What stands at `folder`/BUCKET/OBJECT is an object, however it came there. The server keeps what it knows
of an object in an attribute of its file; the door adds that to files that were written behind its back.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import os
import random
import threading
import time
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import Enum
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from google_crc32c import value as crc32c

from shared.core.secret import Secret
from shared.objects.gcs import GcsStore, open_gcs

_ATTRIBUTE = "user.metadata"
_SAME_SECONDS = 60.0  # between what the server notes as the time of a write, and the file's
_NEVER = "0001-01-01T00:00:00Z"
_OF_THE_CONNECTION = {"connection", "transfer-encoding", "content-length", "date", "server"}


class Fault(Enum):
    """What happens to the next request."""

    UNAVAILABLE = 503
    BUSY = 429
    UNAUTHORIZED = 401
    FORBIDDEN = 403
    RATE = "403 for too many requests"
    REDIRECT = 302
    CUT = "the body ends early"
    HUNG_UP = "no answer at all"
    ALTERED = "a byte of the body is another one"
    UNSUMMED = "the answer has no checksum"


class Request(NamedTuple):
    """One that arrived, with lower-case headers."""

    method: str
    path: str
    headers: Mapping[str, str]


class CloudStorage:
    """Where clients go is `host` (HOST:PORT); the server itself, which makes no faults, is `server`."""

    def __init__(self, server: str, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.faults: deque[Fault] = deque()
        self.requests: list[Request] = []
        self._numbers = itertools.count(1)
        self._adopting = threading.Lock()
        self._adopted: dict[Path, tuple[int, int, int]] = {}
        self._door = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._door.daemon_threads = True
        self.host = "{}:{}".format(*self._door.server_address[:2])
        self._thread = threading.Thread(target=self._door.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._door.shutdown()
        self._door.server_close()
        self._thread.join()

    def make(self) -> str:
        """The name of a new bucket."""
        bucket = f"bucket-{os.getpid()}-{next(self._numbers)}"
        (self.folder / bucket).mkdir(parents=True)
        return bucket

    def write(self, bucket: str, key: str, content: bytes) -> None:
        """As a provider delivers: through the server."""
        name = urllib.parse.quote(key, safe="")
        self._ask("POST", f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}", content)

    def delete(self, bucket: str, key: str) -> None:
        self._ask("DELETE", f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(key, safe='')}")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> None:
        request = urllib.request.Request(f"http://{self.server}{path}", body, method=method)
        request.add_header("Content-Type", "application/octet-stream")
        urllib.request.urlopen(request, timeout=30).close()

    def adopt(self) -> None:
        """Makes objects of the files that were written or changed behind the server's back."""
        with self._adopting:
            for folder, _, names in os.walk(self.folder):
                if Path(folder) == self.folder:
                    continue  # what the server knows of the buckets
                for path in (Path(folder, name) for name in names):
                    with suppress(FileNotFoundError):
                        stat = path.stat()
                        state = stat.st_ino, stat.st_size, stat.st_mtime_ns
                        if self._adopted.get(path) != state:
                            self._adopted[path] = state
                            _adopt(path)


# A key by its form; an emulator lets everybody in.
KEY = {
    "type": "service_account",
    "client_email": "reader@customer.iam.gserviceaccount.com",
    "private_key": "-----BEGIN PRIVATE KEY-----\nnone\n-----END PRIVATE KEY-----\n",
    "token_uri": "https://oauth2.googleapis.com/token",
}


def open_bucket(host: str, url: str) -> GcsStore:
    return open_gcs(
        url,
        lambda: Secret(json.dumps(KEY)),
        now=lambda: datetime.now(UTC),
        sleep=lambda _: None,
        random=random.random,
        emulator=host,
    )


def _adopt(path: Path) -> None:
    content = path.read_bytes()
    checksum = base64.b64encode(crc32c(content).to_bytes(4)).decode()
    if _ATTRIBUTE in os.listxattr(path):
        known = json.loads(os.getxattr(path, _ATTRIBUTE))
        written = datetime.fromisoformat(known["Updated"]).timestamp()
        if known["Crc32c"] == checksum and abs(path.stat().st_mtime - written) < _SAME_SECONDS:
            return  # the server wrote it
    digest = base64.b64encode(md5(content).digest()).decode()
    at = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
    known = {
        "StorageClass": "STANDARD",
        "ContentType": "application/octet-stream",
        "Crc32c": checksum,
        "Md5Hash": digest,
        "Etag": digest,
        "Created": at,
        "Updated": at,
        "Deleted": _NEVER,
        "CustomTime": _NEVER,
        "Generation": time.time_ns() // 1000,
    }
    os.setxattr(path, _ATTRIBUTE, json.dumps(known).encode())


def _handler(storage: CloudStorage) -> type[BaseHTTPRequestHandler]:
    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def pass_on(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            storage.requests.append(Request(self.command, self.path, headers))
            fault = storage.faults.popleft() if storage.faults else None
            if fault is Fault.HUNG_UP:
                self.close_connection = True
                return
            if fault is Fault.RATE:
                self.refuse(403, "rateLimitExceeded")
                return
            if fault is not None and isinstance(fault.value, int):
                self.refuse(fault.value, "forbidden")
                return
            if self.command == "GET":
                storage.adopt()
            with _upstream(storage.server) as server:
                server.request(self.command, self.path, body or None, headers)
                answer = server.getresponse()
                content = answer.read()
                passed = [
                    (name, value)
                    for name, value in answer.getheaders()
                    if name.lower() not in _OF_THE_CONNECTION
                    and not (fault is Fault.UNSUMMED and name.lower() == "x-goog-hash")
                ]
            self.answer(answer.status, passed, content, fault)

        def refuse(self, status: int, reason: str) -> None:
            error = {"message": "said the server", "errors": [{"reason": reason}]}
            headers = [("Location", f"http://{storage.server}{self.path}")]
            if status == Fault.BUSY.value:
                headers.append(("Retry-After", "7"))
            self.answer(status, headers, json.dumps({"error": error}).encode(), None)

        def answer(
            self, status: int, headers: list[tuple[str, str]], content: bytes, fault: Fault | None
        ) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if fault is Fault.ALTERED:
                content = content[:-1] + bytes([content[-1] ^ 1])
            if fault is Fault.CUT:
                content = content[: len(content) // 2]
                self.close_connection = True
            self.wfile.write(content)

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Door, f"do_{method}", Door.pass_on)
    return Door


@contextmanager
def _upstream(host: str) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        yield connection
    finally:
        connection.close()
