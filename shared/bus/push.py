"""Hands a push envelope to the endpoint of a subscription, in process or over HTTP.

Both say what the endpoint answered; nothing here decides what that means.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit
from wsgiref.types import WSGIApplication


class Answer(NamedTuple):
    """The status of the answer and the beginning of its body, as a reason for people."""

    status: int
    text: str


Deliver: TypeAlias = Callable[[str, bytes], Answer]

_TEXT_BYTES = 500


def in_process(application: WSGIApplication, extra: dict[str, Any]) -> Deliver:
    """Calls the WSGI application itself: the same request, without a socket. `extra` joins its environ."""

    def deliver(path: str, body: bytes) -> Answer:
        status = 500

        def start_response(line: str, *_: object) -> Callable[[bytes], object]:
            nonlocal status
            status = int(line[:3])
            return lambda _: None

        environ = {
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "0",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(body),
            "wsgi.errors": None,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            **extra,
        }
        chunks: Iterable[bytes] = application(environ, start_response)
        try:
            text = b"".join(chunks)
        finally:
            if close := getattr(chunks, "close", None):
                close()
        return Answer(status, text[:_TEXT_BYTES].decode(errors="replace"))

    return deliver


def over_http(base_url: str, timeout_seconds: float = 600) -> Deliver:
    """Posts to `base_url` + path, a connection each. A refused connection answers as 503 would."""
    parts = urlsplit(base_url)
    host, port = parts.hostname or "", parts.port or 80

    def deliver(path: str, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_seconds)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return Answer(response.status, response.read(_TEXT_BYTES).decode(errors="replace"))
        except (OSError, http.client.HTTPException) as error:
            return Answer(503, f"{base_url}: {error}")
        finally:
            connection.close()

    return deliver
