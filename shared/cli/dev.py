"""`pipelines dev`: the embedded system behind its HTTP API, in one process.

Only the `api` function is served. Push endpoints exist inside the process only, for its bus.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable
from types import FrameType
from typing import Any

from rich.text import Text

from shared import VERSION
from shared.bootstrap import ENGINE_KEY, function
from shared.bootstrap.embedded import Embedded, open_embedded
from shared.cli import show
from shared.cli.stop import Code, Stop
from shared.settings import PLATFORM_KEY_FILE, Settings, read_settings

THREADS = 8
DRAIN_SECONDS = 10.0
MAX_BODY_BYTES = 16_000_000  # far above what `api` takes: it is the one to say what is too large
_DEFAULT_PORT = 8001


class Server:
    """The API of an embedded system on an address of this machine, served by threads of this process."""

    def __init__(self, embedded: Embedded, host: str, port: int) -> None:
        from waitress.server import create_server  # noqa: PLC0415  # only who serves pays for it

        logging.getLogger("waitress").setLevel(logging.ERROR)  # a queue of requests is no news
        self._listening = _listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._listening.getsockname()[1]}"
        self._sockets: dict[int, Any] = {}
        self._left: dict[int, Any] = {}
        self._server: Any = create_server(
            _application(embedded),
            map=self._sockets,
            sockets=[self._listening],
            threads=THREADS,
            ident=None,
            max_request_body_size=MAX_BODY_BYTES,
            clear_untrusted_proxy_headers=True,
        )
        self._loop = threading.Thread(target=self._server.run, name="http", daemon=True)
        self._loop.start()

    def close(self) -> None:
        """Accepts no more, lets the requests that are here end (10 s), and stops. Twice is once."""
        from waitress import wasyncore  # noqa: PLC0415  # only who serves pays for it

        server, loop = self._server, self._loop
        if not loop.is_alive():
            return
        # What the loop selects on is taken from it in its own thread; without sockets it ends. The
        # trigger is closed after that: an earlier pull may run a thunk before its own pull writes.
        server.trigger.pull_trigger(self._refuse)
        until = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < until and any(
            channel.requests or channel.total_outbufs_len
            for channel in list(server.active_channels.values())
        ):
            time.sleep(0.02)
        server.task_dispatcher.shutdown()
        server.trigger.pull_trigger(self._leave)
        loop.join(DRAIN_SECONDS)
        wasyncore.close_all(self._left)

    def _refuse(self) -> None:
        self._server.del_channel()
        self._listening.close()

    def _leave(self) -> None:
        self._left.update(self._sockets)
        self._sockets.clear()


def dev(host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT. Raises ConfigError, Unavailable, Stop."""
    settings = read_settings()
    if settings.cloud is not None:
        raise Stop(
            Code.BAD_INPUT,
            "PIPELINES_MODE is cloud, and this serves the embedded system",
            hint="unset PIPELINES_MODE; in the cloud each function is a service of its own",
        )
    stopping = threading.Event()

    def stop(signum: int, _frame: FrameType | None) -> None:
        if stopping.is_set():  # asked twice: what runs now is taken up again at the next start
            os._exit(128 + signum)
        stopping.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    embedded = open_embedded(settings)
    try:
        pipelines = len(embedded.engine.app.catalog().addresses())
        server = Server(embedded, host, port)
        _welcome(settings, server.url, host, pipelines)
        while not stopping.wait(0.5):  # a wait without an end would keep signals from coming in
            pass
        show.err().print("stopping: what runs now may end; Ctrl-C again stops at once")
        server.close()
    finally:
        embedded.close()
    show.err().print("stopped")


def _application(embedded: Embedded) -> Any:
    """The WSGI application of the outside: the `api` function, whatever the path."""
    from flask import Request  # noqa: PLC0415  # as functions-framework gives it to a function

    api = function("api")

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ[ENGINE_KEY] = embedded.engine
        answered: Iterable[bytes] = api(Request(environ))(environ, start_response)
        return answered

    return application


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise Stop(
            Code.UNREACHABLE,
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint="--port names another port; --port 0 takes any that is free",
        ) from error


def _welcome(settings: Settings, url: str, host: str, pipelines: int) -> None:
    key_file = settings.data / PLATFORM_KEY_FILE
    show.lines(
        Text.assemble((f"pipelines {VERSION}", "bold"), " · the whole system in one process"),
        "",
        show.record(
            [
                ("  API", Text(url, style="bold cyan")),
                ("  data", str(settings.data)),
                ("  objects", f"{settings.objects}/ORG is what `file:` sources of ORG see"),
                ("  pipelines", f"{pipelines} from {settings.configs}"),
                ("  key", f"{key_file}"),
                ("", "commands on this machine use it by themselves; for an organization's own:"),
                ("", "pipelines keys create NAME --org ORG"),
            ]
        ),
        "",
    )
    if not url.endswith(f":{_DEFAULT_PORT}"):
        show.lines(f"  In another terminal: export PIPELINES_URL={url}", "")
    if host not in ("127.0.0.1", "::1", "localhost"):
        show.lines(
            Text("  Other machines can reach it, over HTTP without TLS.", style="yellow"), ""
        )
    show.lines("Ctrl-C stops it.")
