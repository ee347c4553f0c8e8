"""Object stores over HTTP: what is the same at every provider.

Asking, asking again, and keeping what comes. A provider says where things are, how a request is signed,
how a page of a listing reads, and what a refusal means. By urllib3, which processors load anyway:
`docs/adr/0010-object-stores-over-rest.md` has the reasons and the figures.
"""

from __future__ import annotations

import re
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import IO, Generic, NamedTuple, TypeVar
from urllib.parse import quote
from xml.etree import ElementTree as ET

import msgspec
import urllib3
from urllib3 import BaseHTTPResponse

from shared.core.secret import Secret
from shared.errors import StepError, Terminal, Transient
from shared.objects import ObjectInfo

T = TypeVar("T")

TRIES = 3
TIMEOUT = urllib3.Timeout(connect=5, read=30)
EARLY = timedelta(minutes=5)  # a token is replaced before its end: a large file may take as long

_FIRST_PAUSE = 0.5
_PAGE = 1000  # the most that all of them give at a time
_CHUNK = 1024 * 1024
_MAX_NAME_BYTES = 1024
_MAX_REASON_BYTES = 65_536
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class Page(NamedTuple):
    """One page of a listing: objects under their full names, and the token of the page after it."""

    items: list[ObjectInfo]
    token: str


class Request(NamedTuple):
    """A request as it is sent: signed."""

    url: str
    headers: Mapping[str, str]


class Damaged(Exception):
    """An answer did not arrive as it was sent."""


class RestStore(ABC):
    """An `ObjectStore` below a folder of a bucket, which keys then do not name.

    A name that ends with `/` is a console's stand-in for an empty folder, and no object here.
    """

    missing = "there is no such bucket; check the source"
    slashes = "/"  # of a name that stand in its path as they are

    def __init__(
        self,
        name: str,
        folder: str | None,
        *,
        sleep: Callable[[float], None],
        random: Callable[[], float],
    ) -> None:
        """`name` is what people call the bucket."""
        self.name = name
        folder = (folder or "").strip("/")
        self.root = f"{folder}/" if folder else ""
        self._sleep = sleep
        self._random = random
        # Without its own tries urllib3 follows no redirect either: a signature is for one host alone.
        self.pool = urllib3.PoolManager(timeout=TIMEOUT, retries=False)

    # -- what a provider says

    @abstractmethod
    def page_url(self, prefix: str, token: str, size: int) -> str:
        """Where a page of the names that begin with `prefix` is. Raises as `signed` does."""

    @abstractmethod
    def page(self, content: bytes) -> Page:
        """Raises ValueError or LookupError for what is no page."""

    @abstractmethod
    def object_url(self, path: str) -> str:
        """Where the object of that (quoted) name is. Raises as `signed` does."""

    @abstractmethod
    def signed(self, url: str) -> Request:
        """The GET of `url`, signed. Raises Terminal `bad_credential`, Transient."""

    @abstractmethod
    def refusal(self, what: str, answer: BaseHTTPResponse, content: bytes) -> StepError:
        """What it means that the provider refused; it may be Transient."""

    def intact(self, answer: BaseHTTPResponse) -> Iterator[bytes]:
        """The body in pieces. Raises Damaged after the last when it is not what was announced."""
        size = 0
        while chunk := answer.read(_CHUNK, decode_content=False):
            size += len(chunk)
            yield chunk
        if answer.headers.get("content-length") != str(size):
            raise Damaged

    # -- what a store does

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if self._named(prefix + "x") is None:
            return
        for item in self._items(prefix, _PAGE):
            if self._named(item.key) is not None:
                yield item

    def info(self, key: str) -> ObjectInfo | None:
        if self._named(key) is None:
            return None
        # No name sorts before its own beginning, and a listing says more exactly when and what.
        first = next(self._items(key, 1), None)
        return first if first is not None and first.key == key else None

    def read(self, key: str, limit: int) -> bytes:
        def whole(answer: BaseHTTPResponse) -> bytes:
            content = bytearray()
            for chunk in self.intact(answer):
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
        def copied(answer: BaseHTTPResponse) -> None:
            file.seek(0)
            file.truncate()  # what another try has left
            for chunk in self.intact(answer):
                file.write(chunk)
            file.flush()

        file: IO[bytes]
        with ExitStack() as stack:
            with _kept_here(key):
                file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="object-"))
                self._content(key, copied)
            yield Path(file.name)

    def _named(self, key: str) -> str | None:
        """The object's full name, or None where there can be none."""
        name = self.root + key
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            return None
        if not key or key.endswith("/") or size > _MAX_NAME_BYTES:
            return None
        # What would be a way in a path is no name: something between here and there might walk it.
        steps = name.split("/") if self.slashes else [name]
        if any(step in {".", ".."} for step in steps):
            return None
        return None if any(letter in name for letter in "\0\r\n") else name

    def _items(self, prefix: str, size: int) -> Iterator[ObjectInfo]:
        token = ""
        while True:
            found = self._get(
                self.name, partial(self.page_url, self.root + prefix, token, size), self._page
            )
            if found is None:
                raise Terminal(f"{self.name}: {self.missing}", code="source_missing")
            for item in found.items:
                yield item._replace(key=item.key.removeprefix(self.root))
            token = found.token
            if not token:
                return

    def _page(self, answer: BaseHTTPResponse) -> Page:
        content = answer.read(decode_content=True)
        try:
            return self.page(content)
        except (ValueError, LookupError, TypeError, AttributeError, ET.ParseError) as error:
            raise Damaged from error

    def _content(self, key: str, read: Callable[[BaseHTTPResponse], T]) -> T:
        name = self._named(key)
        if name is not None:
            path = quote(name, safe=self.slashes)
            found = self._get(key, lambda: self.object_url(path), lambda answer: (read(answer),))
            if found is not None:
                return found[0]
        raise Terminal(
            f"{key}: there is no such object in {self.name}/{self.root}", code="object_missing"
        )

    def _get(
        self, what: str, url: Callable[[], str], read: Callable[[BaseHTTPResponse], T]
    ) -> T | None:
        """What `read` makes of the answer; None when there is no such thing.

        Raises Terminal `forbidden`, `bad_credential` or, for any other refusal, `refused`; Transient
        `unreachable` when no try was answered in full.
        """
        tries = 0
        while True:
            tries += 1
            try:
                return self._once(what, url(), read)
            except urllib3.exceptions.HTTPError as error:
                failure = unreachable(f"{what}: no answer ({type(error).__name__})")
            except (Damaged, msgspec.DecodeError, UnicodeDecodeError):
                failure = unreachable(f"{what}: arrived damaged")
            except Transient as error:
                failure = error
            if tries == TRIES or failure.retry_after is not None:
                raise failure
            self._sleep(_FIRST_PAUSE * 2 ** (tries - 1) * (0.5 + self._random()))

    def _once(self, what: str, url: str, read: Callable[[BaseHTTPResponse], T]) -> T | None:
        request = self.signed(url)
        # What is kept compressed comes as it is kept, so that size and checksum are the object's own.
        headers = {"accept-encoding": "gzip", **request.headers}
        sent = self.pool.request("GET", request.url, headers=headers, preload_content=False)
        with closing(sent) as answer:
            if answer.status == HTTPStatus.OK:
                return read(answer)
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status in _BUSY:
                raise unreachable(f"{what}: {self.name} answered {answer.status}", _later(answer))
            content = answer.read(_MAX_REASON_BYTES, decode_content=True)
            raise self.refusal(what, answer, content)


