"""The composition root: the only place that names backends, and that has a clock, chance and identity.

`engine(environ)` gives a function its engine: the one that its caller put into the request, or the
one of this process, opened by the settings with the first request. Nothing happens on import.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from shared.engine import Engine
from shared.errors import ConfigError, Fault, Unreadable
from shared.settings import Settings, read_settings
from shared.step import Processor

if TYPE_CHECKING:
    from shared.core.providers import Providers
    from shared.engine.catalog import Catalog
    from shared.http.client import Urllib3Client

T = TypeVar("T")

ENGINE_KEY = "pipelines.engine"
COMPILED_CATALOG = ".catalog.json"  # in the folder of the pipelines of an image


def engine(environ: Mapping[str, Any]) -> Engine:
    """The engine for a request. Raises ConfigError or Unavailable when it cannot be opened."""
    given: Engine | None = environ.get(ENGINE_KEY)
    return _of_process() if given is None else given


def utc_now() -> datetime:
    """The clock of every process that is not a test."""
    return datetime.now(UTC)


def new_id() -> str:
    """A random id: an owner, a writer, or a run without an idempotency key."""
    return "r" + os.urandom(13).hex()[:25]


def once(make: Callable[[], T]) -> Callable[[], T]:
    """`make`, called when the value is first needed, by one thread; a failure is tried again."""
    lock = threading.Lock()
    made: list[T] = []

    def get() -> T:
        if not made:
            with lock:
                if not made:
                    made.append(make())
        return made[0]

    return get


class _Closing(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closing)


class AtFirstUse(Generic[C]):
    """Makes what is expensive when it is first asked for, and closes it if it was."""

    def __init__(self, make: Callable[[], C]) -> None:
        self._made: list[C] = []
        self._get = once(lambda: self._keep(make()))

    def __call__(self) -> C:
        return self._get()

    def close(self) -> None:
        for made in self._made:
            made.close()

    def _keep(self, made: C) -> C:
        self._made.append(made)
        return made


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Time and chance, so that a test can bring its own."""

    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    new_id: Callable[[], str] = new_id


def _open(settings: Settings) -> Engine:
    if settings.cloud is None:
        from shared.bootstrap.embedded import open_embedded  # noqa: PLC0415  # one mode is used

        return open_embedded(settings).engine
    from shared.bootstrap.cloud import open_cloud  # noqa: PLC0415  # one mode is used

    return open_cloud(settings, settings.cloud).engine


# Requests that come first at once wait for one of them: a folder is taken once.
_of_process = once(lambda: _open(read_settings()))


def function(name: str) -> Callable[[Any], Any]:
    """The function of that name, resolved through `main` as functions-framework resolves it."""
    handler: Callable[[Any], Any] = getattr(import_module("main"), name)
    return handler


def read_text(path: Path) -> tuple[str, str]:
    """The content of a file of the configuration, and its name. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Fault(str(path), f"cannot be read: {error}")]) from error


def default_processors() -> Mapping[str, Processor]:
    """The processors of this release."""
    from shared.processors import PROCESSORS  # noqa: PLC0415  # not every function needs them

    return PROCESSORS


def load_catalog(configs: Path, processors: Mapping[str, Processor]) -> Catalog:
    """The pipelines of a folder, or what was compiled of them. Raises ConfigError with every fault."""
    from shared.engine.catalog import Catalog  # noqa: PLC0415  # not every function needs it

    compiled = configs / COMPILED_CATALOG
    try:
        raw = compiled.read_bytes()
    except FileNotFoundError:
        return Catalog.load(configs, processors)
    try:
        return Catalog.from_compiled(raw)
    except Unreadable as error:
        raise ConfigError([Fault(str(compiled), f"{error}; build the image anew")]) from error


def load_providers(configs: Path) -> Providers:
    """The registry of a folder's providers. Raises ConfigError with every fault."""
    from shared.core.providers import FILE, parse_providers  # noqa: PLC0415  # reads YAML

    text, file = read_text(configs / FILE)
    return parse_providers(text.encode(), file)


def open_http(clock: Clock) -> Urllib3Client:
    """The HTTP of this process's steps."""
    from shared.http.client import Urllib3Client  # noqa: PLC0415  # most steps ask no API

    return Urllib3Client(now=clock.now, monotonic=clock.monotonic)
