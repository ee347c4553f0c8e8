"""A push endpoint that remembers what came, and any WSGI application behind a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from wsgiref.types import WSGIApplication

from werkzeug.serving import WSGIRequestHandler, make_server

from shared.core.message import PushEnvelope, open_envelope

WAIT_SECONDS = 60.0


class Endpoint:
    """A WSGI application that answers what the test says, or what the application behind it does."""

    def __init__(self) -> None:
        self.behind: WSGIApplication | None = None
        self.came: list[PushEnvelope] = []
        self.raw: list[bytes] = []
        self.paths: list[str] = []
        self.tokens: list[str] = []
        self.changed = threading.Condition()
        self.answer: Callable[[PushEnvelope], int] = lambda _: 204
        self.at_once = 0
        self.most_at_once = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        envelope = open_envelope(body)
        with self.changed:
            self.came.append(envelope)
            self.raw.append(body)
            self.paths.append(environ["PATH_INFO"])
            self.tokens.append(environ.get("HTTP_AUTHORIZATION", ""))
            self.changed.notify_all()
        if self.behind is not None:
            return self.behind({**environ, "wsgi.input": BytesIO(body)}, start_response)
        with self.changed:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            status = self.answer(envelope)
        finally:
            with self.changed:
                self.at_once -= 1
        text = b"" if status == 204 else b"said why"
        start_response(f"{status} x", [("Content-Length", str(len(text)))])
        return [text]

    def wait_for(self, count: int) -> list[bytes]:
        """The bodies that came, once there are `count`."""
        with self.changed:
            found = self.changed.wait_for(lambda: len(self.came) >= count, WAIT_SECONDS)
            assert found, self.bodies()
        return self.bodies()

    def bodies(self) -> list[bytes]:
        return [envelope.message.data for envelope in self.came]


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None: ...


@contextmanager
def served(application: WSGIApplication) -> Iterator[str]:
    """The URL of the application on this machine, a thread a request."""
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def soon(condition: Callable[[], bool]) -> bool:
    """Waits for the condition."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