class Renewed(Generic[T]):
    """A value that is good for a time, made when it is first asked for, and again shortly before its end."""

    def __init__(
        self, make: Callable[[], tuple[T, datetime | None]], now: Callable[[], datetime]
    ) -> None:
        """`make` gives the value and its end; None: it has none."""
        self._make = make
        self._now = now
        self._mutex = threading.Lock()
        self._kept: tuple[T, datetime | None] | None = None

    def get(self) -> T:
        with self._mutex:
            if self._kept is None or not self._good(self._kept[1]):
                self._kept = self._make()
            return self._kept[0]

    def _good(self, end: datetime | None) -> bool:
        return end is None or self._now() < end - EARLY


def query(asked: Mapping[str, str]) -> str:
    """The parameters in the one form and order in which they can be signed."""
    return "&".join(
        f"{quote(name, safe='-_.~')}={quote(text, safe='-_.~')}"
        for name, text in sorted(asked.items())
    )


def opened(secret: Secret, kind: type[T], what: str) -> T:
    """The fields of a credential. Raises Terminal, which repeats nothing of what it got."""
    try:
        return msgspec.json.decode(secret.reveal(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise bad_credential(f"the credential's secret has not the fields of {what}") from None


def bad_credential(said: str) -> Terminal:
    """What waiting does not mend, but another credential does."""
    return Terminal(f"{said}; store the credential again", code="bad_credential")


def unreachable(said: str, retry_after: timedelta | None = None) -> Transient:
    """What waiting may mend."""
    return Transient(said, code="unreachable", retry_after=retry_after)


def xml_reason(content: bytes) -> tuple[str, str]:
    """Code and message of a refusal in XML, without the request ids in the lines after the first."""
    try:
        error = ET.fromstring(content)  # noqa: S314 -- see the import
    except ET.ParseError:
        return "", "it gave no reason"
    message = (error.findtext(".//{*}Message") or "it gave no reason").strip()
    return error.findtext(".//{*}Code") or "", message.splitlines()[0][:300]


def text_of(element: ET.Element, name: str) -> str:
    """The text of a child. Raises LookupError when there is none."""
    found = element.findtext(f"{{*}}{name}")
    if found is None:
        raise LookupError(name)
    return found


def _later(answer: BaseHTTPResponse) -> timedelta | None:
    seconds = answer.headers.get("retry-after", "")
    return timedelta(seconds=int(seconds)) if re.fullmatch(r"[0-9]{1,5}", seconds) else None


@contextmanager
def _kept_here(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Transient(
            f"{key}: this machine cannot keep it: {error.strerror}", code="no_space"
        ) from error
