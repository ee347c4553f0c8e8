"""The whole system under test: embedded backends over a folder, its API called over HTTP.

The end-to-end tests use nothing but what is here, so that the same tests can run on other backends.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import urllib3

from shared.app import App
from shared.bootstrap import Clock
from shared.bootstrap.embedded import Embedded, open_embedded
from shared.cli.dev import Server
from shared.core.run import EMBEDDED_TIMING, Timing
from shared.log import Level
from shared.settings import PLATFORM_KEY_FILE, ROOT, Settings
from shared.step import Processor

WAIT_SECONDS = 60.0
PIPELINES = Path(__file__).parents[1] / "pipelines"


class Reply(NamedTuple):
    """An answer of the API. `json` is None for an empty body."""

    status: int
    json: Any
    headers: Mapping[str, str]


class System:
    """Open as long as the `with`; `restart` ends the process's part of it and begins again."""

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
        configs = folder / "configs"
        if not configs.exists():
            shutil.copytree(ROOT / "configs", configs)
            shutil.copytree(PIPELINES, configs, dirs_exist_ok=True)
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
        self._http = urllib3.PoolManager(retries=False, maxsize=64)

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

    @property
    def app(self) -> App:
        return self.embedded.engine.app

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

    def _open(self) -> None:
        self.embedded: Embedded = open_embedded(self.settings, **self._options)  # type: ignore[arg-type]
        self.platform_key = (self.settings.data / PLATFORM_KEY_FILE).read_text()
        self._server = Server(self.embedded, "127.0.0.1", 0)
        self.url = self._server.url + "/api/v1"

    def _close(self) -> None:
        self._server.close()
        self._http.clear()
        self.embedded.close()
