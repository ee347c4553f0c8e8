"""HTTP by urllib3: one pool of connections for a process, one `Http` for each step."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec
import urllib3
from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from shared import VERSION
from shared.core.record import Json
from shared.errors import StepError, Terminal, Transient
from shared.http import LIMIT, MEBIBYTE, Answer, Caller, Http, Params
from shared.http.pace import Gate
from shared.http.refusal import refusal

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0

_CHUNK = 64 * 1024
_MAX_REASON_BYTES = 64 * 1024
_SECRET_HEADERS = ("authorization", "cookie", "key", "token")
_LEAST_SECONDS = 0.001  # a timeout of zero would mean that nothing is waited for


class _Asked(NamedTuple):
    """A request; `where` names it in messages."""

    where: str
    method: str
    url: str
    body: bytes | None
    headers: Mapping[str, str]
    limit: int


class _Exchange:
    """One request on its way: what can end it from another thread."""

    def __init__(self) -> None:
        self.reused = False
        self.stopped = False
        self.connection: _Watched | None = None

    def stop(self) -> None:
        with _owners:
            self.stopped = True
            # One that has its answer may have left the connection to the request of another step.
            if self.connection is not None and self.connection.owner is self:
                self.connection.shut()


_here = threading.local()  # the exchange of this thread: urllib3 makes its connections itself
_owners = threading.Lock()  # of connections: who changes one, and who ends what it does


class _Watched(HTTPConnection):
    """A connection that knows the exchange it is used for."""

    owner: _Exchange | None = None
    _served = False

    def putrequest(self, *args: Any, **options: Any) -> None:
        exchange: _Exchange = _here.exchange
        with _owners:
            self.owner, exchange.connection = exchange, self
            exchange.reused, self._served = self._served, True
        super().putrequest(*args, **options)

    def getresponse(self) -> Any:
        with _owners:
            if self.owner is not None and self.owner.stopped:
                self.shut()  # it was stopped before there was a socket
        return super().getresponse()

    def close(self) -> None:
        self._served = False
        super().close()

    def shut(self) -> None:
        """Ends what is under way: the thread that reads sees the end of the answer."""
        if self.sock is not None:
            with suppress(OSError):  # it has ended by itself
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # of the socket below TLS


class _WatchedTls(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class Urllib3Client:
    """The `HttpClient` of a process. `now` is for dates in Retry-After."""

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls` is for tests; without it the certificates that this machine trusts are."""
        self.now = now
        self.monotonic = monotonic
        self.gate = Gate(monotonic)
        # Without its own tries urllib3 follows no redirect either: a credential goes to nobody else.
        self.pool = urllib3.PoolManager(
            num_pools=50, maxsize=32, retries=False, ssl_context=tls or ssl.create_default_context()
        )
        self.pool.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def open(self, caller: Caller) -> Http:
        return _Way(self, caller)

    def close(self) -> None:
        self.pool.clear()


