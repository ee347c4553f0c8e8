"""What a processor is, and everything it may touch.

@processor("genai.payg_usage")
def payg_usage(step: StepContext, config: PaygUsageConfig) -> StepResult: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol, get_type_hints

from shared.core.lineage import Evidence, LoadReceipt, Slice, Writer
from shared.core.providers import Provider
from shared.core.record import Record
from shared.core.run import Summary
from shared.http import Http
from shared.objects import ObjectStore
from shared.subscriptions import Revision
from shared.vault import Credential
from shared.warehouse import Batches, Files, Table, Warehouse


class StepLog(Protocol):
    """The step's own log: events with fields, never a secret, never a row of data."""

    def info(self, event: str, **fields: object) -> None: ...

    def warning(self, event: str, **fields: object) -> None: ...

    def error(self, event: str, **fields: object) -> None: ...


class StepContext(Protocol):
    """One attempt of one step, as its processor sees it. Dates are inclusive UTC days."""

    org: str
    dataset: str
    pipeline_id: str
    provider: str
    run_id: str
    step_id: str
    attempt: int
    start_date: date
    end_date: date
    credential_id: str
    deadline: datetime
    writer: Writer

    @property
    def log(self) -> StepLog: ...

    @property
    def warehouse(self) -> Warehouse: ...

    @property
    def registry(self) -> Provider:
        """The entry of the run's provider in the registry. Raises Terminal when it has none."""

    @property
    def http(self) -> Http:
        """The way to the APIs of the run's provider: to `registry.base_url(…)`, within its limits."""

    def check(self) -> None:
        """Raises Stopped when the attempt was taken away, Transient when its time is over."""

    def now(self) -> datetime: ...

    def credential(self) -> Credential:
        """The run's credential, opened. Raises Terminal when it is missing or does not open."""

    def token(self, scope: str) -> str:
        """An access token of Google's for `scope`, of the service account that the credential is.

        Good for some minutes more. Raises Terminal `bad_credential` where Google gives it none.
        """

    def objects(self, url: str) -> ObjectStore:
        """The store that `url` names (`s3://…`, `az://…`, `oci://…`, `gs://…` or `file:…`), opened with the credential."""

    def subscriptions(self) -> Iterator[Revision]:
        """Every subscription of the organization as it stands now, by its name."""

    def slice(self, run_date: date) -> Slice:
        """The slice of this pipeline and credential at that date."""

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
        """`Warehouse.load` with this step's dataset, writer and check; `options` are those of Load."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a processor returns: a summary for people, evidence for those who must trust it."""

    summary: Summary
    evidence: Evidence


ProcessorFunction = Callable[[StepContext, Any], StepResult]


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A processor as the engine knows it. `config` is the type that the step's `config` must have."""

    ps_type: str
    config: type[Record]
    run: ProcessorFunction
    needs_credential: bool
    description: str


def processor(
    ps_type: str, *, needs_credential: bool = True
) -> Callable[[ProcessorFunction], Processor]:
    """Makes a function a processor; the annotation of its second parameter is its configuration."""

    def made(function: ProcessorFunction) -> Processor:
        hints = get_type_hints(function)
        config = hints.get("config")
        if not (isinstance(config, type) and issubclass(config, Record)):
            raise TypeError(f"{ps_type}: the parameter `config` must be annotated with a Record")
        return Processor(
            ps_type=ps_type,
            config=config,
            run=function,
            needs_credential=needs_credential,
            description=(function.__doc__ or "").strip(),
        )

    return made
