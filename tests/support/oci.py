"""Object Storage of Oracle Cloud for tests: list and get, for who signs as it is documented.

No server of Oracle's can be had. A signature is verified over the headers that a request names, and a
request has to name all that Oracle asks for.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import deque
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

_SKEW = timedelta(minutes=5)
_PATH = re.compile(r"/n/([^/]+)/b/([^/]+)/o(?:/(.+))?")
_NAMED = re.compile(r'(\w+)="([^"]*)"')


class Fault(Enum):
    """What happens to the next request."""

    UNAVAILABLE = 503
    BUSY = 429
    FORBIDDEN = 403
    CUT = "the body ends early"
    HUNG_UP = "no answer at all"


class OracleStorage:
    """Buckets in memory. `host` is HOST:PORT; `secret` is the credential of the one user."""

    def __init__(self) -> None:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public = private.public_key()
        self.secret = {
            "tenancy": "ocid1.tenancy.oc1..aaaa",
            "user": "ocid1.user.oc1..bbbb",
            "fingerprint": ":".join(["0a"] * 16),
            "private_key": private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode(),
            "region": "eu-frankfurt-1",
        }
        self.buckets: dict[str, dict[str, tuple[bytes, str, datetime]]] = {}
        self.faults: deque[Fault] = deque()
        self.requests: list[str] = []
        self._numbers = count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.host = "{}:{}".format(*self._server.server_address[:2])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def make(self) -> str:
        """The name of a new bucket, as people write it: BUCKET@NAMESPACE."""
        name = f"bucket{next(self._numbers)}@bling"
        self.buckets[name] = {}
        return name

    def write(self, bucket: str, key: str, content: bytes, at: datetime | None = None) -> None:
        etag = md5(content).hexdigest()
        self.buckets[bucket][key] = (content, etag, at or datetime.now(UTC))

    def delete(self, bucket: str, key: str) -> None:
        del self.buckets[bucket][key]

    def listing(self, bucket: str, asked: dict[str, list[str]]) -> dict[str, Any]:
        prefix, start = asked.get("prefix", [""])[0], asked.get("start", [""])[0]
        limit = int(asked["limit"][0])
        names = sorted(
            name for name in self.buckets[bucket] if name.startswith(prefix) and name >= start
        )
        page: dict[str, Any] = {"objects": [], "prefixes": []}
        for name in names[:limit]:
            content, etag, at = self.buckets[bucket][name]
            page["objects"].append(
                {
                    "name": name,
                    "size": len(content),
                    "etag": etag,
                    "timeModified": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                }
            )
        if len(names) > limit:
            page["nextStartWith"] = names[limit]
        return page

    def refuses(self, method: str, path: str, headers: Any) -> str | None:
        """What is wrong with the signature."""
        authorization = headers.get("authorization", "")
        named = dict(_NAMED.findall(authorization))
        signed = named.get("headers", "").split()
        if not authorization.startswith("Signature ") or named.get("algorithm") != "rsa-sha256":
            return "no signature"
        if not {"date", "(request-target)", "host"} <= set(signed):
            return "a header is not signed"
        if named["keyId"] != "/".join(
            self.secret[name] for name in ("tenancy", "user", "fingerprint")
        ):
            return "an unknown key"
        if abs(parsedate_to_datetime(headers["date"]) - datetime.now(UTC)) > _SKEW:
            return "an old date"
        target = f"{method.lower()} {path}"
        lines = [f"{n}: {target if n == '(request-target)' else headers[n]}" for n in signed]
        try:
            self.public.verify(
                base64.b64decode(named["signature"]),
                "\n".join(lines).encode(),
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
        except InvalidSignature:
            return "a wrong signature"
        return None


def _handler(storage: OracleStorage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            storage.requests.append(self.path)
            fault = storage.faults.popleft() if storage.faults else None
            if fault is Fault.HUNG_UP:
                self.close_connection = True
                return
            wrong = storage.refuses("GET", self.path, self.headers)
            parts = urlsplit(self.path)
            found = _PATH.fullmatch(parts.path)
            if wrong is not None:
                self.refuse(401, "NotAuthenticated", wrong)
            elif fault is not None and isinstance(fault.value, int):
                self.refuse(fault.value, fault.name, "said the server")
            elif found is None or f"{found[2]}@{found[1]}" not in storage.buckets:
                self.refuse(404, "BucketNotFound", "no such bucket, or no right to see it")
            elif found[3] is None:
                page = storage.listing(f"{found[2]}@{found[1]}", parse_qs(parts.query))
                self.answer(200, json.dumps(page).encode(), fault)
            elif (key := unquote(found[3])) in storage.buckets[f"{found[2]}@{found[1]}"]:
                self.answer(200, storage.buckets[f"{found[2]}@{found[1]}"][key][0], fault)
            else:
                self.refuse(404, "ObjectNotFound", "no such object")

        def refuse(self, status: int, code: str, message: str) -> None:
            self.answer(status, json.dumps({"code": code, "message": message}).encode(), None)

        def answer(self, status: int, content: bytes, fault: Fault | None) -> None:
            self.send_response_only(status)
            if status == Fault.BUSY.value:
                self.send_header("Retry-After", "7")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if fault is Fault.CUT:
                content = content[: len(content) // 2]
                self.close_connection = True
            self.wfile.write(content)

    return Handler
