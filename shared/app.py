"""Everything a use case may touch, in one value: the ports, the clock, chance, and identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.accounts import Accounts
from shared.bus import Bus
from shared.core.pipeline import Pipeline
from shared.core.providers import Providers
from shared.core.run import Timing
from shared.http import HttpClient
from shared.jobs import Jobs
from shared.log import Log
from shared.objects import ObjectStore
from shared.schedules import Schedules
from shared.state import RunStore
from shared.step import Processor
from shared.subscriptions import Subscriptions
from shared.vault import Credential, Vault
from shared.warehouse import Warehouse


class PipelineCatalog(Protocol):
    """The pipelines of this release; `shared.engine.catalog` has it."""

    def get(self, address: str) -> Pipeline:
        """Raises NotFound, with the near misses."""

    def addresses(self) -> list[str]:
        """Every address, sorted."""


@dataclass(frozen=True, kw_only=True)
class App:
    """Made by `bootstrap` only. What is expensive to open is a function that opens it once.

    Without `jobs` a step runs in place, however long it takes. `callers` takes the header Authorization
    of a push or a tick and the URL of its endpoint, and raises where it is not one of ours; without it
    whoever reaches the endpoint is let in: embedded there is none, and emulators sign nothing.
    `requests_per_minute` are those of one key, `failed_keys_per_minute` those of one address with keys
    that are not valid, at one process of the API; `followers` may wait for lines there at once.
    """

    runs: RunStore
    bus: Bus
    accounts: Accounts
    subscriptions: Subscriptions
    schedules: Schedules
    vault: Vault
    warehouse: Callable[[], Warehouse]
    objects: Callable[[str, str, Callable[[], Credential]], ObjectStore]
    http: Callable[[], HttpClient]
    catalog: Callable[[], PipelineCatalog]
    providers: Callable[[], Providers]
    processors: Mapping[str, Processor]
    timing: Timing
    project_id: str
    environment: str
    code_version: str
    log: Log
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    random: Callable[[], float]
    new_id: Callable[[], str]
    jobs: Jobs | None = None
    callers: Callable[[str, str], None] | None = None
    requests_per_minute: int = 12_000
    failed_keys_per_minute: int = 60
    followers: int = 4  # half the threads of `pipelines dev`
