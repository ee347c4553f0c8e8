"""A door before an HTTP server, for tests: it sees what is asked, and answers as a bad day would."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

_OF_THE_CONNECTION = {"connection", "transfer-encoding", "content-length", "date", "server"}


class Asked(NamedTuple):
    """A request. `says` looks for a text in its path and body."""

    method: str
    path: str
    body: bytes

    def says(self, *texts: str) -> bool:
        return all(text.encode() in self.path.encode() + self.body for text in texts)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Answer(NamedTuple):
    """What the client gets; None in its place: the connection ends without a word."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Behind = Callable[[], Answer]
# Gets the request and how to pass it on; gives the answer.
Fault = Callable[[Asked, Behind], Answer | None]


def refused(status: int, reason: str, message: str = "no") -> Fault:
    """The server says no, and has done nothing."""
    errors = [{"reason": reason, "message": message}]
    body = json.dumps({"error": {"code": status, "message": message, "errors": errors}})
    return lambda _, __: Answer(status, body.encode())


def dropped(_: Asked, __: Behind) -> Answer | None:
    """The request never arrives."""
    return None


def lost(_: Asked, behind: Behind) -> Answer | None:
    """The request is served, and the answer never arrives."""
    behind()
    return None


@dataclass
class Rule:
    """A fault for the next requests that fit."""

    fits: Callable[[Asked], bool]
    fault: Fault
    left: int


@dataclass
class Door:
    """Where clients go is `host`; `server` is what stands behind it."""

    server: str
    asked: list[Asked] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    host: str = ""
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, fault: Fault, fits: Callable[[Asked], bool], times: int = 1) -> None:
        with self._guard:
            self.rules.append(Rule(fits, fault, times))

    def of(self, request: Asked) -> Fault | None:
        with self._guard:
            self.asked.append(request)
            for rule in self.rules:
                if rule.left and rule.fits(request):
                    rule.left -= 1
                    return rule.fault
        return None

    def behind(self, handler: BaseHTTPRequestHandler, request: Asked) -> Answer:
        connection = http.client.HTTPConnection(self.server, timeout=60)
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in _OF_THE_CONNECTION}
        connection.request(request.method, request.path, request.body, headers)
        answer = connection.getresponse()
        body = answer.read().replace(self.server.encode(), self.host.encode())
        kept = [(k, v.replace(self.server, self.host)) for k, v in answer.getheaders()]
        connection.close()
        return Answer(
            answer.status,
            body,
            tuple((k, v) for k, v in kept if k.lower() not in _OF_THE_CONNECTION),
        )


@contextmanager
def door(server: str) -> Iterator[Door]:
    made = Door(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:
                self.close_connection = True

        def serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            request = Asked(self.command, self.path, self.rfile.read(length))
            fault = made.of(request)
            answer: Answer | None
            if fault is None:
                answer = made.behind(self, request)
            else:
                answer = fault(request, lambda: made.behind(self, request))
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve  # noqa: N815  # http.server asks for them

        def log_message(self, *_: object) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.daemon_threads = True
    made.host = "{}:{}".format(*served.server_address[:2])
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield made
    served.shutdown()
    served.server_close()
    thread.join()