class _Way:
    """The `Http` of one caller."""

    def __init__(self, client: Urllib3Client, caller: Caller) -> None:
        self._client = client
        self._caller = caller
        self._guard = threading.Lock()
        self._running: set[_Exchange] = set()
        caller.on_stop(self._stop)

    def get(
        self,
        url: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        limit: int = LIMIT,
    ) -> Answer:
        return self._send("GET", url, params, None, headers or {}, limit)

    def post(
        self,
        url: str,
        *,
        body: Mapping[str, Json] | bytes,
        headers: Mapping[str, str] | None = None,
        limit: int = LIMIT,
    ) -> Answer:
        sent = dict(headers or {})
        if not isinstance(body, bytes):
            body = msgspec.json.encode(body)
            sent = {"content-type": "application/json", **sent}
        return self._send("POST", url, None, body, sent, limit)

    def _send(
        self,
        method: str,
        url: str,
        params: Params | None,
        body: bytes | None,
        headers: Mapping[str, str],
        limit: int,
    ) -> Answer:
        where = self._where(method, url)
        if params:
            url += ("&" if urlsplit(url).query else "?") + urlencode(params, doseq=True)
        with self._client.gate.turn(self._caller, where):
            try:
                return self._tried(_Asked(where, method, url, body, headers, limit))
            except Transient as error:
                if error.retry_after is not None:
                    self._client.gate.hold(self._caller, error.retry_after)
                raise

    def _where(self, method: str, url: str) -> str:
        """The call, for messages: without query. Raises Terminal for an address of somebody else."""
        parts = urlsplit(url)
        origin = parts.scheme, parts.netloc
        if origin not in {urlsplit(each)[:2] for each in self._caller.addresses}:
            raise Terminal(
                f"{method} {parts.hostname}{parts.path}: is no address of the provider "
                f"{self._caller.account[0]}; those are its base_urls in configs/system/providers.yml",
                code="foreign_address",
            )
        return f"{method} {parts.netloc}{parts.path}"

    def _tried(self, asked: _Asked) -> Answer:
        again = asked.method == "GET"
        while True:
            self._caller.check()
            with self._exchange() as exchange:
                try:
                    return self._once(asked)
                except urllib3.exceptions.HTTPError as error:
                    self._caller.check()  # what broke it off may have been its own end
                    if again and exchange.reused and _never_answered(error):
                        again = False  # the server had closed the connection that was kept
                        continue
                    raise _broken(asked.where, error) from None

    def _once(self, asked: _Asked) -> Answer:
        client, began = self._client, self._client.monotonic()
        size = 0
        with closing(self._answered(asked)) as answer:
            try:
                yes = HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES
                content = self._read(asked, answer) if yes else self._reason(answer)
                size = len(content)
            finally:
                parts = urlsplit(asked.url)
                self._caller.log.info(
                    "http.answered",
                    method=asked.method,
                    host=parts.netloc,
                    path=parts.path,
                    status=answer.status,
                    milliseconds=round((client.monotonic() - began) * 1000),
                    bytes=size,
                )
            if yes:
                return Answer(answer.status, answer.headers, content, asked.where)
            self._caller.check()
            raise refusal(
                asked.where,
                answer.status,
                answer.headers,
                content,
                now=client.now(),
                secrets=[*self._caller.secrets(), *_secrets_in(asked.headers)],
            )

    def _answered(self, asked: _Asked) -> BaseHTTPResponse:
        """The answer, of which only the headers have been read."""
        ours = {"accept-encoding": "gzip", "user-agent": f"cost-pipelines/{VERSION}"}
        try:
            return self._client.pool.request(
                asked.method,
                asked.url,
                body=asked.body,
                headers={**ours, **asked.headers},
                timeout=urllib3.Timeout(
                    connect=self._seconds(CONNECT_SECONDS), read=self._seconds(READ_SECONDS)
                ),
                preload_content=False,
            )
        except urllib3.exceptions.HTTPError:
            raise
        except ValueError:  # its text would repeat the header
            raise Terminal(
                f"{asked.where}: a header cannot be sent: a line break is in it, or a letter that is "
                "not Latin; is the credential what it should be?",
                code="unsendable",
            ) from None

    def _read(self, asked: _Asked, answer: BaseHTTPResponse) -> bytes:
        content = bytearray()
        while chunk := answer.read1(_CHUNK, decode_content=True):
            content += chunk
            if len(content) > asked.limit:
                raise Terminal(
                    f"{asked.where}: the answer is larger than {asked.limit / MEBIBYTE:.3g} MiB",
                    code="answer_too_large",
                )
            self._check_time(asked.where)
        return bytes(content)

    def _reason(self, answer: BaseHTTPResponse) -> bytes:
        """What a refusal says, or its beginning; a refusal that is cut off is one all the same."""
        content = bytearray()
        with suppress(urllib3.exceptions.HTTPError):
            while len(content) < _MAX_REASON_BYTES and self._caller.left() > 0:
                chunk = answer.read1(_CHUNK, decode_content=True)
                if not chunk:
                    break
                content += chunk
        return bytes(content)

    def _check_time(self, where: str) -> None:
        self._caller.check()
        if self._caller.left() <= 0:
            raise Transient(f"{where}: the answer took too long", code="timeout")

    def _seconds(self, most: float) -> float:
        return max(_LEAST_SECONDS, min(most, self._caller.left()))

    @contextmanager
    def _exchange(self) -> Iterator[_Exchange]:
        """What `_stop` can end, for the time of the `with`."""
        made = _here.exchange = _Exchange()
        with self._guard:
            self._running.add(made)
        try:
            self._caller.check()  # a stop that came before found nothing to end
            yield made
        finally:
            with self._guard:
                self._running.discard(made)

    def _stop(self) -> None:
        with self._guard:
            running = list(self._running)
        for exchange in running:
            exchange.stop()
        self._client.gate.wake()


def _never_answered(error: urllib3.exceptions.HTTPError) -> bool:
    """Did the connection end before a word of the answer?"""
    cause = error.args[1] if isinstance(error, urllib3.exceptions.ProtocolError) else None
    return isinstance(cause, ConnectionError)  # RemoteDisconnected is one, IncompleteRead is not


def _broken(where: str, error: urllib3.exceptions.HTTPError) -> StepError:
    cause = error.args[0] if isinstance(error, urllib3.exceptions.SSLError) else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Terminal(
            f"{where}: the certificate is not one of this host: {cause.verify_message}",
            code="untrusted",
        )
    refused = urllib3.exceptions.NewConnectionError  # a TimeoutError to urllib3
    if isinstance(error, urllib3.exceptions.TimeoutError) and not isinstance(error, refused):
        return Transient(f"{where}: no answer in time", code="timeout")
    return Transient(f"{where}: the connection broke ({type(error).__name__})", code="unreachable")


def _secrets_in(headers: Mapping[str, str]) -> Iterable[str]:
    """What may be a secret of the headers that were sent: a token also without its scheme."""
    for name, value in headers.items():
        if name.lower().endswith(_SECRET_HEADERS):
            yield value
            yield value.rpartition(" ")[2]
