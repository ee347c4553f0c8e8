"""The HTTP client of the API: an answer, or a Stop that says in words what the API said in JSON.

What may be sent twice (GET, DELETE, PUT, a start with an idempotency key) is sent again when the
connection breaks; what was refused is not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

from shared.cli.stop import Code, Stop
from shared.errors import Fault
from shared.settings import ClientSettings

PREFIX = "/api/v1"
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the API said, and its bytes as they came for `--json`."""

    status: int
    raw: bytes
    body: Any
    headers: Mapping[str, str]


class Refused(Stop):
    """The API answered with a problem; `verbatim` asks to show it as it came, too."""

    def __init__(self, answer: Answer, stop: Stop, *, verbatim: bool) -> None:
        super().__init__(
            stop.code, stop.message, faults=stop.faults, hint=stop.hint, note=stop.note
        )
        self.answer = answer
        self.verbatim = verbatim


class Unreachable(Stop):
    """There was no answer. `refused`: nothing listens there, so nothing was done."""

    def __init__(self, url: str, why: str, *, refused: bool) -> None:
        message = f"no API at {url}" if refused else f"the API at {url} did not answer: {why}"
        hint = "start one with `pipelines dev`, or say where it is in PIPELINES_URL"
        super().__init__(Code.UNREACHABLE, message, hint=hint if refused else "")
        self.refused = refused


class Client:
    """Calls the API at `url`, as the owner of `key` (None: as nobody)."""

    def __init__(
        self, url: str, key: str | None, *, key_hint: str = "", verbatim: bool = False
    ) -> None:
        import urllib3  # noqa: PLC0415  # 0.05 s, which --help does not owe

        self.url = url
        self._key = key
        self._key_hint = key_hint
        self._verbatim = verbatim
        self._errors = urllib3.exceptions
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS), retries=False
        )

    def get(self, *path: str, query: Mapping[str, str | None] | None = None) -> Answer:
        return self.call("GET", *path, query=query)

    def post(
        self, *path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return self.call("POST", *path, body=body, headers=headers)

    def call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str | None] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer of a 2xx. Raises Refused, Unreachable."""
        url = self.url + PREFIX + "".join("/" + quote(part, safe="") for part in path)
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        if asked:
            url += "?" + urlencode(asked)
        sent = {"Accept": "application/json", **(headers or {})}
        if self._key:
            sent["X-API-Key"] = self._key
        content = None
        if body is not None:
            content = json.dumps(body, allow_nan=False).encode()
            sent["Content-Type"] = "application/json"
        tries = TRIES if method != "POST" or "Idempotency-Key" in sent else 1
        answer = self._send(method, url, content, sent, tries)
        if not 200 <= answer.status < 300:
            raise Refused(answer, self._problem(answer), verbatim=self._verbatim)
        return answer

    def _send(
        self, method: str, url: str, content: bytes | None, headers: dict[str, str], tries: int
    ) -> Answer:
        for left in range(tries - 1, -1, -1):
            try:
                got = self._pool.request(method, url, body=content, headers=headers, redirect=False)
            except self._errors.NewConnectionError as error:
                raise Unreachable(self.url, str(error), refused=True) from error
            except self._errors.ConnectTimeoutError as error:
                raise Unreachable(self.url, "no connection in time", refused=False) from error
            except self._errors.HTTPError as error:
                if not left:
                    why = "the connection broke" if not _timed_out(error) else "no answer in time"
                    raise Unreachable(self.url, why, refused=False) from error
                time.sleep(0.2)
            else:
                return self._read(got.status, got.data, dict(got.headers))
        raise AssertionError("unreachable")

    def _read(self, status: int, raw: bytes, headers: dict[str, str]) -> Answer:
        headers = {name.lower(): value for name, value in headers.items()}
        if not raw:
            return Answer(status=status, raw=raw, body=None, headers=headers)
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Stop(
                Code.UNREACHABLE,
                f"what answers at {self.url} is not this API"
                f" (HTTP {status}, {headers.get('content-type', 'no type')})",
                hint="PIPELINES_URL says where the API is",
            )
        return Answer(status=status, raw=raw, body=body, headers=headers)

    def _problem(self, answer: Answer) -> Stop:
        problem = answer.body or {}
        detail = str(problem.get("detail") or f"the API answered {answer.status}")
        faults = [
            Fault(str(fault.get("field", "")), str(fault.get("message", "")))
            for fault in problem.get("faults", [])
        ]
        hint = ""
        code = Code.BAD_INPUT
        if answer.status == 429:
            code = Code.QUOTA
            hint = _come_back(answer.headers.get("retry-after", ""))
        elif answer.status >= 500:
            code = Code.UNREACHABLE
        elif answer.status == 401:
            hint = self._key_hint
        said = [str(problem.get("error", "")), str(answer.status)]
        if "request_id" in problem:
            said.append(f"request {problem['request_id']}")
        return Stop(code, detail, faults=faults, hint=hint, note=" · ".join(filter(None, said)))


def connect(settings: ClientSettings, *, verbatim: bool = False) -> Client:
    """The client that the settings describe. Raises Stop for a key that cannot be one."""
    key = settings.api_key
    if key is not None and not (key.isascii() and key.isprintable()):
        raise Stop(Code.BAD_INPUT, "PIPELINES_API_KEY is no API key: it has unprintable characters")
    hint = "the key is that of PIPELINES_API_KEY"
    if key is None:
        key, hint = _platform_key(settings)
    return Client(settings.url, key, key_hint=hint, verbatim=verbatim)


def _platform_key(settings: ClientSettings) -> tuple[str | None, str]:
    """The key that the embedded engine left for this machine, and where we looked for it."""
    if settings.key_file is None:
        return None, "set PIPELINES_API_KEY to a key of the API"
    try:
        key = settings.key_file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None, (
            f"set PIPELINES_API_KEY, or PIPELINES_DATA to the data folder of `pipelines dev`"
            f" (no {settings.key_file})"
        )
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(Code.BAD_INPUT, f"{settings.key_file}: cannot be read: {error}") from error
    return key, (
        f"the key was read from {settings.key_file}, which belongs to another engine:"
        " set PIPELINES_API_KEY or PIPELINES_DATA"
    )


def _timed_out(error: Exception) -> bool:
    return isinstance(error, TimeoutError) or "timed out" in str(error).lower()


def _come_back(retry_after: str) -> str:
    if not retry_after.isdigit():
        return ""
    return f"worth trying again in {_span(timedelta(seconds=int(retry_after)))}"


def _span(wait: timedelta) -> str:
    seconds = int(wait.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    minutes = (seconds + 59) // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
