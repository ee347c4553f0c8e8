"""Objects of a Cloud Storage bucket, read with the organization's own service account.

Never as the platform itself, which may read what belongs to other organizations. A version is the
object's generation. An object counts as read only when its CRC32C is what Cloud Storage has for it.

On the JSON API by urllib3, which processors load anyway: the client library takes another 0.15 s to
import, lets an answer without a checksum pass, and follows variables of the environment.
"""

from __future__ import annotations

import re
import tempfile
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import urllib3
from urllib3 import BaseHTTPResponse

from shared.core.secret import Secret
from shared.errors import StepError, Terminal, Transient
from shared.objects import ObjectInfo
from shared.service_account import TOKEN_URI, Tokens, by_pool

T = TypeVar("T")

API = "https://storage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
TRIES = 3
TIMEOUT = urllib3.Timeout(connect=5, read=30)

_FIRST_PAUSE = 0.5
_PAGE = 1000  # the most that Cloud Storage gives at a time
_CHUNK = 1024 * 1024
_MAX_NAME_BYTES = 1024
_MAX_REASON_BYTES = 65_536
_FIELDS = "name,size,generation,updated"
_URL = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(.*))?")
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_BUSY_REASONS = frozenset({"rateLimitExceeded", "userRateLimitExceeded"})  # these come as 403


class _Item(msgspec.Struct):
    name: str
    size: str
    generation: str
    updated: datetime


class _Page(msgspec.Struct, rename="camel"):
    items: list[_Item] = []
    next_page_token: str = ""


class _Reason(msgspec.Struct):
    reason: str = ""


class _Error(msgspec.Struct):
    message: str = ""
    errors: list[_Reason] = []


class _Refused(msgspec.Struct):
    error: _Error


class _Damaged(Exception):
    """An answer did not arrive as it was sent."""


def open_gcs(
    url: str,
    secret: Callable[[], Secret],
    *,
    now: Callable[[], datetime],
    sleep: Callable[[float], None],
    random: Callable[[], float],
    emulator: str | None = None,
) -> GcsStore:
    """The store at `gs://BUCKET[/FOLDER]`. `secret` is called when the first request is made.

    `emulator` is HOST:PORT of a server in Google's place; for it the key is checked, but not used.
    Raises Terminal `bad_source`.
    """
    api, token_uri = (API, TOKEN_URI) if emulator is None else (f"http://{emulator}", None)
    return GcsStore(url, secret, now=now, sleep=sleep, random=random, api=api, token_uri=token_uri)


