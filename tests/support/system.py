"""The whole system under test, its API called over HTTP: on the embedded backends, or on others.

The end-to-end tests use nothing but `System`, so that the same tests run on every set of backends.
"""

from __future__ import annotations

import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import urllib3

from shared.app import App
from shared.bootstrap import Clock
from shared.bootstrap.embedded import Embedded, open_embedded
from shared.cli.dev import Server
from shared.core.providers import FILE
from shared.core.run import EMBEDDED_TIMING, Timing
from shared.log import Level
from shared.settings import PLATFORM_KEY_FILE, ROOT, Settings
from shared.step import Processor

WAIT_SECONDS = 150.0
PIPELINES = Path(__file__).parents[1] / "pipelines"
ENGINE = """
engine: # the provider of the tests' own pipelines
  title: Engine
  category: saas
  credentials: {bare: {description: Nothing to log in with.}}
"""


def configs_in(folder: Path) -> Path:
    """The configs of this release with the pipelines of the tests, in the folder; made once."""
    configs = folder / "configs"
    if not configs.exists():
        shutil.copytree(ROOT / "configs", configs)
        shutil.copytree(PIPELINES, configs, dirs_exist_ok=True)
        with (configs / FILE).open("a") as file:
            file.write(ENGINE)
    return configs


class Reply(NamedTuple):
    """An answer of the API. `json` is None for an empty body."""

    status: int
    json: Any
    headers: Mapping[str, str]


class System(ABC):
    """Open as long as the `with`; `restart` ends its processes, or its part of this one, and begins again."""

    url: str
    platform_key: str
    settings: Settings

    def __init__(self) -> None:
        self._http = urllib3.PoolManager(retries=False, maxsize=64)

    @property
    @abstractmethod
    def app(self) -> App:
        """The ports of the system, as one of its functions has them."""

    @abstractmethod
    def objects(self, org: str) -> Path:
        """The folder whose files are the organization's objects."""

    @abstractmethod
    def source(self, org: str, path: str) -> dict[str, Any]:
        """A credential for an export at `path` of the organization's objects: its secret and metadata."""

    @abstractmethod
    def foreign_sources(self, org: str, there: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Sources that are not the organization's to read, such as the objects of another at `there`.

        Each with the secret of the credential that names it, if it needs one.
        """

    @abstractmethod
    def at_rest(self) -> Iterator[bytes]:
        """Everything that the system has stored, but for the warehouse."""

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        self._http.clear()

    def restart(self) -> None:
        self._close()
        self._open()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request, as the operator unless `key` says otherwise ('' sends none)."""
        sent = dict(headers or {})
        chosen = self.platform_key if key is None else key
        if chosen:
            sent["X-API-Key"] = chosen
        raw: bytes | None = None
        if body is not None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        answer = self._http.request(method, self.url + path, body=raw, headers=sent)
        return Reply(
            answer.status,
            json.loads(answer.data) if answer.data else None,
            dict(answer.headers),
        )

    def organization(self, slug: str, plan: str = "scale") -> str:
        """A new organization; the text of a key of it that may read and execute."""
        assert self.call("POST", "/admin/orgs", {"slug": slug, "plan": plan}).status == 201
        made = self.call("POST", f"/admin/orgs/{slug}/keys", {"name": "tests"})
        assert made.status == 201
        text: str = made.json["api_key"]
        return text

    def ended(self, org: str, run_id: str) -> dict[str, Any]:
        """The run's status once it has ended and its quota is given back."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            reply = self.call("GET", f"/pipelines/status/{org}/{run_id}")
            assert reply.status == 200, reply
            if reply.json["status"] in ("completed", "failed", "cancelled"):
                stored = self.app.runs.run(run_id)
                if stored is not None and stored.run.effects_done:
                    found: dict[str, Any] = reply.json
                    return found
            assert time.monotonic() < deadline, reply.json
            time.sleep(0.01)

    def run(self, org: str, address: str, body: Any = None, **options: Any) -> dict[str, Any]:
        """Starts a run and waits for its end."""
        reply = self.call("POST", f"/pipelines/run/{org}/{address}", body or {}, **options)
        assert reply.status == 202, reply
        return self.ended(org, reply.json["run_id"])


class EmbeddedSystem(System):
    """One process, over a folder."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        timing: Timing = EMBEDDED_TIMING,
        processors: Mapping[str, Processor] | None = None,
        wrap: Callable[[App], App] = lambda app: app,
        pipelines: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        configs = configs_in(folder)
        for path, text in (pipelines or {}).items():
            (configs / path).parent.mkdir(parents=True, exist_ok=True)
            (configs / path).write_text(text)
        self.settings = Settings(
            data=folder / "data",
            configs=configs,
            objects=folder / "objects",
            environment="test",
            step_threads=4,
            log_level=Level.ERROR,
        )
        self._options = {
            "clock": clock,
            "timing": timing,
            "processors": processors,
            "wrap": wrap,
        }

    @property
    def app(self) -> App:
        return self.embedded.engine.app

    def objects(self, org: str) -> Path:
        return self.settings.objects / org

    def source(self, org: str, path: str) -> dict[str, Any]:
        return {"metadata": {"source": f"file:{path}", "export_name": "costs"}}

    def foreign_sources(self, org: str, there: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        link = self.objects(org) / "link"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(there)
        beside = there.relative_to(self.settings.objects)
        for path in (f"../{beside}", str(there), "/etc", "link", "nowhere"):
            yield f"file:{path}", {}
        yield "gs://bucket/exports", {}

    def at_rest(self) -> Iterator[bytes]:
        for file in self.settings.data.iterdir():
            if file.is_file():
                yield file.read_bytes()

    def _open(self) -> None:
        self.embedded: Embedded = open_embedded(self.settings, **self._options)  # type: ignore[arg-type]
        self.platform_key = (self.settings.data / PLATFORM_KEY_FILE).read_text()
        self._server = Server(self.embedded, "127.0.0.1", 0)
        self.url = self._server.url + "/api/v1"

    def _close(self) -> None:
        self._server.close()
        self._http.clear()
        self.embedded.close()
