"""Objects of a Cloud Storage bucket, read with the organization's own service account.

Never as the platform itself, which may read what belongs to other organizations. A version is the
object's generation. An object counts as read only when its CRC32C is what Cloud Storage has for it.
The client library lets an answer without a checksum pass, and follows variables of the environment.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterator
from datetime import datetime
from http import HTTPStatus

import msgspec
from urllib3 import BaseHTTPResponse

from shared.core.secret import Secret
from shared.errors import StepError, Terminal
from shared.objects import ObjectInfo
from shared.objects.rest import Damaged, Page, Request, RestStore, query, unreachable
from shared.service_account import TOKEN_URI, Tokens, by_pool

API = "https://storage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"

_CHUNK = 1024 * 1024
_FIELDS = "items(name,size,generation,updated),nextPageToken"
_URL = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(.*))?")
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


class GcsStore(RestStore):
    """The `ObjectStore` of a bucket, or of a folder in it."""

    slashes = ""  # a name is one part of the path

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
        super().__init__(f"gs://{found[1]}", found[2], sleep=sleep, random=random)
        self._objects = f"{api}/storage/v1/b/{found[1]}/o"
        exchange = None if token_uri is None else by_pool(self.pool, token_uri)
        self._tokens = Tokens(secret, SCOPE, exchange, now=now)

    def page_url(self, prefix: str, token: str, size: int) -> str:
        asked = {"prefix": prefix, "maxResults": str(size), "fields": _FIELDS}
        return f"{self._objects}?{query(asked | ({'pageToken': token} if token else {}))}"

    def page(self, content: bytes) -> Page:
        page = msgspec.json.decode(content, type=_Page)
        items = [
            ObjectInfo(item.name, int(item.size), item.generation, item.updated)
            for item in page.items
        ]
        return Page(items, page.next_page_token)

    def object_url(self, path: str) -> str:
        return f"{self._objects}/{path}?alt=media"

    def signed(self, url: str) -> Request:
        return Request(url, {"authorization": f"Bearer {self._tokens.get()}"})

    def intact(self, answer: BaseHTTPResponse) -> Iterator[bytes]:
        from google_crc32c import extend  # noqa: PLC0415 -- an SDK of Google's: only who reads

        checksum = 0
        while chunk := answer.read(_CHUNK, decode_content=False):
            checksum = extend(checksum, chunk)
            yield chunk
        if checksum != _promised(answer):
            raise Damaged

    def refusal(self, what: str, answer: BaseHTTPResponse, content: bytes) -> StepError:
        status, said, who = answer.status, _said(content), self._tokens.account
        if {each.reason for each in said.errors} & _BUSY_REASONS:
            return unreachable(f"{what}: Cloud Storage answered {status}")
        if status == HTTPStatus.UNAUTHORIZED:
            return Terminal(
                f"{what}: Cloud Storage does not accept the credential of {who}; store its key "
                f"again: {said.message}",
                code="bad_credential",
            )
        if status == HTTPStatus.FORBIDDEN:
            return Terminal(
                f"{what}: {who} may not read it; give it roles/storage.objectViewer on "
                f"{self.name}: {said.message}",
                code="forbidden",
            )
        return Terminal(f"{what}: Cloud Storage answered {status}: {said.message}", code="refused")


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


def _said(content: bytes) -> _Error:
    try:
        said = msgspec.json.decode(content, type=_Refused).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Error("it gave no reason")
    return _Error(said.message[:300], said.errors)
