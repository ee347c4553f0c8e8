"""A step to run a processor in: real store, warehouse and HTTP, no engine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import msgspec

from shared.bootstrap import load_providers
from shared.core.lineage import Fence, LoadReceipt, Slice, Writer
from shared.core.providers import Provider, Rate
from shared.core.secret import Secret
from shared.engine.tokens import token_exchange
from shared.errors import Terminal
from shared.http import Caller, Http
from shared.http.client import Urllib3Client
from shared.objects import ObjectStore
from shared.objects.files import FolderStore
from shared.processors import PROCESSORS
from shared.service_account import Tokens
from shared.settings import ROOT
from shared.step import StepContext, StepResult
from shared.subscriptions import Revision
from shared.vault import Credential, CredentialInfo
from shared.warehouse import Batches, Files, Load, Table, Warehouse

CREATED = datetime(2025, 3, 1, 6, tzinfo=UTC)


@dataclass
class Lines:
    """A log that can be looked at."""

    lines: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def info(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    warning = info
    error = info


@dataclass
class BareStep:
    """The StepContext of an attempt that no engine made."""

    root: Path
    warehouse: Warehouse
    start_date: date
    end_date: date
    org: str = "acme"
    dataset: str = "acme_test"
    pipeline_id: str = "aws_cost_billing"
    provider: str = "aws"
    run_id: str = "r1"
    step_id: str = "extract"
    attempt: int = 1
    credential_id: str = "main"
    run_created_at: datetime = CREATED
    deadline: datetime = datetime(2099, 1, 1, tzinfo=UTC)
    secret: Secret = field(default_factory=lambda: Secret("{}"))
    base_urls: Mapping[str, str] = field(default_factory=dict)  # in place of the registry's
    limits: Rate | None = None  # likewise
    entered: Sequence[Revision] = ()
    log: Lines = field(default_factory=Lines)
    checks: int = 0
    writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        fence = Fence(self.run_created_at, self.run_created_at, self.attempt)
        self.writer = Writer(self.run_id, self.step_id, fence)

    @cached_property
    def registry(self) -> Provider:
        found = load_providers(ROOT / "configs").get(self.provider)
        return msgspec.structs.replace(
            found,
            base_urls={**found.base_urls, **self.base_urls},
            limits=self.limits or found.limits,
        )

    @cached_property
    def http(self) -> Http:
        secrets = tuple(self.registry.secrets_of(self.secret))
        caller = caller_of(self.registry, check=self.check, secrets=lambda: secrets, log=self.log)
        return Urllib3Client(now=lambda: datetime.now(UTC), monotonic=time.monotonic).open(caller)

    def check(self) -> None:
        self.checks += 1

    def now(self) -> datetime:
        return self.run_created_at

    def credential(self) -> Credential:
        info = CredentialInfo(
            org=self.org,
            provider=self.provider,
            credential_id=self.credential_id,
            version=3,
            active=True,
            created_at=CREATED,
            updated_at=CREATED,
        )
        return Credential(info, self.secret)

    def token(self, scope: str) -> str:
        exchange = token_exchange(self.http, self.registry)
        return Tokens(lambda: self.secret, scope, exchange, now=lambda: datetime.now(UTC)).get()

    def objects(self, url: str) -> ObjectStore:
        scheme, _, path = url.partition(":")
        if scheme != "file":
            raise Terminal(f"{url}: only folders here", code="bad_source")
        return FolderStore(self.root / path)

    def subscriptions(self) -> Iterator[Revision]:
        return iter(self.entered)

    def slice(self, run_date: date) -> Slice:
        return Slice(self.org, self.pipeline_id, self.credential_id, run_date)

    def load(
        self,
        table: Table,
        source: Files | Batches,
        *,
        covers: frozenset[Slice],
        source_version: str,
        source_at: datetime,
        **options: Any,
    ) -> LoadReceipt:
        fence = self.writer.fence._replace(source_at=source_at)
        return self.warehouse.load(
            Load(
                dataset=self.dataset,
                table=table,
                covers=covers,
                writer=self.writer._replace(fence=fence),
                source=source,
                source_version=source_version,
                source_at=source_at,
                check=self.check,
                **options,
            )
        )

    def another(self, **changes: Any) -> Self:
        """A step of another run or attempt, over the same source and warehouse."""
        return replace(self, log=Lines(), checks=0, **changes)


def run(ps_type: str, step: StepContext, config: Mapping[str, object]) -> StepResult:
    """Runs a processor with the configuration as a YAML file would give it."""
    processor = PROCESSORS[ps_type]
    return processor.run(step, msgspec.convert(config, processor.config))


def caller_of(registry: Provider, **changes: Any) -> Caller:
    """Somebody with a minute left whom nobody stops."""
    asked: dict[str, Any] = {
        "account": (registry.name, "acme", "main"),
        "addresses": tuple(registry.base_urls.values()),
        "rate": registry.limits,
        "left": lambda: 60.0,
        "check": lambda: None,
        "on_stop": lambda _: None,
        "secrets": lambda: (),
        "log": Lines(),
    }
    return Caller(**{**asked, **changes})