class GcsStore:
    """The `ObjectStore` of a bucket, or of a folder in it, which keys then do not name.

    A name that ends with `/` is the console's stand-in for an empty folder, and no object here.
    """

    def __init__(
        self,
        url: str,
        secret: Callable[[], Secret],
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], None],
        random: Callable[[], float],
        api: str = API,
        token_uri: str | None = TOKEN_URI,
    ) -> None:
        found = _URL.fullmatch(url)
        if found is None:
            raise Terminal(f"source {url!r}: is no gs://BUCKET/FOLDER", code="bad_source")
        folder = (found[2] or "").strip("/")
        self._bucket = found[1]
        self._root = f"{folder}/" if folder else ""
        self._objects = f"{api}/storage/v1/b/{self._bucket}/o"
        self._sleep = sleep
        self._random = random
        # Without its own tries urllib3 follows no redirect either: the token is for Google alone.
        self._pool = urllib3.PoolManager(timeout=TIMEOUT, retries=False)
        exchange = None if token_uri is None else by_pool(self._pool, token_uri)
        self._tokens = Tokens(secret, SCOPE, exchange, now=now)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if self._name(prefix + "x") is None:
            return
        token = ""
        while True:
            page = self._page(prefix, token)
            for item in page.items:
                if not item.name.endswith("/"):
                    yield self._info(item)
            token = page.next_page_token
            if not token:
                return

    def info(self, key: str) -> ObjectInfo | None:
        name = self._name(key)
        if name is None:
            return None
        url = f"{self._object(name)}?{urlencode({'fields': _FIELDS})}"
        item = self._get(key, url, lambda answer: _json(answer, _Item))
        if item is None:
            self._page("", "", 1)  # a bucket that is not there has no objects either
            return None
        return self._info(item)

    def read(self, key: str, limit: int) -> bytes:
        def whole(answer: BaseHTTPResponse) -> bytes:
            content = bytearray()
            for chunk in _intact(answer):
                content += chunk
                if len(content) > limit:
                    raise Terminal(
                        f"{key}: is larger than the {limit:,} bytes it may have",
                        code="object_too_large",
                    )
            return bytes(content)

        return self._content(key, whole)

    @contextmanager
    def fetch(self, key: str) -> Iterator[Path]:
        with ExitStack() as stack:
            with _kept_here(key):
                file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="object-"))
                self._content(key, lambda answer: _copied(answer, file))
            yield Path(file.name)

    def _name(self, key: str) -> str | None:
        """The object's full name, or None where there can be none."""
        name = self._root + key
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            return None
        if not key or key.endswith("/") or size > _MAX_NAME_BYTES or name in {".", ".."}:
            return None
        return None if any(letter in name for letter in "\0\r\n") else name

    def _object(self, name: str) -> str:
        return f"{self._objects}/{quote(name, safe='')}"

    def _info(self, item: _Item) -> ObjectInfo:
        return ObjectInfo(
            key=item.name.removeprefix(self._root),
            size=int(item.size),
            version=item.generation,
            modified_at=item.updated,
        )

    def _page(self, prefix: str, token: str, size: int = _PAGE) -> _Page:
        asked = {
            "prefix": self._root + prefix,
            "maxResults": str(size),
            "fields": f"items({_FIELDS}),nextPageToken",
        }
        if token:
            asked["pageToken"] = token
        url = f"{self._objects}?{urlencode(asked)}"
        page = self._get(f"gs://{self._bucket}", url, lambda answer: _json(answer, _Page))
        if page is None:
            raise Terminal(
                f"gs://{self._bucket}: there is no such bucket; check the source",
                code="source_missing",
            )
        return page

    def _content(self, key: str, read: Callable[[BaseHTTPResponse], T]) -> T:
        name = self._name(key)
        found = None
        if name is not None:
            found = self._get(key, f"{self._object(name)}?alt=media", read)
        if found is None:
            raise Terminal(
                f"{key}: there is no such object in gs://{self._bucket}/{self._root}",
                code="object_missing",
            )
        return found

    def _get(self, what: str, url: str, read: Callable[[BaseHTTPResponse], T]) -> T | None:
        """What `read` makes of the answer; None when there is no such thing.

        Raises Terminal `forbidden`, `bad_credential` or, for any other refusal, `refused`; Transient
        `unreachable` when no try was answered in full.
        """
        tries = 0
        while True:
            tries += 1
            try:
                return self._once(what, url, read)
            except urllib3.exceptions.HTTPError as error:
                failure = _unreachable(f"{what}: no answer ({type(error).__name__})")
            except (_Damaged, msgspec.DecodeError, UnicodeDecodeError):
                failure = _unreachable(f"{what}: arrived damaged")
            except Transient as error:
                failure = error
            if tries == TRIES or failure.retry_after is not None:
                raise failure
            self._sleep(_FIRST_PAUSE * 2 ** (tries - 1) * (0.5 + self._random()))

    def _once(self, what: str, url: str, read: Callable[[BaseHTTPResponse], T]) -> T | None:
        # What is kept compressed comes as it is kept, so that size and checksum are the object's own.
        headers = {"accept-encoding": "gzip", "authorization": f"Bearer {self._tokens.get()}"}
        request = self._pool.request("GET", url, headers=headers, preload_content=False)
        with closing(request) as answer:
            if answer.status == HTTPStatus.OK:
                return read(answer)
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            raise self._refusal(what, answer)

    def _refusal(self, what: str, answer: BaseHTTPResponse) -> StepError:
        status = answer.status
        said = _said(answer)
        reasons = {each.reason for each in said.errors}
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _BUSY or reasons & _BUSY_REASONS:
            return _unreachable(f"{what}: Cloud Storage answered {status}", _retry_after(answer))
        who = self._tokens.account
        if status == HTTPStatus.UNAUTHORIZED:
            return Terminal(
                f"{what}: Cloud Storage does not accept the credential of {who}; store its key "
                f"again: {said.message}",
                code="bad_credential",
            )
        if status == HTTPStatus.FORBIDDEN:
            return Terminal(
                f"{what}: {who} may not read it; give it roles/storage.objectViewer on "
                f"gs://{self._bucket}: {said.message}",
                code="forbidden",
            )
        return Terminal(f"{what}: Cloud Storage answered {status}: {said.message}", code="refused")


def _json(answer: BaseHTTPResponse, kind: type[T]) -> T:
    return msgspec.json.decode(answer.read(decode_content=True), type=kind)


def _intact(answer: BaseHTTPResponse) -> Iterator[bytes]:
    """The body in pieces. Raises after the last when they are not what the checksum was made of."""
    from google_crc32c import extend  # noqa: PLC0415 -- an SDK of Google's: only who reads

    checksum = 0
    while chunk := answer.read(_CHUNK, decode_content=False):
        checksum = extend(checksum, chunk)
        yield chunk
    if checksum != _promised(answer):
        raise _Damaged


def _promised(answer: BaseHTTPResponse) -> int | None:
    """The object's CRC32C, which Cloud Storage has of every object."""
    for part in answer.headers.get("x-goog-hash", "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "crc32c":
            try:
                return int.from_bytes(b64decode(value, validate=True))
            except NotBase64:
                return None
    return None


def _copied(answer: BaseHTTPResponse, file: IO[bytes]) -> bool:
    file.seek(0)
    file.truncate()  # what another try has left
    for chunk in _intact(answer):
        file.write(chunk)
    file.flush()
    return True


@contextmanager
def _kept_here(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Transient(
            f"{key}: this machine cannot keep it: {error.strerror}", code="no_space"
        ) from error


def _said(answer: BaseHTTPResponse) -> _Error:
    content = answer.read(_MAX_REASON_BYTES, decode_content=True)
    try:
        said = msgspec.json.decode(content, type=_Refused).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Error("it gave no reason")
    return _Error(said.message[:300], said.errors)


def _retry_after(answer: BaseHTTPResponse) -> timedelta | None:
    seconds = answer.headers.get("retry-after", "")
    return timedelta(seconds=int(seconds)) if re.fullmatch(r"[0-9]{1,5}", seconds) else None


def _unreachable(said: str, retry_after: timedelta | None = None) -> Transient:
    return Transient(said, code="unreachable", retry_after=retry_after)
